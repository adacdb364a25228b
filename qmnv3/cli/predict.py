"""`qmnv3 predict`: predicted latency on Pixel phones, without one."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from device_eval.predictor import Prediction

EXAMPLES = """
Latency predicted, not measured, on one large core of a Pixel 1, 2 and 3, with the software of the paper.

A sum of multiply-adds, activations moved and weights read, fitted to the latencies that the MobileNetV3 paper
published (docs/prediction.md). The interval is as wide as the worst published network was off when it was
left out. Trust it for MobileNets; for others it says how far from them they are.

**Examples**

    qmnv3 predict runs/large

    qmnv3 predict out/model_float32.tflite somebody_elses.onnx --json predicted.json
"""


def command(
    models: Annotated[list[Path], typer.Argument(help="RUN folders, .tflite and .onnx files.")],
    json: Annotated[Path | None, typer.Option(help="Write all predicted figures here.")] = None,
) -> None:
    """Predict latency on Pixel 1, 2 and 3 from published latencies, without a phone."""
    from device_eval.predictor import predict_path
    from qmnv3.cli.options import table_console

    predictions = [prediction for path in models for prediction in predict_path(path)]
    console = table_console()
    console.print(_summary(predictions))
    console.print(_families(predictions))
    for prediction in predictions:
        console.print(_by_kind(prediction))
        for note in prediction.notes:
            typer.echo(f"{prediction.path.name}, {prediction.precision}: {note}")
    if json is not None:
        _write(json, predictions)


command.__doc__ = EXAMPLES


def _summary(predictions: "list[Prediction]") -> "Table":
    from rich.table import Table

    table = Table(title="predicted latency on one large core, batch 1 (not measured)", title_justify="left")
    table.add_column("model", overflow="fold")
    table.add_column("precision")
    table.add_column("phone")
    for heading in ("predicted ms", "interval ms", "holds", "fitted to", "left out: median", "worst"):
        table.add_column(heading, justify="right")
    for prediction in predictions:
        for device in prediction.devices:
            low, high = device.interval_ms
            errors = device.leave_one_out
            table.add_row(
                prediction.path.name,
                prediction.precision,
                f"Pixel {device.pixel}",
                f"{device.predicted_ms:.1f}",
                f"{low:.1f} to {high:.1f}",
                f"{100 * device.coverage:.0f} %",
                str(device.fitted_to),
                f"{100 * errors.median:.1f} %",
                f"{100 * errors.worst:.1f} %",
            )
    return table


def _families(predictions: "list[Prediction]") -> "Table":
    from rich.table import Table

    fits = {(device.pixel, one.precision): device.families for one in predictions for device in one.devices}
    names = list(dict.fromkeys(name for families in fits.values() for name in families))
    title = "errors where a whole family was left out of the fit: median, worst %"
    table = Table("phone", "precision", *names, title=title, title_justify="left")
    for (pixel, precision), families in fits.items():
        errors = [families.get(name) for name in names]
        cells = (f"{100 * e.median:.1f}, {100 * e.worst:.1f}" if e is not None else "" for e in errors)
        table.add_row(f"Pixel {pixel}", precision, *cells)
    return table


def _by_kind(prediction: "Prediction") -> "Table":
    from rich.table import Table

    cost = prediction.cost
    table = Table(
        title=f"{prediction.path.name}, {prediction.precision}: {cost.macs / 1e6:.1f} M multiply-adds, "
        f"{cost.bytes_moved / 1e6:.2f} MB moved, {prediction.weight_bytes / 1e6:.2f} MB of weights",
        title_justify="left",
    )
    table.add_column("operation")
    headings = ["count", "MMAC", "M activations", "MB moved"]
    headings += [f"Pixel {device.pixel} predicted ms" for device in prediction.devices]
    for heading in headings:
        table.add_column(heading, justify="right")
    for kind, part in prediction.by_kind.items():
        table.add_row(
            kind,
            str(prediction.counts[kind]),
            f"{part.macs / 1e6:.2f}",
            f"{part.activations / 1e6:.3f}",
            f"{part.bytes_moved / 1e6:.3f}",
            *(f"{device.by_kind_ms[kind]:.2f}" for device in prediction.devices),
        )
    return table


def _write(path: Path, predictions: "list[Prediction]") -> None:
    from qmnv3.environment import environment
    from qmnv3.files import write_json

    models = [prediction.to_json() for prediction in predictions]
    write_json(path, {"command": "predict", "environment": environment(), "models": models})
