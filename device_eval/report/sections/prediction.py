"""Latency on Pixel phones, predicted: always with the errors of the prediction."""

from device_eval.report.document import Column, Estimate, Missing, Section, Table
from device_eval.report.evidence import Evidence
from device_eval.report.figures import Row, Rows
from device_eval.report.records import PhonePrediction, Prediction, Predictions

TITLE = "Predicted latency on Pixel phones"
_LEFT_OUT = (
    "Left out: what the fit without a network said of it, against what was published. Families are left out "
    "whole: all widths but 1, all resolutions but 224, or one of the networks."
)


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
                p.leave_one_out.median_percent,
                p.leave_one_out.worst_percent,
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
        Column("left_out_median_percent", "left out: median %", ".1f"),
        Column("left_out_worst_percent", "worst %", ".1f"),
        Column("mmacs", "MMAC", ".1f"),
        Column("mb_moved", "MB moved", ".1f"),
        Column("weights_mb", "weights MB", ".2f"),
    )
    tables = (Table("Predictions", columns, tuple(rows)), _errors(models))
    notes = tuple(f"{model.path}, {model.precision}: {note}" for model in models for note in model.notes)
    return Section("predicted", TITLE, "", (figure,), tables, (_LEFT_OUT, *notes))


def _errors(models: list[Prediction]) -> Table:
    """Of each fit, once."""
    rows = {
        (phone, precision, left_out, errors.median_percent, errors.worst_percent): None
        for precision, p in fits(models)
        for phone in (p.device,)
        for left_out, errors in (("one network", p.leave_one_out), *p.families_left_out.items())
    }
    columns = (
        Column("phone", "phone"),
        Column("precision", "precision"),
        Column("left_out", "left out"),
        Column("median_percent", "median %", ".1f"),
        Column("worst_percent", "worst %", ".1f"),
    )
    return Table("Errors of predictions for networks left out of the fit", columns, tuple(rows))


def fits(models: list[Prediction]) -> list[tuple[str, PhonePrediction]]:
    """Precision and prediction of every model on every phone."""
    return [(model.precision, one) for model in models for one in model.predicted]


def errors_in_words(predicted: list[tuple[str, PhonePrediction]]) -> tuple[str, ...]:
    """A sentence for each fit."""
    return tuple(
        dict.fromkeys(
            f"Predicted, {p.device}, {precision}: networks left out of the fit were "
            f"{p.leave_one_out.median_percent:.1f} % off in the median, "
            f"{p.leave_one_out.worst_percent:.1f} % at worst."
            for precision, p in predicted
        )
    )


def predictions(evidence: Evidence) -> list[Prediction]:
    """Of all models, in the order given."""
    return [model for given in evidence.of(Predictions) for model in given.models]


def on(phone: str, predicted: tuple[PhonePrediction, ...]) -> Estimate | None:
    """The prediction for one phone."""
    found = [Estimate(p.predicted_ms, *p.interval_ms) for p in predicted if p.device == phone]
    return found[0] if found else None
