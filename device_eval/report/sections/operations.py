"""Where the time of a run goes: operations by the runtime's profile, against what they compute and move."""

import re
from collections import defaultdict
from pathlib import Path

from device_eval.lint.description import Model, Op
from device_eval.predictor.costs import Cost, op_cost
from device_eval.report.document import Cell, Column, Missing, Section, Table
from device_eval.report.evidence import Evidence
from device_eval.report.figures import Point, Roofline
from device_eval.report.records import Benchmark, Latency, OperationTime
from device_eval.report.sections.latency import device
from qmnv3.errors import ModelFileError

TITLE = "Time per operation"
KIND = Column("kind", "operation")
TIME = (Column("mean_us", "µs", ".1f"), Column("time_percent", "% of the time", ".1f"))
_MEASURABLE_US = 1e-3
# How what runtimes add to an output's name begins.
_ADDED = re.compile(r"$|[/:;\]]|_nchwc|_token_")

Known = tuple[str, Cost]
"""Kind in the model file, and cost."""


def section(evidence: Evidence) -> Section | Missing:
    """From `qmnv3 bench --profile --json`, and the model files for what each operation costs."""
    profiled = [
        (benchmark, latency, latency.profile)
        for benchmark in evidence.of(Benchmark)
        for latency in benchmark.latencies
        if latency.profile
    ]
    if not profiled:
        return Missing(TITLE, "qmnv3 bench MODEL.onnx --profile --json bench.json (.tflite on a phone)")
    figures, tables, notes = [], [], []
    for benchmark, latency, profile in profiled:
        title = f"{latency.path}, {latency.runtime}, {device(benchmark)}"
        costs = _costs(benchmark, latency, profile, evidence)
        points = _points(profile, costs)
        if points:
            share = sum(point.time_percent for point in points)
            figures.append(
                Roofline(
                    title,
                    f"One mark for each operation with multiply-adds ({len(points)} of {len(profile)}, "
                    f"{share:.0f} % of the time), its area the share of the time. Memory bounds what lies "
                    "under the slope, arithmetic what lies under the flat roof; both are the best rates "
                    "reached here, not the machine's.",
                    points,
                )
            )
        elif not costs:
            notes.append(f"Give {latency.path} too for the multiply-adds of its operations.")
        tables += [_by_kind(title, profile), _each(title, profile, costs)]
    lead = "As the runtime's profiler says; profiling slows a run down, so compare operations, not models."
    return Section("operations", TITLE, lead, tuple(figures), tuple(tables), tuple(notes))


def cost_of(model: Model, name: str) -> Known | None:
    """Kind and cost of a profiled operation; None where the file does not have it or tells no shapes."""
    op = find(model, name)
    try:
        return (op.kind, op_cost(model, op)) if op is not None else None
    except ModelFileError:
        return None


def find(model: Model, name: str) -> Op | None:
    """The operation whose output a profile's name begins with, the longest such: runtimes add to names."""
    name = name.lstrip("[")
    matches = [
        (output, op)
        for op in model.ops
        for output in op.outputs
        if output and name.startswith(output) and _ADDED.match(name, len(output))
    ]
    return max(matches, key=lambda match: len(match[0]))[1] if matches else None


def _costs(
    benchmark: Benchmark, latency: Latency, profile: tuple[OperationTime, ...], evidence: Evidence
) -> list[Known | None]:
    """Cost of each profiled operation, where the model file has its output; empty without the file."""
    sizes = {model.path: model.size_bytes for model in benchmark.models}
    for read in evidence.models:
        same_name = read.path.name == Path(latency.path).name
        if same_name and read.path.is_file() and read.path.stat().st_size == sizes.get(latency.path):
            return [cost_of(read.model, operation.name) for operation in profile]
    return []


def _points(profile: tuple[OperationTime, ...], costs: list[Known | None]) -> tuple[Point, ...]:
    whole = sum(operation.mean_us for operation in profile)
    found = [
        (operation, *known) for operation, known in zip(profile, costs, strict=False) if known is not None
    ]
    return tuple(
        Point(operation.name, kind, cost.macs / cost.bytes_moved, gmacs, 100 * operation.mean_us / whole)
        for operation, kind, cost in found
        if cost.macs > 0 and cost.bytes_moved > 0 and (gmacs := _gmacs_per_s(cost, operation)) is not None
    )


def _gmacs_per_s(cost: Cost, operation: OperationTime) -> float | None:
    """Billion multiply-adds per second; None where the profiler's clock is too coarse."""
    return cost.macs / operation.mean_us / 1000 if operation.mean_us >= _MEASURABLE_US else None


def _by_kind(title: str, profile: tuple[OperationTime, ...]) -> Table:
    times: defaultdict[str, list[float]] = defaultdict(list)
    for operation in profile:
        times[operation.kind].append(operation.mean_us)
    whole = sum(operation.mean_us for operation in profile) or 1.0
    rows = [(kind, len(us), sum(us), 100 * sum(us) / whole) for kind, us in times.items()]
    rows.sort(key=lambda row: -row[2])
    return Table(f"{title}: by kind", (KIND, Column("count", "count", "d"), *TIME), tuple(rows))


def _each(title: str, profile: tuple[OperationTime, ...], costs: list[Known | None]) -> Table:
    whole = sum(operation.mean_us for operation in profile) or 1.0
    rows: list[tuple[Cell, ...]] = []
    for number, operation in enumerate(profile):
        known = costs[number] if costs else None
        cost = known[1] if known is not None else None
        rows.append(
            (
                operation.name,
                operation.kind,
                operation.mean_us,
                100 * operation.mean_us / whole,
                cost.macs / 1e6 if cost is not None else None,
                cost.bytes_moved / 1000 if cost is not None else None,
                cost.macs / operation.mean_us / 1000
                if cost is not None and operation.mean_us >= _MEASURABLE_US
                else None,
            )
        )
    columns = (
        Column("name", "name"),
        KIND,
        *TIME,
        Column("mmacs", "MMAC", ".2f"),
        Column("kb_moved", "kB moved", ".1f"),
        Column("gmacs_per_s", "GMAC/s", ".1f"),
    )
    return Table(f"{title}: each", columns, tuple(rows))
