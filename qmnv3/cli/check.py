"""`qmnv3 check`: the paper's claims about 8 bits, tried on one's own model."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from qmnv3.cli.eval import Triple
from qmnv3.cli.options import KernelName

if TYPE_CHECKING:
    from device_eval.check import Row

EXAMPLES = """
What 8 bits cost in accuracy and save in time, beside Tables 3 and 4 of the paper and Google's release.

Accuracies are compared image by image with the float parent, latencies in turns. A verdict needs the whole
95 % interval: better, as the paper (within 0.5 points, or 0.05 in the ratio), worse, or not decidable, with
how many images or runs would do. Exit code 1 where something is worse. Which row of Table 4 to compare with
is found by counting the model's operations; a model that is in none needs --network.

**Examples**

    qmnv3 check runs/small --against table4 --data imagenet/val

    qmnv3 check int8.tflite --float float32.tflite --kernel builtin --data imagenet/val --json check.json

    qmnv3 check runs/large --device adb --benchmark-model android_aarch64_benchmark_model   # time alone
"""


def command(
    model: Annotated[Path, typer.Argument(help="A RUN folder, or an 8-bit .tflite or .onnx with --float.")],
    against: Annotated[Literal["table4"], typer.Option(help="What to compare with.")] = "table4",
    data: Annotated[
        Path | None, typer.Option(help="Images, DIR/CLASS/IMAGE.jpg; without, accuracy is left out.")
    ] = None,
    float_model: Annotated[
        Path | None, typer.Option("--float", help="The float parent; a RUN holds its own.")
    ] = None,
    network: Annotated[
        Literal["large", "small", "v2", "v2-0.35"] | None,
        typer.Option(help="Row of Table 4 to compare with, if the model is in none (counted, not named)."),
    ] = None,
    images: Annotated[
        int | None, typer.Option(min=1, help="Only so many, drawn evenly from classes.")
    ] = None,
    device: Annotated[
        str, typer.Option(help="host, adb, adb:SERIAL, or none to leave latency out.")
    ] = "host",
    runs: Annotated[int, typer.Option(min=1, help="Measured runs of each model.")] = 50,
    kernel: Annotated[
        KernelName, typer.Option(help="LiteRT's kernels, where XNNPACK refuses a file.")
    ] = KernelName.xnnpack,
    benchmark_model: Annotated[
        str | None, typer.Option(help="TFLite's benchmark_model for the phone, as for bench.")
    ] = None,
    classes: Annotated[Path | None, typer.Option(help="JSON {folder: name} of all classes.")] = None,
    mean: Annotated[Triple | None, typer.Option(help="For files without metadata, pixels in 0..1.")] = None,
    std: Annotated[Triple | None, typer.Option(help="For files without metadata, pixels in 0..1.")] = None,
    resize: Annotated[int | None, typer.Option(min=1, help="Short side, for files without metadata.")] = None,
    json: Annotated[Path | None, typer.Option(help="Write rows and verdicts here.")] = None,
) -> None:
    """Compare accuracy and latency of 8 bits with the paper's Table 4."""
    from device_eval.preparation import Override
    from qmnv3.cli.bench import find_device
    from qmnv3.cli.check_job import CheckJob, run_check
    from qmnv3.errors import DataError, DeviceError

    shown = {"--images": images, "--classes": classes, "--mean": mean, "--std": std, "--resize": resize}
    unused = [f"{option} {value}" for option, value in shown.items() if value is not None]
    if data is None and unused:
        raise DataError(f"{unused[0]}: is for accuracy; give --data too")
    if device == "none" and benchmark_model is not None:
        raise DeviceError(f"--benchmark-model {benchmark_model}: only for phones; add --device adb")
    job = CheckJob(
        model,
        float_model,
        network,
        data,
        images,
        classes,
        Override(mean, std, resize),
        None if device == "none" else find_device(device, benchmark_model, cool_down_s=180),
        runs,
        kernel.kernel,
    )
    result = run_check(job)
    other = ", which it is not" if result.forced else ""
    _print(result.rows, f"{model}, beside {result.network} of the paper{other}")
    for note in result.notes:
        typer.echo(note)
    if json is not None:
        from qmnv3.environment import environment
        from qmnv3.files import write_json

        write_json(json, {"command": "check", "environment": environment(), **result.to_json()})
    if any(row.judgement.verdict == "worse" for row in result.rows):
        raise typer.Exit(1)


command.__doc__ = EXAMPLES


def _print(rows: "tuple[Row, ...]", title: str) -> None:
    from rich.table import Table

    from qmnv3.cli.options import table_console

    table = Table(title=title, title_justify="left")
    for heading in ("quantity", "published by"):
        table.add_column(heading, overflow="fold")
    for heading in ("published", "here", "95 % interval"):
        table.add_column(heading, justify="right")
    table.add_column("verdict", overflow="fold")
    for row in rows:
        form = "{:+.1f}" if row.unit == "points" else "{:.2f}"
        table.add_row(
            row.quantity,
            row.source,
            form.format(row.published),
            form.format(row.estimate),
            f"{form.format(row.low)} to {form.format(row.high)}",
            _verdict(row),
        )
    table_console().print(table)


def _verdict(row: "Row") -> str:
    judgement = row.judgement
    if judgement.reason is not None:
        return f"{judgement.verdict}: {judgement.reason.partition(':')[0]}, see below"
    if judgement.needed is None:
        return judgement.verdict
    what = "images" if row.unit == "points" else "runs"
    return f"{judgement.verdict} with {row.samples} {what}; about {judgement.needed:,} would do"
