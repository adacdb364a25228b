"""benchmarks.accuracy's results as a Markdown table."""

from collections.abc import Iterable, Sequence
from typing import Any

Result = dict[str, Any]

COLUMNS = (
    "",
    "runtime",
    "top-1 %",
    "agreement %",
    "KL",
    "held-out agreement %",
    "held-out KL",
    "integer only",
    "partitions",
    "p50 ms",
    "× float",
    "MB",
    "s",
)
NOTES = (
    "Agreement (same top-1) and KL (nats) are with the float model in ONNX Runtime. Integer only: no float "
    "operation left, else how many. Latency: one thread, in turns with the float model in the same runtime. "
    "s: wall-clock of the quantizing processes, start-up included."
)


def markdown(setting: dict[str, Any], results: Sequence[Result]) -> str:
    """A title, the table with a row per model or failure, notes, and where it was measured."""
    rows = [cells for result in results for cells in _rows(result)]
    lines = [
        _line(COLUMNS),
        _line("---" if i < 2 else "---:" for i in range(len(COLUMNS))),
        *map(_line, rows),
    ]
    return "\n".join([_title(setting, results), "", *lines, "", NOTES, "", *_provenance(results), ""])


def _title(setting: dict[str, Any], results: Sequence[Result]) -> str:
    counts = next((row for result in results for row in result.get("rows", ())), None)
    judged = f", judged on {counts['val']['top1']['trials']}" if counts else ""
    held_out = counts["held_out"] if counts else None
    beside = f" and {held_out['agreement']['trials']} held-out" if held_out else ""
    return f"Model {setting['model']}, calibrated on {setting['images']} photos{judged}{beside}."


def _rows(result: Result) -> list[list[str]]:
    if result["status"] != "done":
        reason = f"{result['status']}: {result['error']}".replace("|", "\\|")
        return [[result["label"], reason, *[""] * (len(COLUMNS) - 2)]]
    return [_row(result, row) for row in result["rows"]]


def _row(result: Result, row: Result) -> list[str]:
    val, held_out, latency = row["val"], row["held_out"], row["latency"]
    seconds = result["seconds"]
    return [
        result["label"],
        row["runtime"] + (" (XNNPACK refuses it)" if row["refused"] else ""),
        _percent(val["top1"]),
        _percent(val["agreement"]),
        f"{val['mean_kl_nats']:.3f}",
        _percent(held_out["agreement"]) if held_out else "",
        f"{held_out['mean_kl_nats']:.3f}" if held_out else "",
        _integer_only(row),
        _partitions(row),
        f"{latency['p50_us'] / 1000:.2f}",
        f"{latency['ratio']:.2f}",
        f"{row['size_bytes'] / 1e6:.2f}",
        "" if seconds is None else f"{seconds:.0f}",
    ]


def is_integer_only(row: Result) -> bool:
    """Whether no float operation is left in the model."""
    return not row["structure"]["float_ops"]


def _integer_only(row: Result) -> str:
    count = sum(row["structure"]["float_ops"].values())
    return "yes" if is_integer_only(row) else f"no, {count} float"


def _partitions(row: Result) -> str:
    partitions = row["structure"].get("partitions")
    return str(partitions["count"]) if partitions else ""


def _percent(proportion: dict[str, Any]) -> str:
    return f"{100 * proportion['estimate']:.1f}"


def _provenance(results: Iterable[Result]) -> list[str]:
    done = [result for result in results if result["status"] == "done"]
    versions = dict.fromkeys(f"{result['distribution']} {result['version']}" for result in done)
    places = dict.fromkeys(result["environment"]["cpu"] for result in done)
    commits = dict.fromkeys(str(result["environment"]["git_commit"])[:7] for result in done)
    return (
        [f"Measured on {', '.join(places)} at {', '.join(commits)}: {', '.join(versions)}."] if done else []
    )


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"
