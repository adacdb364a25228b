"""An ablation as text: its table, and what must be read with it."""

from collections.abc import Mapping, Sequence

from device_eval.ablation.rows import PIECES, Predicted, Row

TEXT_COLUMNS = ("variant", "file")
PREDICTED = "predicted Pixel 1 ms (median, worst error %)"


def table_of(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Headings and text, without columns in which nothing is known.

    "~" marks samples that were not steady or too few, "[N]" the Nth of `notes_of`.
    """
    runtimes = list(dict.fromkeys(name for row in rows for name in (*(row.measured_ms or {}), *row.refusals)))
    records = [_record(row, [name for name in runtimes if name != PIECES], notes_of(rows)) for row in rows]
    headings = [name for name in (records[0] if records else {}) if any(record[name] for record in records)]
    return headings, [[record[name] for name in headings] for record in records]


def notes_of(rows: Sequence[Row]) -> list[str]:
    """Every note once."""
    return list(dict.fromkeys(note for row in rows for note in row.notes))


def _record(row: Row, runtimes: Sequence[str], notes: Sequence[str]) -> dict[str, str]:
    def marked(text: str, *said: str) -> str:
        return text + "".join(f" [{notes.index(note) + 1}]" for note in said)

    def refused(name: str, otherwise: str) -> str:
        return marked("refused", row.refusals[name]) if name in row.refusals else otherwise

    top1, predicted = row.top1_percent, row.predicted
    return {
        "variant": row.variant,
        "width": f"{row.width:g}",
        "px": str(row.resolution),
        "file": row.form,
        "M MAdds": "" if row.madds is None else f"{row.madds / 1e6:.1f}",
        "M params": "" if row.params is None else f"{row.params / 1e6:.2f}",
        "KiB": "" if row.size_bytes is None else f"{row.size_bytes / 1024:.0f}",
        PIECES: refused(PIECES, "" if row.partitions is None else str(row.partitions)),
        **{f"{name} ms (ratio)": refused(name, _latency(row, name)) for name in runtimes},
        PREDICTED: "" if predicted is None else marked(_prediction(predicted), *predicted.notes),
        "paper Pixel 1 ms": "" if row.paper is None else f"{row.paper.pixel1_ms:g}",
        "top-1 %": "" if top1 is None else f"{top1[0]:.1f} [{top1[1]:.1f}, {top1[2]:.1f}]",
        "paper top-1 %": "" if row.paper is None else f"{row.paper.top1_percent:g}",
    }


def _latency(row: Row, runtime: str) -> str:
    value, ratio = (row.measured_ms or {}).get(runtime), (row.ratios or {}).get(runtime)
    if value is None:
        return ""
    return f"{'~' * (runtime in row.noisy)}{value:.2f}" + ("" if ratio is None else f" ({ratio:.2f})")


def _prediction(predicted: Predicted) -> str:
    return f"{predicted.ms:.1f} ({predicted.median_error_percent:.1f}, {predicted.worst_error_percent:.1f})"


def to_markdown(rows: Sequence[Row], failures: Mapping[str, str], device: str, claimed: Sequence[str]) -> str:
    """The whole result as text: table, notes, what failed, what the paper says about the parts."""
    headings, records = table_of(rows)
    lines = [
        *_explanations(rows, device),
        "",
        "| " + " | ".join(headings) + " |",
        "| " + " | ".join("---" if name in TEXT_COLUMNS else "---:" for name in headings) + " |",
        *("| " + " | ".join(record) + " |" for record in records),
    ]
    if notes := notes_of(rows):
        lines += ["", *(f"- [{number}] {note}" for number, note in enumerate(notes, 1))]
    if claimed:
        lines += ["", "Without a component, against the first variant, and what the paper says of it:", ""]
        lines += [f"- {claim}" for claim in claimed]
    if failures:
        lines += ["", "Failed:", "", *(f"- {name}: {reason}" for name, reason in failures.items())]
    return "\n".join(lines) + "\n"


def _explanations(rows: Sequence[Row], device: str) -> list[str]:
    """A line for each kind of figure that the table has."""
    lines = []
    if any(row.measured_ms for row in rows):
        lines += [
            f"Latency measured on {device}, batch 1, medians; ~ marks samples that were not steady, or",
            "too few to tell. Ratios are to the first variant's first int8 file of the same size.",
        ]
    if any(row.predicted for row in rows):
        lines += [
            "Pixel 1 latencies are predicted, not measured, with the median and worst error, in percent,",
            "of published networks left out of the fit. The paper's are its own.",
            *_families(rows),
        ]
    if any(row.partitions is not None or PIECES in row.refusals for row in rows):
        lines.append("Pieces are what XNNPACK cuts the graph into.")
    if any(row.top1_percent for row in rows):
        lines.append("top-1 is of the file's own network, trained anew; its interval is of 95 %.")
    return lines


def _families(rows: Sequence[Row]) -> list[str]:
    """Errors of each precision's predictions for families that were left out of the fit whole."""
    fits = {row.form.split()[0]: row.predicted.families for row in rows if row.predicted is not None}
    return [
        f"With whole families left out, {precision}: "
        + "; ".join(f"{name} {median:.1f}, {worst:.1f}" for name, (median, worst) in families.items())
        + "."
        for precision, families in fits.items()
        if families
    ]
