"""The paper's Tables 4 and 5, with what was measured and predicted here beside them."""

from device_eval.report.document import Missing, Section
from device_eval.report.evidence import Evidence
from device_eval.report.sections import table4, table5
from device_eval.report.sections.prediction import errors_in_words, fits, predictions

TITLE = "Beside the paper"


def section(evidence: Evidence) -> Section | Missing:
    """Rows of the paper, then of what is given."""
    if not (predictions(evidence) or table4.is_measured(evidence) or table5.is_measured(evidence)):
        return Missing(
            TITLE,
            "qmnv3 eval INT8 --data DIR --against FLOAT --json eval.json, qmnv3 check --json, qmnv3 bench "
            "--device adb --json on a Pixel, qmnv3 predict --json, or qmnv3 ablate placement",
        )
    notes = (
        "The paper's accuracies are on ImageNet's 50 000 validation images: on others compare changes, not "
        "accuracies. Its latencies are of one large core with software of 2019. Measured latencies are "
        "medians; where the phone is not the paper's, compare networks, not milliseconds.",
    )
    errors = errors_in_words([*fits(predictions(evidence)), *table5.fits(evidence)])
    tables = (table4.table(evidence), table5.table(evidence))
    return Section("paper", TITLE, tables=tables, notes=(*notes, *errors))
