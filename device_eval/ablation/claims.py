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
    found: list[str] = []
    for cell in cells[1:]:
        whole = cells[0]
        if not cell.get("claim") or (cell["width"], cell["resolution"]) != (
            whole["width"],
            whole["resolution"],
        ):
            continue
        parts = [
            *_counted(whole, cell),
            *_measured(_compared(whole), _compared(cell)),
            *_top1(_compared(whole), _compared(cell)),
        ]
        said = ", ".join(
            f"{statement.change:+g} {statement.unit} {statement.quantity}"
            for statement in statements(cell["claim"])
        )
        if parts:
            found.append(f"{cell['variant']}: {cell['claim']}: {'; '.join(parts)}; paper: {said}")
    return found


def _counted(whole: Mapping[str, Any], without: Mapping[str, Any]) -> list[str]:
    if not whole.get("size") or not without.get("size"):
        return []
    madds = (whole["size"]["madds"] - without["size"]["madds"]) / 1e6
    return [f"{madds:+.1f} M MAdds{_predicted(_compared(whole)['float32'], _compared(without)['float32'])}"]


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
        other = without.get(precision)
        if other is None:
            continue
        for runtime, ratio in (row.ratios or {}).items():
            against = (other.ratios or {}).get(runtime)
            if against and runtime not in row.noisy | other.noisy:
                changes.setdefault(runtime, []).append(f"{100 * (ratio / against - 1):+.0f} % {precision}")
    return [f"measured in {runtime} {', '.join(found)}" for runtime, found in changes.items()]


def _top1(whole: Mapping[str, Row], without: Mapping[str, Row]) -> list[str]:
    changes = [
        f"{row.top1_percent[0] - other[0]:+.1f} points {precision}"
        for precision, row in whole.items()
        if row.top1_percent and precision in without and (other := without[precision].top1_percent)
    ]
    return [f"top-1 {', '.join(changes)}"] if changes else []
