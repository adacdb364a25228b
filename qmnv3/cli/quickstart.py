"""`qmnv3 quickstart`: the whole main job on scikit-learn's handwritten digits."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from device_eval.evaluation import Evaluation
    from device_eval.latency import Benchmark

EXAMPLES = """
The whole main job in about a minute: train a narrow MobileNetV3-Small on scikit-learn's handwritten digits,
quantize it to int8, export TFLite and ONNX, evaluate and time all four files.

**Examples**

    qmnv3 quickstart

    qmnv3 quickstart --out /tmp/quickstart --epochs 4
"""

SIDE = 64
FILES = ("model_float32.tflite", "model_int8.tflite", "model_float32.onnx", "model_int8.onnx")


def command(
    out: Annotated[Path, typer.Option(help="Folder for images, weights, RUN and models.")] = Path(
        "runs/quickstart"
    ),
    epochs: Annotated[int, typer.Option(min=1, help="Training epochs.")] = 10,
    width: Annotated[float, typer.Option(help="Width multiplier of the network.")] = 0.5,
    seed: Annotated[
        int, typer.Option(min=0, max=2**63 - 1, help="Seed of initialisation, order and calibration images.")
    ] = 0,
) -> None:
    """Train, quantize, export, evaluate and time a small model on digits."""
    from calibration.config import PtqConfig
    from qmnv3.cli.progress import progress
    from qmnv3.cli.ptq_job import PtqJob, run_ptq
    from qmnv3.cli.train_job import WEIGHTS
    from qmnv3.data.digits import write_digits
    from qmnv3.export.files import export_run
    from recipes import load_recipe

    digits, trained, run = out / "digits", out / "float32", out / "run"
    typer.echo(f"1/5 writing handwritten digits to {digits}")
    write_digits(digits, SIDE)
    typer.echo(f"2/5 training MobileNetV3-Small {width:g} at {SIDE} px, {epochs} epochs")
    _train(digits, trained, width, epochs, seed)
    typer.echo("3/5 quantizing after training on 200 images, exporting")
    config = load_recipe("ptq", PtqConfig, seed=seed)
    run_ptq(PtqJob("small", trained / WEIGHTS, digits / "train", run, config), progress)
    models = out / "models"
    export_run(run, models, ("float32", "int8"))
    paths = [models / name for name in FILES]
    typer.echo("4/5 evaluating in LiteRT and ONNX Runtime")
    evaluations = _evaluate(paths, digits / "val")
    typer.echo("5/5 measuring latency, models in turns, one thread")
    rows = _rows(paths, evaluations, _measure(paths))
    _report(rows, out, {"epochs": epochs, "width": width, "seed": seed, "side": SIDE})


command.__doc__ = EXAMPLES


def _train(digits: Path, out: Path, width: float, epochs: int, seed: int) -> None:
    from qmnv3.cli.train_job import TrainJob, run_train
    from qmnv3.training.config import TrainConfig
    from recipes import load_recipe

    if out.exists():
        shutil.rmtree(out)
    config = load_recipe("digits", TrainConfig, epochs=epochs, seed=seed)
    run_train(TrainJob("small", None, digits, None, out, config, width, SIDE))


def _evaluate(paths: list[Path], folder: Path) -> "list[Evaluation]":
    from device_eval.evaluation import evaluate, make_subject
    from device_eval.runners import open_model
    from qmnv3.cli.progress import progress
    from qmnv3.data import find_images

    images = find_images(folder, classes=True)
    subjects = {path: make_subject(open_model(path), images) for path in paths}
    parents = {path.suffix: subject for path, subject in subjects.items() if "float32" in path.name}
    results = []
    with progress("evaluating", len(paths)) as advance:
        for path in paths:
            results.append(evaluate(images, subjects[path], parents[path.suffix]))
            advance(1)
    return results


def _measure(paths: list[Path]) -> "Benchmark":
    from device_eval.latency import Plan, benchmark
    from qmnv3.cli.bench_view import reporting

    with reporting() as report:
        return benchmark(paths, Plan(("xnnpack",), runs=200, warmup=20), report=report)


@dataclass(frozen=True)
class _Row:
    """One exported file's line of the table."""

    file: str
    runtime: str
    top1: float
    low: float
    high: float
    drop_points: float
    drop_low: float
    drop_high: float
    size_bytes: int
    latency_p50_us: float
    latency_ratio: float
    partitions: int | None
    latency_us: tuple[float, ...]


def _rows(paths: list[Path], evaluations: "list[Evaluation]", measured: "Benchmark") -> list[_Row]:
    rows = []
    parents = {
        latency.path.suffix: latency for latency in measured.latencies if "float32" in latency.path.name
    }
    lines = zip(paths, evaluations, measured.latencies, measured.structures, strict=True)
    for path, evaluation, latency, structure in lines:
        top1, comparison = evaluation.this.top1, evaluation.comparison
        assert comparison is not None
        difference = comparison.difference
        rows.append(
            _Row(
                path.name,
                latency.runtime,
                100 * top1.estimate,
                100 * top1.low,
                100 * top1.high,
                100 * difference.estimate,
                100 * difference.low,
                100 * difference.high,
                structure.size_bytes,
                latency.p50_us,
                latency.p50_us / parents[path.suffix].p50_us,
                structure.partitions.count if structure.partitions else None,
                latency.samples_us,
            )
        )
    return rows


def _report(rows: list[_Row], out: Path, options: dict[str, Any]) -> None:
    from dataclasses import asdict

    from rich.table import Table

    from qmnv3.cli.options import table_console
    from qmnv3.environment import environment
    from qmnv3.files import write_json

    table = Table(title="handwritten digits, 360 validation images", title_justify="left")
    headings = ("file", "runtime", "top-1 %", "int8 - float", "KiB", "p50 ms", "ratio", "partitions")
    for heading in headings:
        table.add_column(heading, justify="left" if heading in headings[:2] else "right")
    for row in rows:
        is_int8 = "int8" in row.file
        table.add_row(
            row.file,
            row.runtime,
            f"{row.top1:.1f} [{row.low:.1f}, {row.high:.1f}]",
            f"{row.drop_points:+.1f} [{row.drop_low:+.1f}, {row.drop_high:+.1f}]" if is_int8 else "",
            f"{row.size_bytes / 1024:.0f}",
            f"{row.latency_p50_us / 1000:.3f}",
            f"{row.latency_ratio:.2f}",
            "" if row.partitions is None else str(row.partitions),
        )
    table_console().print(table)
    results = out / "quickstart.json"
    write_json(
        results,
        {"options": options, "environment": environment(), "results": [asdict(row) for row in rows]},
    )
    typer.echo(f"models in {out / 'models'}, RUN in {out / 'run'} (qmnv3 inspect it), figures in {results}")
