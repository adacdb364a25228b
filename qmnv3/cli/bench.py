"""`qmnv3 bench`: latency of model files, measured in turns."""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qmnv3.cli.options import KernelName, table_console

if TYPE_CHECKING:
    from device_eval.benchmark import Benchmark, Latency, Structure

EXAMPLES = """
Latency at batch 1 in LiteRT and ONNX Runtime, models measured in turns; partitions and operations.

**Examples**

    qmnv3 bench out/model_float32.tflite out/model_int8.tflite

    qmnv3 bench out/model_float32.onnx out/model_int8.onnx --threads 2 --runs 100 --json latency.json
"""


def command(
    models: Annotated[list[Path], typer.Argument(help=".tflite and .onnx files; ratios are to the first.")],
    threads: Annotated[int, typer.Option(min=1, help="Threads; with 1, pinned to one core.")] = 1,
    runs: Annotated[int, typer.Option(min=1, help="Measured runs of each model.")] = 50,
    warmup: Annotated[int, typer.Option(min=0, help="Runs of each model before measuring.")] = 10,
    kernel: Annotated[
        list[KernelName] | None, typer.Option(help="LiteRT kernels (default: xnnpack and builtin).")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the random input image.")] = 0,
    json: Annotated[Path | None, typer.Option(help="Write all samples here.")] = None,
) -> None:
    """p50, p90 and fastest run in LiteRT and ONNX Runtime, batch 1; partitions and operations."""
    from device_eval.benchmark import DEFAULT_KERNELS, benchmark
    from qmnv3.cli.progress import progress

    kernels = [name.kernel for name in kernel] if kernel else DEFAULT_KERNELS
    with progress("measuring", warmup + runs) as advance:
        result = benchmark(
            models,
            kernels=kernels,
            threads=threads,
            runs=runs,
            warmup=warmup,
            seed=seed,
            advance=lambda: advance(1),
        )
    _print(result, threads)
    if json is not None:
        options = {"threads": threads, "runs": runs, "warmup": warmup, "seed": seed}
        _write(json, result, options)


command.__doc__ = EXAMPLES


def _print(result: "Benchmark", threads: int) -> None:
    from rich.table import Table

    structures = {structure.path: structure for structure in result.structures}
    table = Table(title=f"latency, {threads} thread(s), batch 1", title_justify="left")
    table.add_column("model", overflow="fold")
    table.add_column("runtime")
    for heading in ("MB", "p50 ms", "p90", "min", "ratio", "partitions"):
        table.add_column(heading, justify="right")
    for latency in result.latencies:
        table.add_row(*_row(latency, structures[latency.path], result.latencies[0]))
    for refusal in result.refusals:
        table.add_row(refusal.path.name, refusal.runtime, "", "refused", "", "", "", "0")
    table_console().print(table)
    for refusal in result.refusals:
        typer.echo(f"refused: {refusal.reason}")
    for structure in result.structures:
        _print_operations(structure)


def _row(latency: "Latency", structure: "Structure", first: "Latency") -> list[str]:
    times = [f"{us / 1000:.2f}" for us in (latency.p50_us, latency.p90_us, latency.min_us)]
    ratio = f"{latency.p50_us / first.p50_us:.2f}"
    delegated = structure.partitions if latency.runtime == "LiteRT xnnpack" else None
    partitions = str(delegated.count) if delegated else ""
    return [
        latency.path.name,
        latency.runtime,
        f"{structure.size_bytes / 1e6:.2f}",
        *times,
        ratio,
        partitions,
    ]


def _print_operations(structure: "Structure") -> None:
    typer.echo(f"{structure.path.name}: {_counts(structure.op_counts)}")
    partitions = structure.partitions
    if partitions is not None and partitions.undelegated and partitions.refused is None:
        outside = Counter(name for _, name in partitions.undelegated)
        typer.echo(f"  outside XNNPACK: {_counts(dict(outside.most_common()))}")
    quantized = any("Linear" in operation for operation in structure.op_counts)
    if structure.float_ops is not None and quantized:
        typer.echo(f"  still float after ONNX Runtime's optimizer: {_counts(structure.float_ops) or 'none'}")


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items())


def _write(path: Path, result: "Benchmark", options: dict[str, Any]) -> None:
    from qmnv3.environment import environment
    from qmnv3.files import write_json

    value = {"command": "bench", **options, "environment": environment(), **result.to_json()}
    write_json(path, value)
