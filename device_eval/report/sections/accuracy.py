"""Top-1 and top-5 with intervals, and models against each other on the same images."""

from device_eval.paper.table3 import TABLE3
from device_eval.paper.table4 import TABLE4
from device_eval.report.document import Column, Estimate, Missing, Section, Status, Table, Verdict
from device_eval.report.evidence import Evidence
from device_eval.report.figures import Row, Rows
from device_eval.report.records import Evaluation, Interval

TITLE = "Accuracy"
MODEL = Column("model", "model")


def section(evidence: Evidence) -> Section | Missing:
    """From `qmnv3 eval --json`."""
    evaluations = evidence.of(Evaluation)
    if not evaluations:
        return Missing(TITLE, "qmnv3 eval MODEL --data DIR --against FLOAT --json eval.json")
    rows, points = [], []
    for evaluation in evaluations:
        for path, runtime, top1, top5 in judged(evaluation):
            rows.append((path, runtime, evaluation.images, evaluation.data, top1, top5))
            label = f"{path}, {runtime}"
            points.append(Row(label, "top-1", top1.value, top1.low, top1.high))
            points.append(Row(label, "top-5", top5.value, top5.low, top5.high))
    # The same float parent may have been evaluated with several models.
    rows, points = list(dict.fromkeys(rows)), list(dict.fromkeys(points))
    columns = (
        MODEL,
        Column("runtime", "runtime"),
        Column("images", "images", "d"),
        Column("data", "data"),
        Column("top1_percent", "top-1 %", ".1f"),
        Column("top5_percent", "top-5 %", ".1f"),
    )
    tables = [Table("Accuracy with 95 % intervals", columns, tuple(rows)), *_compared(evaluations)]
    figure = Rows(
        "Accuracy of each model",
        "One line for each model: estimates with their 95 % intervals.",
        "images classified correctly, %",
        tuple(points),
    )
    notes = (
        "Intervals are Wilson's; those of differences are Newcombe's for paired proportions. Whether two "
        "models differ is read from their difference on the same images, not from intervals that overlap.",
    )
    return Section("accuracy", TITLE, figures=(figure,), tables=tuple(tables), notes=notes)


def verdicts(evidence: Evidence) -> list[Verdict]:
    """One line for each model that was compared with another."""
    return [
        Verdict(*_judge(evaluation))
        for evaluation in evidence.of(Evaluation)
        if evaluation.against is not None and len(evaluation.models) == 2
    ]


def largest_drop_of_the_paper() -> float:
    """Points that 8 bits cost at most in the paper: Table 4 against Table 3."""
    parents = {(row.model, row.width): row.top1_percent for row in TABLE3}
    return max(parents[row.model, row.width] - row.top1_percent for row in TABLE4)


def judged(evaluation: Evaluation) -> list[tuple[str, str, Estimate, Estimate]]:
    """Path, runtime, top-1 and top-5 in percent, of each model of an evaluation."""
    scores = [(evaluation.top1, evaluation.top5)]
    if evaluation.against is not None:
        scores.append((evaluation.against.top1, evaluation.against.top5))
    return [
        (subject.path, subject.runtime, percent(top1), percent(top5))
        for subject, (top1, top5) in zip(evaluation.models, scores, strict=False)
    ]


def percent(share: Interval) -> Estimate:
    """A share in percent."""
    ends = (None if end is None else 100 * end for end in (share.low, share.high))
    return Estimate(100 * share.estimate, *ends)


def _judge(evaluation: Evaluation) -> tuple[Status, str, str]:
    assert evaluation.against is not None
    this, other = evaluation.models
    change = percent(evaluation.against.difference)
    subject = f"accuracy of {this.path}"
    figures = f"{Column('', '', '+.1f').text(change)} points of top-1 against {other.path}"
    images = f"on {evaluation.images} images"
    if change.low is None or change.high is None:
        return "open", subject, f"{figures} {images}"
    if change.high < -largest_drop_of_the_paper():
        worst = f"{largest_drop_of_the_paper():.1f}"
        return "bad", subject, f"{figures} {images}: more than any network loses in the paper ({worst})"
    if change.high < 0:
        return "warning", subject, f"{figures} {images}: a loss beyond chance"
    if change.low <= 0:
        return (
            "open",
            subject,
            f"{figures} {images}: no difference shown, and a loss of {-change.low:.1f} not excluded",
        )
    return "good", subject, f"{figures} {images}"


def _compared(evaluations: list[Evaluation]) -> list[Table]:
    rows = []
    for evaluation in evaluations:
        against = evaluation.against
        if against is None or len(evaluation.models) < 2:
            continue
        this, other = evaluation.models[:2]
        rows.append(
            (
                this.path,
                other.path,
                this.runtime,
                percent(against.difference),
                against.difference.p_value,
                percent(against.agreement),
                against.mean_kl_nats,
            )
        )
    columns = (
        MODEL,
        Column("against", "against"),
        Column("runtime", "runtime"),
        Column("top1_change_points", "top-1, points", "+.1f"),
        Column("mcnemar_p", "McNemar's p", ".3g"),
        Column("same_top1_percent", "same top-1 %", ".1f"),
        Column("mean_kl_nats", "mean KL, nats", ".4f"),
    )
    return [Table("Differences on the same images", columns, tuple(rows))] if rows else []
