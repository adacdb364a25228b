"""Verdicts of `qmnv3 check`: the paper's claims, one by one."""

from device_eval.report.document import Column, Estimate, Missing, Section, Status, Table, Verdict
from device_eval.report.evidence import Evidence
from device_eval.report.paper_records import Check, CheckRow

TITLE = "Claims of the paper, checked"
_STATUS: dict[str, Status] = {
    "better": "good",
    "as the paper": "good",
    "worse": "warning",
    "not decidable": "open",
}
_FORMS = {"points": "+.1f", "times": ".2f"}


def section(evidence: Evidence) -> Section | Missing:
    """From `qmnv3 check --json`; points and ratios have tables of their own."""
    checks = evidence.of(Check)
    if not checks:
        return Missing(TITLE, "qmnv3 check RUN --against table4 --data DIR --json check.json")
    tables = tuple(
        Table(
            f"{check.model}, beside {_network(check)}: {unit}",
            _columns(unit),
            tuple(
                (
                    row.quantity,
                    row.source,
                    row.published,
                    _estimate(row),
                    row.judgement.verdict,
                    row.judgement.needed,
                    row.samples,
                )
                for row in check.rows
                if row.unit == unit
            ),
        )
        for check in checks
        for unit in _FORMS
        if any(row.unit == unit for row in check.rows)
    )
    notes = tuple(f"{check.model}: {note}" for check in checks for note in check.notes)
    return Section("checks", TITLE, tables=tables, notes=notes)


def verdicts(evidence: Evidence) -> list[Verdict]:
    """A line for each claim of the paper itself; what others published is in the tables."""
    return [
        Verdict(
            _STATUS[row.judgement.verdict],
            f"{row.quantity}, {check.model}" + (f" beside {_network(check)}" if check.forced else ""),
            _sentence(row),
        )
        for check in evidence.of(Check)
        for row in check.rows
        if row.source.startswith("paper")
    ]


def _columns(unit: str) -> tuple[Column, ...]:
    return (
        Column("quantity", "quantity"),
        Column("source", "published by"),
        Column(f"published_{unit}", "published", _FORMS[unit]),
        Column(f"here_{unit}", "here", _FORMS[unit]),
        Column("verdict", "verdict"),
        Column("needed", "would need", "d"),
        Column("samples", "images or runs", "d"),
    )


def _estimate(row: CheckRow) -> Estimate:
    return Estimate(row.estimate, row.low, row.high)


def _network(check: Check) -> str:
    return f"{check.network}, which it is not" if check.forced else check.network


def _sentence(row: CheckRow) -> str:
    column = Column("", "", _FORMS[row.unit])
    judgement = row.judgement
    verdict = judgement.verdict if judgement.reason is None else f"{judgement.verdict}, {judgement.reason}"
    return (
        f"{verdict}: {column.text(_estimate(row))} {row.unit}, "
        f"{column.text(row.published)} in {row.source.removeprefix('paper, ')}"
    )
