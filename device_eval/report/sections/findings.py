"""What lint finds in quantized files: in those given, and in what `qmnv3 lint --json` says of others."""

from collections import Counter
from collections.abc import Sequence

from device_eval.lint.finding import SEVERITIES, Finding
from device_eval.report import records
from device_eval.report.document import Column, Missing, Section, Status, Table, Verdict
from device_eval.report.evidence import Evidence

TITLE = "Lint"


def section(evidence: Evidence) -> Section | Missing:
    """A row for each finding, the worst first."""
    found = _found(evidence)
    if not found:
        return Missing(TITLE, "a quantized .tflite or .onnx file or a RUN folder, or qmnv3 lint --json")
    rows = [
        (path, f.severity, f.rule, f.effect, f.where, f.what, f.fix)
        for path, findings in found.items()
        for f in findings
    ]
    rows.sort(key=lambda row: SEVERITIES.index(row[1]))
    columns = (
        Column("model", "model"),
        Column("severity", "severity"),
        Column("rule", "rule"),
        Column("effect", "costs"),
        Column("where", "where"),
        Column("what", "what"),
        Column("fix", "do"),
    )
    clean = tuple(f"{path}: nothing found." for path, findings in found.items() if not findings)
    tables = (Table("Findings", columns, tuple(rows)),) if rows else ()
    return Section("lint", TITLE, tables=tables, notes=clean)


def verdicts(evidence: Evidence) -> list[Verdict]:
    """One line for each model."""
    return [Verdict(*_judge(path, findings)) for path, findings in _found(evidence).items()]


def _found(evidence: Evidence) -> dict[str, Sequence[Finding | records.Finding]]:
    """Findings by path; the files themselves come before what a lint file says of them."""
    found: dict[str, Sequence[Finding | records.Finding]] = {
        str(read.path): read.lint.findings for read in evidence.models if read.lint is not None
    }
    for lint in evidence.of(records.Lint):
        for model in lint.models:
            found.setdefault(model.path, model.findings)
    return found


def _judge(path: str, findings: Sequence[Finding | records.Finding]) -> tuple[Status, str, str]:
    count = Counter(finding.severity for finding in findings)
    status: Status = "bad" if count["error"] else "warning" if count["warning"] else "good"
    rules = dict.fromkeys(f.rule for f in findings if f.severity != "note")
    counted = ", ".join(f"{count[s]} {s}{'' if count[s] == 1 else 's'}" for s in SEVERITIES)
    return status, f"lint of {path}", f"{counted}{': ' if rules else ''}{', '.join(rules)}"
