"""Ranges and SQNR of every tensor of a RUN, and what the rounding of each alone does to the prediction."""

from device_eval.report.document import Column, Estimate, Missing, Section, Table, Verdict
from device_eval.report.evidence import Evidence, Read
from device_eval.report.figures import Bar, Bars, Row, Rows
from device_eval.report.records import Calibration, Interval, Sensitivity, SensitivityRow

TENSORS, SENSITIVITY = "Tensors", "Sensitivity"
MODES = {"one": "rounded alone", "all_but_one": "left out of the fully rounded network"}
SHOWN = 25


def tensors(evidence: Evidence) -> Section | Missing:
    """From the calibration report of RUN folders."""
    runs = [(read, read.calibration) for read in evidence.models if read.calibration is not None]
    if not runs:
        return Missing(TENSORS, "a RUN folder, made by qmnv3 ptq or qmnv3 qat")
    figures = tuple(figure for read, calibration in runs for figure in _figures(read, calibration))
    tables = tuple(_layers(read, calibration) for read, calibration in runs)
    notes = (
        "SQNR is of the tensor's own rounding and clipping. Clipped values lie outside the grid; before "
        "h-swish those below -3 count as -3. KL: what the rounding is predicted to do to the prediction.",
    )
    return Section("tensors", TENSORS, figures=figures, tables=tables, notes=notes)


def sensitivity(evidence: Evidence) -> Section | Missing:
    """From `qmnv3 sensitivity`."""
    analyses = evidence.of(Sensitivity)
    if not analyses:
        return Missing(
            SENSITIVITY,
            "qmnv3 sensitivity --model M --weights W --calib DIR --out DIR (its sensitivity.json)",
        )
    parts = [(a, mode, [r for r in a.rows if r.mode == mode]) for a in analyses for mode in MODES]
    parts = [(a, mode, sorted(rows, key=lambda r: -r.kl_added.estimate)) for a, mode, rows in parts if rows]
    figures = tuple(_effects(analysis, mode, rows) for analysis, mode, rows in parts)
    tables = tuple(_effect_table(analysis, mode, rows) for analysis, mode, rows in parts)
    whole = Column("", "", ".4f")
    notes = tuple(
        f"{a.model}, all rounded: KL {whole.text(_estimate(a.kl))} nats, same top-1 as float on "
        f"{100 * a.agreement.estimate:.1f} % of {a.images} images."
        for a in analyses
    )
    lead = "What the rounding of one tensor, or of one layer's weights, adds to the KL divergence from float."
    return Section("sensitivity", SENSITIVITY, lead, figures, tables, notes)


def verdicts(evidence: Evidence) -> list[Verdict]:
    """Warnings that calibration gave."""
    found = []
    for source in evidence.sources:
        warnings = source.provenance.warnings if source.provenance is not None else ()
        found += [Verdict("warning", f"calibration of {source.path}", text) for text in warnings]
    return found


def _figures(read: Read, calibration: Calibration) -> tuple[Bars, Bars]:
    layers = calibration.layers
    ranges = tuple(
        Bar(x.site, "", min(x.low, x.high), max(x.low, x.high), (x.observed_low, x.observed_high))
        for x in layers
    )
    known = [x for x in layers if x.sqnr_db is not None]
    sqnr = tuple(
        Bar(x.site, "equalized" if x.equalized else "not equalized", 0.0, max(x.sqnr_db or 0.0, 0.0))
        for x in known
    )
    return (
        Bars(
            f"{read.path}: signal to quantization noise of every tensor",
            "One bar for each tensor in the network's order: its SQNR in decibels; higher is better.",
            "SQNR, dB",
            sqnr,
        ),
        Bars(
            f"{read.path}: ranges of every tensor",
            "One bar for each tensor: what its integer grid covers; the line in it is what was seen.",
            "value (logarithmic away from 0)",
            ranges,
            "symlog",
        ),
    )


def _layers(read: Read, calibration: Calibration) -> Table:
    columns = (
        Column("tensor", "tensor"),
        Column("operation", "operation"),
        Column("seen_low", "seen from", ".3g"),
        Column("seen_high", "to", ".3g"),
        Column("low", "grid from", ".3g"),
        Column("high", "to", ".3g"),
        Column("scale", "scale", ".3g"),
        Column("zero_point", "zero point", "d"),
        Column("sqnr_db", "SQNR dB", ".1f"),
        Column("clipped_percent", "clipped %", ".3f"),
        Column("predicted_kl", "KL, nats", ".2g"),
        Column("weight_sqnr_db", "weights dB", ".1f"),
    )
    rows = tuple(
        (
            x.site,
            x.kind if x.activation == "none" else f"{x.kind} + {x.activation}",
            x.observed_low,
            x.observed_high,
            x.low,
            x.high,
            x.scale,
            x.zero_point,
            x.sqnr_db,
            x.clipped_percent,
            x.predicted_kl,
            x.weight_sqnr_db,
        )
        for x in calibration.layers
    )
    return Table(f"{read.path}: {len(rows)} tensors, {calibration.images} images", columns, rows)


def _effects(analysis: Sensitivity, mode: str, rows: list[SensitivityRow]) -> Rows:
    worst = rows[:SHOWN]
    points = tuple(
        Row(x.site, x.kind, x.kl_added.estimate, x.kl_added.low, x.kl_added.high, x.predicted_kl)
        for x in worst
    )
    title = f"{analysis.model}, {MODES[mode]}: the {len(worst)} largest of {len(rows)}"
    description = "The estimate with its 95 % interval, which holds 0 where it reaches the left edge; "
    "a ring is what was predicted without measuring."
    return Rows(title, description, "KL divergence added, nats", points, "log")


def _effect_table(analysis: Sensitivity, mode: str, rows: list[SensitivityRow]) -> Table:
    columns = (
        Column("tensor", "tensor"),
        Column("kind", "rounding of"),
        Column("kl_added_nats", "KL added, nats", ".2g"),
        Column("predicted_kl_nats", "predicted", ".2g"),
        Column("sqnr_db", "SQNR dB of logits", ".1f"),
        Column("images", "images", "d"),
    )
    cells = tuple((x.site, x.kind, _estimate(x.kl_added), x.predicted_kl, x.sqnr_db, x.images) for x in rows)
    return Table(f"{analysis.model}, {MODES[mode]}", columns, cells)


def _estimate(value: Interval) -> Estimate:
    return Estimate(value.estimate, value.low, value.high)
