"""What `qmnv3 bench` shows: progress on stderr, tables on stdout."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from device_eval.latency import Benchmark, Latency, Report
from device_eval.latency.structure import Structure
from qmnv3.cli.options import table_console

SLOWEST = 10


@contextmanager
def reporting() -> Iterator[Report]:
    """A bar on stderr if it is a terminal; notes are shown in any case."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task("preparing", total=None)
        yield Report(
            lambda phase, done, total: bar.update(task, description=phase, completed=done, total=total),
            lambda text: typer.echo(f"note: {text}", err=True),
        )


def print_benchmark(result: Benchmark, threads: int) -> None:
    """Latencies, what is wrong with them, refusals, what the models are made of, times per operation."""
    structures = {structure.path: structure for structure in result.structures}
    table = Table(title=_title(result, threads), title_justify="left")
    table.add_column("model", overflow="fold")
    table.add_column("runtime")
    for heading in ("MB", "p50 ms", "p90", "min", "ratio", "partitions", "memory MB"):
        table.add_column(heading, justify="right")
    for latency in result.latencies:
        table.add_row(*_row(latency, structures[latency.path], result.latencies[0]))
    for refusal in result.measurement.refusals:
        partitions = "0" if refusal.runtime == "LiteRT xnnpack" else ""
        table.add_row(refusal.path.name, refusal.runtime, "", "refused", "", "", "", partitions, "")
    table_console().print(table)
    for latency in result.latencies:
        if latency.verdict != "steady":
            typer.echo(f"{latency.path.name} ({latency.runtime}): {latency.verdict}")
    for refusal in result.measurement.refusals:
        typer.echo(f"refused: {refusal.reason}")
    for text in result.measurement.notes:
        typer.echo(text)
    for structure in result.structures:
        _print_structure(structure)
    for latency in result.latencies:
        _print_profile(latency)


def _title(result: Benchmark, threads: int) -> str:
    where = result.measurement.conditions
    if where["kind"] == "host":
        return f"latency, {threads} thread(s), batch 1"
    cores = ", ".join(map(str, where["cores"]))
    phone = f"{where['model']} (Android {where['android']}, core {cores})"
    return f"latency on {phone}, {threads} thread(s), batch 1"


def _row(latency: Latency, structure: Structure, first: Latency) -> list[str]:
    times = [f"{us / 1000:.2f}" for us in (latency.p50_us, latency.p90_us, latency.min_us)]
    ratio = f"{latency.p50_us / first.p50_us:.2f}"
    delegated = structure.partitions if latency.runtime == "LiteRT xnnpack" else None
    partitions = str(delegated.count) if delegated else ""
    size = f"{structure.size_bytes / 1e6:.2f}"
    memory = "" if latency.memory_mb is None else f"{latency.memory_mb:.1f}"
    return [latency.path.name, latency.runtime, size, *times, ratio, partitions, memory]


def _print_structure(structure: Structure) -> None:
    typer.echo(f"{structure.path.name}: {_counts(structure.op_counts)}")
    costs = (
        (structure.macs, 1e6, "M multiply-adds"),
        (structure.bytes_moved, 1e6, "MB read and written"),
        (structure.arena_bytes, 1e3, "kB of activations"),
    )
    typer.echo("  " + ", ".join(f"{n / unit:.2f} {what}" for n, unit, what in costs if n is not None))
    partitions = structure.partitions
    if partitions is not None and partitions.undelegated and partitions.refused is None:
        outside = Counter(name for _, name in partitions.undelegated)
        typer.echo(f"  outside XNNPACK: {_counts(dict(outside.most_common()))}")
    quantized = any("Linear" in operation for operation in structure.op_counts)
    if structure.float_ops is not None and quantized:
        typer.echo(f"  still float after ONNX Runtime's optimizer: {_counts(structure.float_ops) or 'none'}")


def _print_profile(latency: Latency) -> None:
    if not latency.profile:
        return
    total_us = sum(operation.mean_us for operation in latency.profile)
    table = Table("operation", "name", title=f"{latency.path.name}, {latency.runtime}: slowest operations")
    for heading in ("us", "%"):
        table.add_column(heading, justify="right")
    slowest = sorted(latency.profile, key=lambda operation: operation.mean_us, reverse=True)[:SLOWEST]
    for operation in slowest:
        share = 100 * operation.mean_us / total_us if total_us else 0.0
        table.add_row(operation.kind, operation.name, f"{operation.mean_us:.1f}", f"{share:.1f}")
    table_console().print(table)


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items())
