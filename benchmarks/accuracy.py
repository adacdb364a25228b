"""One table of what post-training quantization costs: qmnv3's ladder and its peers, same photos, same judge.

`python -m benchmarks.accuracy --model small --weights W --calib DIR --val DIR --out DIR`, from the repository
root. Writes OUT/accuracy.md, accuracy.json and accuracy.svg. Killed and started again, it goes on after the
last contender it finished. benchmarks/README.md tells how to make the peers' environments.
"""

import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.accuracy_contenders import CONTENDERS, PARENT, PARENT_FILES, Contender, Inputs
from benchmarks.accuracy_plot import write_plot
from benchmarks.accuracy_report import markdown
from benchmarks.accuracy_run import Judging, Result, run_contender
from qmnv3.environment import environment
from qmnv3.files import atomic_file, write_json

Python = Annotated[Path | None, typer.Option(help="Interpreter; default .venv-<name>/bin/python.")]


def main(
    model: Annotated[str, typer.Option(help="As in `qmnv3 ptq --model`: small, v2, ...")],
    weights: Annotated[Path, typer.Option(exists=True, dir_okay=False, help="Checkpoint of the model.")],
    calib: Annotated[Path, typer.Option(exists=True, file_okay=False, help="Photos, DIR/CLASS/IMAGE.")],
    val: Annotated[Path, typer.Option(exists=True, file_okay=False, help="Labelled photos, likewise.")],
    out: Annotated[Path, typer.Option(file_okay=False, help="Folder for results, table and plot.")],
    images: Annotated[
        int, typer.Option(min=1, help="Photos to calibrate on; the others are held out.")
    ] = 200,
    seed: Annotated[int, typer.Option(min=0, help="Draws the photos.")] = 0,
    runs: Annotated[int, typer.Option(min=1, help="Timed runs of each model.")] = 100,
    only: Annotated[list[str] | None, typer.Option(help="Contender to run; may be repeated.")] = None,
    again: Annotated[bool, typer.Option("--again", help="Run contenders that are finished, too.")] = False,
    limit_minutes: Annotated[float, typer.Option(min=0, help="Longest time for one process.")] = 60,
    tensorflow_python: Python = None,
    torchao_python: Python = None,
    nncf_python: Python = None,
) -> None:
    """Quantize with every contender and judge what it wrote; one contender's failure stops no other."""
    chosen = _chosen(only)
    pythons = {"tensorflow": tensorflow_python, "torchao": torchao_python, "nncf": nncf_python}
    out = out.resolve()
    inputs = Inputs(model, weights.resolve(), calib.resolve(), images, seed, out / "work" / PARENT.name)
    judging = Judging(val.resolve(), runs, limit_minutes * 60)
    setting = _setting(inputs, judging)
    for contender in chosen:
        asked_again = again and (not only or contender.name in only)
        if not asked_again and _is_usable(contender, inputs, out, setting):
            print(f"{contender.name}: finished earlier")
            continue
        print(f"{contender.name}: ...", flush=True)
        python = _interpreter(contender, pythons)
        result = run_contender(contender, inputs, judging, python, out / "work" / contender.name)
        write_json(_result_file(out, contender), {"setting": setting, **result})
        print(f"{contender.name}: {result['status']} {result.get('error', '')}")
        if contender.name == PARENT.name and result["status"] != "done":
            sys.exit("error: without the float parent there is nothing to compare; see above")
    _report(out, setting)


def _chosen(only: Sequence[str] | None) -> list[Contender]:
    names = [contender.name for contender in CONTENDERS]
    unknown = [name for name in only or () if name not in names]
    if unknown:
        raise typer.BadParameter(f"--only {unknown[0]}: choose from {', '.join(names)}")
    # All others start from the float parent, which is the first.
    return [c for c in CONTENDERS if not only or c.name in (*only, PARENT.name)]


def _interpreter(contender: Contender, pythons: dict[str, Path | None]) -> Path:
    """Absolute, but with links kept: a virtual environment's python is a link to the system's."""
    if contender.environment is None:
        return Path(sys.executable)
    chosen = pythons[contender.environment] or Path(f".venv-{contender.environment}", "bin", "python")
    return Path.cwd() / chosen


def _setting(inputs: Inputs, judging: Judging) -> dict[str, Any]:
    """What two results must share to stand in one table."""
    return {
        "model": inputs.model,
        "weights": str(inputs.weights),
        "weights_sha256": hashlib.sha256(inputs.weights.read_bytes()).hexdigest(),
        "calib": str(inputs.calib),
        "images": inputs.images,
        "seed": inputs.seed,
        "val": str(judging.val),
        "runs": judging.runs,
    }


def _is_usable(contender: Contender, inputs: Inputs, out: Path, setting: dict[str, Any]) -> bool:
    """Whether the contender was done under the same setting, by the same commit if it is ours.

    The parent's files must be there, too.
    """
    result = _read(out, contender)
    done = result is not None and result["status"] == "done" and result["setting"] == setting
    if result is not None and contender.distribution == "qmnv3":
        done = done and result["environment"]["git_commit"] == environment()["git_commit"]
    files = PARENT_FILES if contender.name == PARENT.name else ()
    return done and all((inputs.parent / name).is_file() for name in files)


def _read(out: Path, contender: Contender) -> Result | None:
    path = _result_file(out, contender)
    result: Result | None = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    return result


def _result_file(out: Path, contender: Contender) -> Path:
    return out / "results" / f"{contender.name}.json"


def _report(out: Path, setting: dict[str, Any]) -> None:
    """Table and plot of everything measured so far under `setting`, failures included."""
    found = [_read(out, contender) for contender in CONTENDERS]
    results = [result for result in found if result is not None and result["setting"] == setting]
    head = {"command": "benchmarks.accuracy", "setting": setting, "environment": environment()}
    write_json(out / "accuracy.json", {**head, "contenders": results})
    text = markdown(setting, results)
    with atomic_file(out / "accuracy.md") as temporary:
        temporary.write_text(text, encoding="utf-8")
    print(text)
    write_plot(out / "accuracy.svg", results)


if __name__ == "__main__":
    typer.run(main)
