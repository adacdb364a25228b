"""Latency distributions of files that were measured in turns."""

from device_eval.report.document import Column, Estimate, Missing, Section, Status, Table, Verdict
from device_eval.report.evidence import Evidence
from device_eval.report.figures import Row, Rows
from device_eval.report.records import Benchmark, Latency
from device_eval.statistics import median_ratio

TITLE = "Latency"


def section(evidence: Evidence) -> Section | Missing:
    """From `qmnv3 bench --json`: every sample is drawn."""
    benchmarks = evidence.of(Benchmark)
    if not benchmarks:
        return Missing(TITLE, "qmnv3 bench FLOAT MODEL --json bench.json")
    figures = tuple(_figure(number, benchmark) for number, benchmark in enumerate(benchmarks, 1))
    tables = tuple(_table(number, benchmark) for number, benchmark in enumerate(benchmarks, 1))
    refused = [f"{r.runtime} refused {r.path}: {r.reason}" for b in benchmarks for r in b.refusals]
    noted = [note for benchmark in benchmarks for note in benchmark.notes]
    how = (
        "Ratios are of medians, to the first model measured in turns with it under the same runtime; their "
        "95 % intervals are by bootstrap. Batch 1."
    )
    return Section("latency", TITLE, figures=figures, tables=tables, notes=(how, *refused, *noted))


def verdicts(evidence: Evidence) -> list[Verdict]:
    """One line for each model beside the first under each runtime, and for each refusal."""
    found = []
    for benchmark in evidence.of(Benchmark):
        for latency in benchmark.latencies:
            first = reference(benchmark, latency)
            if latency is not first:
                found.append(Verdict(*_judge(latency, first)))
        found += [
            Verdict("bad", f"speed of {refusal.path}", f"refused by {refusal.runtime}")
            for refusal in benchmark.refusals
        ]
    return found


def reference(benchmark: Benchmark, latency: Latency) -> Latency:
    """The first model that was measured under the same runtime."""
    return next(other for other in benchmark.latencies if other.runtime == latency.runtime)


def device(benchmark: Benchmark) -> str:
    """What measured, for people."""
    named = f"phone {benchmark.device.model}" if benchmark.device.model else benchmark.device.kind
    return f"{named}, {benchmark.threads} thread{'s' if benchmark.threads != 1 else ''}"


def ratio(latency: Latency, first: Latency) -> Estimate:
    """Ratio of medians with its 95 % interval, by a seeded bootstrap; a single sample has none."""
    this, other = latency.latency_us, first.latency_us
    value = latency.p50_us / first.p50_us
    if latency is first or min(len(this), len(other)) < 2:
        return Estimate(value, None, None)
    return Estimate(value, *median_ratio(this, other)[1:])


def _judge(latency: Latency, first: Latency) -> tuple[Status, str, str]:
    times = ratio(latency, first)
    text = (
        f"{Column('', '', '.2f').text(times)} times {first.path} in {latency.runtime} "
        f"({latency.p50_us / 1000:.2f} against {first.p50_us / 1000:.2f} ms)"
    )
    subject = f"speed of {latency.path}"
    doubts = [one.verdict for one in (latency, first) if one.verdict != "steady"]
    if doubts:
        return "open", subject, f"{text}; {doubts[0]}"
    if times.low is None or times.high is None or times.low <= 1 <= times.high:
        return "open", subject, f"{text}: no difference shown"
    return "good" if times.high < 1 else "warning", subject, text


def _figure(number: int, benchmark: Benchmark) -> Rows:
    rows = tuple(
        Row(
            f"{latency.path}, {latency.runtime}",
            latency.runtime,
            latency.p50_us / 1000,
            samples=tuple(us / 1000 for us in latency.latency_us),
        )
        for latency in benchmark.latencies
    )
    description = "One line for each model and runtime: every sample as a stroke, the median as a point."
    return Rows(
        f"Measurement {number}: {device(benchmark)}", description, "milliseconds, logarithmic", rows, "log"
    )


def _table(number: int, benchmark: Benchmark) -> Table:
    sizes = {model.path: model for model in benchmark.models}
    rows = []
    for latency in benchmark.latencies:
        first, model = reference(benchmark, latency), sizes.get(latency.path)
        rows.append(
            (
                latency.path,
                latency.runtime,
                latency.p50_us / 1000,
                latency.p90_us / 1000,
                latency.min_us / 1000,
                ratio(latency, first),
                len(latency.latency_us),
                latency.verdict,
                model.size_bytes / 1e6 if model else None,
                model.arena_bytes / 1e6 if model and model.arena_bytes is not None else None,
                latency.memory_mb,
            )
        )
    columns = (
        Column("model", "model"),
        Column("runtime", "runtime"),
        Column("p50_ms", "p50 ms", ".2f"),
        Column("p90_ms", "p90 ms", ".2f"),
        Column("min_ms", "min ms", ".2f"),
        Column("ratio_p50", "ratio", ".2f"),
        Column("samples", "samples", "d"),
        Column("verdict", "samples are"),
        Column("file_mb", "file MB", ".2f"),
        Column("arena_mb", "arena MB", ".2f"),
        Column("memory_mb", "memory MB", ".1f"),
    )
    return Table(f"Measurement {number}: {device(benchmark)}", columns, tuple(rows))
