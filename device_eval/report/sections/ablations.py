"""Every network of `qmnv3 ablate`: accuracy, size and latency, a table for each ablation."""

from collections.abc import Iterator

from device_eval.report.document import Cell, Column, Estimate, Missing, Section, Table
from device_eval.report.evidence import Evidence
from device_eval.report.paper_records import Ablation, AblationCell
from device_eval.report.records import Interval
from device_eval.report.sections.prediction import on

TITLE = "Ablations"
_NOTE = (
    "Top-1 is of each file's own network, trained as the recipe says; differences are of the same images. "
    "Pixel 1 latencies are predicted. Ratios are to the first network's first int8 file of the same size."
)


def section(evidence: Evidence) -> Section | Missing:
    """From ablation.json."""
    ablations = evidence.of(Ablation)
    if not ablations:
        return Missing(TITLE, "qmnv3 ablate RECIPE --out DIR, and DIR/ablation.json")
    return Section("ablations", TITLE, tables=tuple(map(_table, ablations)), notes=(_NOTE,))


def _table(ablation: Ablation) -> Table:
    runtimes = list(
        dict.fromkeys(
            one.runtime for cell in ablation.cells if cell.latency for one in cell.latency.latencies
        )
    )
    columns = (
        Column("variant", "variant"),
        Column("width", "width", "g"),
        Column("resolution", "px", "d"),
        Column("form", "file"),
        Column("top1_percent", "top-1 %", ".1f"),
        Column("int8_minus_float_points", "8 bits - float, points", "+.1f"),
        Column("mmadds", "M MAdds", ".1f"),
        Column("mb", "MB", ".2f"),
        Column("predicted_pixel1_ms", "Pixel 1 ms, predicted", ".1f"),
        *(Column(f"{name}_ms", f"{name} ms", ".2f") for name in runtimes),
        *(Column(f"{name}_ratio", f"{name} ratio", ".2f") for name in runtimes),
        Column("samples", "samples are"),
    )
    rows = tuple(row for cell in ablation.cells for row in _rows(cell, runtimes))
    return Table(ablation.recipe, columns, rows).without_empty_columns()


def _rows(cell: AblationCell, runtimes: list[str]) -> Iterator[tuple[Cell, ...]]:
    files = {file.form: file for file in cell.size.files} if cell.size else {}
    accuracy = cell.accuracy
    for form in dict.fromkeys((*files, *(accuracy.top1 if accuracy else ()))):
        file = files.get(form)
        timed = (
            {one.runtime: one for one in cell.latency.latencies if one.form == form} if cell.latency else {}
        )
        doubts = dict.fromkeys(one.verdict for one in timed.values())
        yield (
            cell.variant,
            cell.width,
            cell.resolution,
            form,
            _estimate(accuracy.top1.get(form)) if accuracy else None,
            _estimate(accuracy.int8_minus_float.get(form)) if accuracy else None,
            cell.size.madds / 1e6 if cell.size and cell.size.madds is not None else None,
            file.size_bytes / 1e6 if file and file.size_bytes is not None else None,
            on("Pixel 1", file.predicted) if file else None,
            *(timed[name].p50_us / 1000 if name in timed else None for name in runtimes),
            *(timed[name].ratio if name in timed else None for name in runtimes),
            "; ".join(doubts) or None,
        )


def _estimate(percent: Interval | None) -> Estimate | None:
    """The ablation's figures are percent already."""
    return None if percent is None else Estimate(percent.estimate, percent.low, percent.high)
