"""Runs one contender of benchmarks.accuracy, each step in a process of its own, and keeps its result."""

import json
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.accuracy_contenders import FLOAT_ONNX, FLOAT_PT2, FLOAT_TFLITE, Contender, Inputs
from benchmarks.accuracy_measure import Task
from qmnv3.environment import environment
from qmnv3.files import write_json

ROOT = Path(__file__).parents[1]
Result = dict[str, Any]


class StepError(Exception):
    """A contender's process failed or took too long: its last words, and where the others are."""


@dataclass(frozen=True)
class Judging:
    """How models are judged: labelled images, timed runs, and how long one process may take."""

    val: Path
    runs: int
    limit_s: float


def run_contender(
    contender: Contender, inputs: Inputs, judging: Judging, python: Path, folder: Path
) -> Result:
    """Quantize and judge in `folder`; a failure is a result too, with its reason.

    `status` is "done", "failed" or "not installed"; `seconds` are those of the timed steps, processes
    starting included, None where there are none.
    """
    head = {
        "contender": contender.name,
        "label": contender.label,
        "distribution": contender.distribution,
        "environment": environment(),
    }
    if not python.is_file():
        return {**head, "status": "not installed", "error": how_to_install(contender)}
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "log.txt"
    log.unlink(missing_ok=True)
    try:
        seconds = [
            (step.timed, run_step(step.command, log, judging.limit_s))
            for step in contender.steps(inputs, folder, str(python))
        ]
        rows = [_judge(folder, name, inputs, judging, python) for name in contender.models]
    except StepError as error:
        return {**head, "status": "failed", "error": str(error)}
    return {
        **head,
        "status": "done",
        "version": _version(python, contender.distribution),
        "seconds": sum(taken for timed, taken in seconds if timed) or None,
        "rows": rows,
    }


def how_to_install(contender: Contender) -> str:
    """Where to read how the contender's environment is made."""
    name = contender.environment
    return (
        f"python -m venv .venv-{name}; .venv-{name}/bin/pip install -r benchmarks/environments/{name}.txt "
        "(benchmarks/README.md)"
    )


def run_step(command: tuple[str, ...], log: Path, limit_s: float) -> float:
    """Seconds that `command` took, from the repository's root; its output is appended to `log`.

    Raises StepError when it fails or takes longer than `limit_s`.
    """
    started = time.perf_counter()
    with log.open("ab") as sink:
        before = sink.tell()
        try:
            code = subprocess.run(
                command, cwd=ROOT, stdout=sink, stderr=subprocess.STDOUT, timeout=limit_s
            ).returncode
        except subprocess.TimeoutExpired as error:
            raise StepError(f"not done after {limit_s / 60:g} minutes; see {log}") from error
    if code != 0:
        lines = log.read_bytes()[before:].decode(errors="replace").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), f"exit code {code}")
        raise StepError(f"{last}; see {log}")
    return time.perf_counter() - started


def _judge(folder: Path, name: str, inputs: Inputs, judging: Judging, python: Path) -> Result:
    """One row; a .pt2 is judged where its runtime is, any other model by our own interpreter."""
    suffix = Path(name).suffix
    baselines = {
        ".tflite": inputs.parent / FLOAT_TFLITE,
        ".onnx": inputs.parent / FLOAT_ONNX,
        ".pt2": folder / FLOAT_PT2,
    }
    task = Task(
        model=str(folder / name),
        reference=str(inputs.parent / FLOAT_ONNX),
        baseline=str(baselines[suffix]),
        val=str(judging.val),
        calib=str(inputs.calib),
        images=inputs.images,
        seed=inputs.seed,
        runs=judging.runs,
    )
    asked, answer = folder / f"{name}.task.json", folder / f"{name}.row.json"
    write_json(asked, asdict(task))
    interpreter = str(python) if suffix == ".pt2" else sys.executable
    command = (interpreter, "-m", "benchmarks.accuracy_measure", str(asked), str(answer))
    run_step(command, folder / "log.txt", judging.limit_s)
    row: Result = json.loads(answer.read_text(encoding="utf-8"))
    return row


def _version(python: Path, distribution: str) -> str | None:
    """None where the package goes by another name there."""
    program = f"from importlib.metadata import version; print(version({distribution!r}))"
    command = [str(python), "-c", program]
    return subprocess.run(command, check=False, capture_output=True, text=True).stdout.strip() or None
