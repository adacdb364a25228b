"""What each component adds to a network, beside what the paper says it does."""

from collections.abc import Mapping, Sequence
from typing import Any

from device_eval.ablation.paper import statements
from device_eval.ablation.rows import Row, rows_of

Compared = Mapping[str, tuple[Row, Row]]


def claims(cells: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line for each component with a `claim`: the first cell less the one without the component.

    Multiply-adds in millions, predicted float latency on a Pixel 1, and of the float file and the first int8
    file: latency measured, by the ratios to one and the same file, so that a clock that changed between cells
    does not count (unsteady ones are left out), and top-1.
    """
    whole = cells[0] if cells else None
    found = []
    for cell in cells[1:]:
        if whole is None or not cell.get("claim") or _size(cell) != _size(whole):
            continue
        compared = _compared(whole, cell)
        parts = [*_counted(compared), *_measured(compared), *_top1(compared)]
        said = ", ".join(
            f"{statement.change:+g} {statement.unit} {statement.quantity}"
            for statement in statements(cell["claim"])
        )
        if parts:
            found.append(f"{cell['variant']}: {cell['claim']}: {'; '.join(parts)}; paper: {said}")
    return found


def _size(cell: Mapping[str, Any]) -> tuple[float, int]:
    return cell["width"], cell["resolution"]


def _compared(whole: Mapping[str, Any], without: Mapping[str, Any]) -> Compared:
    """By precision the rows of the float files, and of the first int8 files, that both cells have."""
    # The first of a precision counts: it is the last to be put in.
    ours, others = (
        {row.form.split()[0]: row for row in reversed(rows_of([cell]))} for cell in (whole, without)
    )
    return {name: (ours[name], others[name]) for name in ("float32", "int8") if name in ours.keys() & others}


def _counted(compared: Compared) -> list[str]:
    whole, without = compared.get("float32", (None, None))
    if whole is None or without is None or whole.madds is None or without.madds is None:
        return []
    change = f"{(whole.madds - without.madds) / 1e6:+.1f} M MAdds"
    if whole.predicted is None or without.predicted is None:
        return [change]
    known = without.predicted
    ms = whole.predicted.ms - known.ms
    return [
        f"{change}, {ms:+.1f} ms ({100 * ms / known.ms:+.0f} %) predicted (median, worst error of a network: "
        f"{known.median_error_percent:.1f}, {known.worst_error_percent:.1f} %)"
    ]


def _measured(compared: Compared) -> list[str]:
    changes: dict[str, list[str]] = {}
    for precision, (whole, without) in compared.items():
        for runtime, ratio in (whole.ratios or {}).items():
            against = (without.ratios or {}).get(runtime)
            if against and runtime not in whole.noisy | without.noisy:
                changes.setdefault(runtime, []).append(f"{100 * (ratio / against - 1):+.0f} % {precision}")
    return [f"measured in {runtime} {', '.join(found)}" for runtime, found in changes.items()]


def _top1(compared: Compared) -> list[str]:
    changes = [
        f"{whole.top1_percent[0] - without.top1_percent[0]:+.1f} points {precision}"
        for precision, (whole, without) in compared.items()
        if whole.top1_percent and without.top1_percent
    ]
    return [f"top-1 {', '.join(changes)}"] if changes else []
