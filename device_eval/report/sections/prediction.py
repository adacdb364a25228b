"""Latency on Pixel phones, predicted: always with the errors of the prediction."""

from device_eval.report.document import Column, Estimate, Missing, Section, Table
from device_eval.report.evidence import Evidence
from device_eval.report.figures import Row, Rows
from device_eval.report.records import PhonePrediction, Prediction, Predictions

TITLE = "Predicted latency on Pixel phones"


def section(evidence: Evidence) -> Section | Missing:
    """From `qmnv3 predict --json`."""
    models = predictions(evidence)
    if not models:
        return Missing(TITLE, "qmnv3 predict RUN --json predict.json")
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
    return Section("predicted", TITLE, "", (figure,), (Table("Predictions", columns, tuple(rows)),), notes)


def predictions(evidence: Evidence) -> list[Prediction]:
    """Of all models, in the order given."""
    return [model for given in evidence.of(Predictions) for model in given.models]


def on(phone: str, predicted: tuple[PhonePrediction, ...]) -> Estimate | None:
    """The prediction for one phone."""
    found = [Estimate(p.predicted_ms, *p.interval_ms) for p in predicted if p.device == phone]
    return found[0] if found else None
