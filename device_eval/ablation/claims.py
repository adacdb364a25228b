"""What each component adds to a network, beside what the paper says it does."""

from collections.abc import Mapping, Sequence
from typing import Any

from device_eval.ablation.paper import statements
from device_eval.ablation.rows import Row, rows_of


def claims(cells: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line for each component with a `claim`: the first cell less the one without the component.

    Multiply-adds in millions, predicted float latency on a Pixel 1, and of the float file and the first int8
    file: latency measured, by the ratios to one and the same file, so that a clock that changed between cells
    does not count (unsteady ones are left out), and top-1.
    """
    found = []
    first = next((cell for cell in cells if cell.get("size")), None)
    for cell in cells:
        if first is None or not cell.get("claim") or not cell.get("size"):
            continue
        if (cell["width"], cell["resolution"]) != (first["width"], first["resolution"]):
            continue
        whole, without = _compared(first), _compared(cell)
        madds = (first["size"]["madds"] - cell["size"]["madds"]) / 1e6
        parts = [
            f"{madds:+.1f} M MAdds{_predicted(whole['float32'], without['float32'])}",
            *_measured(whole, without),
            *_top1(whole, without),
            "paper: "
            + ", ".join(
                f"{statement.change:+g} {statement.unit} {statement.quantity}"
                for statement in statements(cell["claim"])
            ),
        ]
        found.append(f"{cell['variant']}: {cell['claim']}: " + "; ".join(parts))
    return found


def _compared(cell: Mapping[str, Any]) -> dict[str, Row]:
    """The float file's row and that of the first int8 file, by precision."""
    rows: dict[str, Row] = {}
    for row in rows_of([cell]):
        rows.setdefault(row.form.split()[0], row)
    return rows


def _predicted(whole: Row, without: Row) -> str:
    if whole.predicted is None or without.predicted is None:
        return ""
    known = without.predicted
    change = whole.predicted.ms - known.ms
    return (
        f", {change:+.1f} ms ({100 * change / known.ms:+.0f} %) predicted (median, worst error of a network: "
        f"{known.median_error_percent:.1f}, {known.worst_error_percent:.1f} %)"
    )


def _measured(whole: Mapping[str, Row], without: Mapping[str, Row]) -> list[str]:
    changes: dict[str, list[str]] = {}
    for precision, row in whole.items():
        other = without[precision]
        for runtime, ratio in (row.ratios or {}).items():
            against = (other.ratios or {}).get(runtime)
            if against and runtime not in row.noisy | other.noisy:
                changes.setdefault(runtime, []).append(f"{100 * (ratio / against - 1):+.0f} % {precision}")
    return [f"measured in {runtime} {', '.join(found)}" for runtime, found in changes.items()]


def _top1(whole: Mapping[str, Row], without: Mapping[str, Row]) -> list[str]:
    changes = [
        f"{row.top1_percent[0] - other[0]:+.1f} points {precision}"
        for precision, row in whole.items()
        if row.top1_percent and (other := without[precision].top1_percent)
    ]
    return [f"top-1 {', '.join(changes)}"] if changes else []
