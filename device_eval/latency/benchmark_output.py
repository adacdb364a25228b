"""Reading what TFLite's and LiteRT's `benchmark_model` print: statistics, memory, times per operation.

Versions differ. 2018 to 2020 print "count=..." alone; later ones put "INFO: " before it and add percentiles;
LiteRT's own tool adds results in milliseconds. All print one "count=" line for warm-up, then one for the runs
that count, and `curr` alone where all runs took equally long. Source: tensorflow/lite/tools/benchmark.
"""

import re
from dataclasses import dataclass

from device_eval.latency.result import OperationTime

_COUNT = re.compile(r"^(?:INFO: )?count=(?P<count>\d+)(?P<rest>.*)$", re.MULTILINE)
_RUN_ORDER = re.compile(
    r"=+ Run Order =+\n(?P<header>[^\n]*\[node type\][^\n]*)\n(?P<rows>.*?)\n\s*\n", re.DOTALL
)
_MEMORY = (
    re.compile(r"Overall peak memory footprint \(MB\) via periodic monitoring: (\d+\.?\d*)"),
    re.compile(r"Peak memory:\s+(\d+\.?\d*) MB"),
    re.compile(r"emory footprint[^\n]*\(MB\): init=\S+ overall=(\d+\.?\d*)"),
    re.compile(r"Overall footprint:\s+(\d+\.?\d*) MB"),
)
_UNKNOWN_FLAGS = re.compile(r"Unconsumed cmdline flags: (.*)")
_COMPLAINT = re.compile(
    r"^(?:ERROR: |error: )(.+)$|^(.*(?:[Ff]ailed|not found|No such file|denied).*)$", re.MULTILINE
)


@dataclass(frozen=True)
class Run:
    """One successful call of benchmark_model. `memory_mb` is how much the process grew, at its peak if told.

    `operations` is empty without profiling; `ignored_flags` names what this version does not know.
    """

    count: int
    mean_us: float
    memory_mb: float | None
    operations: tuple[OperationTime, ...]
    ignored_flags: frozenset[str]


def parse(output: str) -> Run | None:
    """What the output says; None when it holds no finished measurement."""
    output = output.replace("\r\n", "\n")
    finished = [match for match in _COUNT.finditer(output) if int(match["count"]) > 0]
    # The first is warm-up: a run that broke off after it measured nothing.
    if len(finished) < 2:
        return None
    statistics = dict(re.findall(r"(\w+)=(\d+(?:\.\d*)?(?:e[+-]?\d+)?)", finished[-1]["rest"]))
    mean = statistics.get("avg", statistics.get("curr"))
    if mean is None:
        return None
    flags = frozenset(re.findall(r"--(\w+)", " ".join(_UNKNOWN_FLAGS.findall(output))))
    return Run(int(finished[-1]["count"]), float(mean), _memory(output), _operations(output), flags)


def complaint(output: str) -> str:
    """The line of a failed call that tells most: the first error, else the last line."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [a or b for a, b in _COMPLAINT.findall(output.replace("\r\n", "\n"))]
    return (errors or lines[-1:] or ["it printed nothing"])[0].strip()


def _memory(output: str) -> float | None:
    found = [match for pattern in _MEMORY if (match := pattern.search(output))]
    return float(found[0][1]) if found else None


def _operations(output: str) -> tuple[OperationTime, ...]:
    """Rows of the last "Run Order" table: the ones before it are about initialization."""
    tables = list(_RUN_ORDER.finditer(output + "\n\n"))
    if not tables:
        return ()
    # Columns differ between versions: "[start]" was dropped in 2022. Type and name are no numbers.
    columns = re.findall(r"\[([^\]]+)\]", tables[-1]["header"])[1:-1]
    if "avg ms" not in columns:
        return ()
    row = re.compile(
        rf"^\s*(?P<kind>.+?)\s+(?P<numbers>(?:\d+\.?\d*%?\s+){{{len(columns)}}})(?P<name>.*)$", re.MULTILINE
    )
    return tuple(_operation(match, columns) for match in row.finditer(tables[-1]["rows"]))


def _operation(row: re.Match[str], columns: list[str]) -> OperationTime:
    """Operations of one name share a row: "[times called]" is how often per run, 0 in early versions."""
    numbers = dict(zip(columns, row["numbers"].split(), strict=True))
    calls = max(1.0, float(numbers.get("times called", 1)))
    name = re.sub(r"^\[(.*)\]", r"\1", row["name"].strip())
    return OperationTime(row["kind"], name, float(numbers["avg ms"]) * 1000 * calls)
