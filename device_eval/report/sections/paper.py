"""The paper's Tables 4 and 5, with what was measured and predicted here beside them."""

from device_eval.paper.table3 import TABLE3
from device_eval.paper.table4 import TABLE4
from device_eval.paper.table5 import TABLE5
from device_eval.report.document import Cell, Column, Estimate, Missing, Section, Table
from device_eval.report.evidence import Evidence
from device_eval.report.figures import Row, Rows
from device_eval.report.records import Evaluation, PhonePrediction, Prediction, Predictions
from device_eval.report.sections.accuracy import judged, percent

TITLE, PREDICTED = "Beside the paper", "Predicted latency on Pixel phones"
_PHONES = ("Pixel 1", "Pixel 2", "Pixel 3")
_NETWORK = Column("network", "network")
_SOURCE = Column("source", "source")
_MS = tuple(Column(f"{phone.lower().replace(' ', '')}_ms", f"{phone} ms", ".1f") for phone in _PHONES)


def predicted(evidence: Evidence) -> Section | Missing:
    """From `qmnv3 predict --json`."""
    models = _predictions(evidence)
    if not models:
        return Missing(PREDICTED, "qmnv3 predict RUN --json predict.json")
    points = tuple(
        Row(f"{model.path}, {model.precision}, {p.device}", model.precision, p.predicted_ms, *p.interval_ms)
        for model in models
        for p in model.predicted
    )
    figure = Rows(
        "Predicted latency on one large core, batch 1 (not measured)",
        "The prediction with its interval, as wide as the worst published network was off when left out.",
        "predicted milliseconds",
        points,
    )
    rows = [
        (
            *(model.path, model.precision, p.device, Estimate(p.predicted_ms, *p.interval_ms)),
            *(
                100 * p.coverage,
                p.fitted_to,
                model.macs / 1e6,
                model.bytes_moved / 1e6,
                model.weight_bytes / 1e6,
            ),
        )
        for model in models
        for p in model.predicted
    ]
    columns = (
        Column("model", "model"),
        Column("precision", "precision"),
        Column("phone", "phone"),
        Column("predicted_ms", "predicted ms", ".1f"),
        Column("coverage_percent", "interval holds %", ".0f"),
        Column("fitted_to", "fitted to", "d"),
        Column("mmacs", "MMAC", ".1f"),
        Column("mb_moved", "MB moved", ".1f"),
        Column("weights_mb", "weights MB", ".2f"),
    )
    notes = tuple(f"{model.path}, {model.precision}: {note}" for model in models for note in model.notes)
    return Section(
        "predicted", PREDICTED, "", (figure,), (Table("Predictions", columns, tuple(rows)),), notes
    )


def section(evidence: Evidence) -> Section | Missing:
    """Rows of the paper, then of what is given."""
    compared = [e for e in evidence.of(Evaluation) if e.against is not None and len(e.models) == 2]
    models = _predictions(evidence)
    if not compared and not models:
        return Missing(
            TITLE, "qmnv3 eval INT8 --data DIR --against FLOAT --json eval.json, or qmnv3 predict --json"
        )
    accuracy = [
        Column("top1_percent", "top-1 %", ".1f"),
        Column("float_top1_percent", "in float", ".1f"),
        Column("top1_change_points", "change", "+.1f"),
    ]
    eight = [*_paper_8_bits(), *map(_measured, compared), *_predicted_rows(models, "int8")]
    five = [*_paper_h_swish(), *((*row[:3], *row[5:6]) for row in _predicted_rows(models, "float32"))]
    tables = (
        Table("Table 4: quantized to 8 bits", (_NETWORK, _SOURCE, *accuracy, *_MS), tuple(eight)),
        Table(
            "Table 5: where V3-Large has h-swish, float",
            (_NETWORK, _SOURCE, accuracy[0], _MS[0]),
            tuple(five),
        ),
    )
    notes = (
        "The paper's accuracies are on ImageNet's 50 000 validation images: on others compare changes, not "
        "accuracies. Its latencies are of one large core with software of 2019; ours here are predicted.",
    )
    return Section("paper", TITLE, tables=tables, notes=notes)


def _predictions(evidence: Evidence) -> list[Prediction]:
    return [model for predictions in evidence.of(Predictions) for model in predictions.models]


def _paper_8_bits() -> list[tuple[Cell, ...]]:
    parents = {(row.model, row.width): row.top1_percent for row in TABLE3}
    return [
        (
            *(row.network, "paper", row.top1_percent, parents[row.model, row.width]),
            row.top1_percent - parents[row.model, row.width],
            *(row.pixel1_ms, row.pixel2_ms, row.pixel3_ms),
        )
        for row in TABLE4
    ]


def _paper_h_swish() -> list[tuple[Cell, ...]]:
    return [(row.variant, "paper", row.top1_percent, row.pixel1_ms) for row in TABLE5]


def _measured(evaluation: Evaluation) -> tuple[Cell, ...]:
    assert evaluation.against is not None
    (path, _, top1, _), (_, _, parent, _) = judged(evaluation)
    source = f"measured, {evaluation.images} images"
    return path, source, top1, parent, percent(evaluation.against.difference), None, None, None


def _predicted_rows(models: list[Prediction], precision: str) -> list[tuple[Cell, ...]]:
    return [
        (model.path, "predicted", None, None, None, *(_on(phone, model.predicted) for phone in _PHONES))
        for model in models
        if model.precision == precision
    ]


def _on(phone: str, predicted: tuple[PhonePrediction, ...]) -> Estimate | None:
    found = [Estimate(p.predicted_ms, *p.interval_ms) for p in predicted if p.device == phone]
    return found[0] if found else None
