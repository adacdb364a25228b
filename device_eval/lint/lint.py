"""Running all rules over one model."""

from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from device_eval.lint.description import Format, Model
from device_eval.lint.finding import SEVERITIES, Finding, Severity
from device_eval.lint.readers import read_model
from device_eval.lint.rules import RULES


@dataclass(frozen=True)
class Report:
    """Everything found in one model, worst first."""

    path: Path
    format: Format
    operations: int
    findings: tuple[Finding, ...]

    def count(self, severity: Severity) -> int:
        """Number of findings of one severity."""
        return sum(finding.severity == severity for finding in self.findings)

    @property
    def rules(self) -> dict[str, int]:
        """Number of findings per rule, in the report's order."""
        return dict(Counter(finding.rule for finding in self.findings))

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types, every finding in full."""
        findings = [{k: v for k, v in asdict(f).items() if k != "rank"} for f in self.findings]
        counts = {severity: self.count(severity) for severity in SEVERITIES}
        return {
            "path": str(self.path),
            "format": self.format,
            "operations": self.operations,
            "counts": counts,
            "findings": findings,
        }


def lint(path: Path) -> Report:
    """Read a .tflite, .onnx or RUN and apply every rule; see `read_model` for its errors."""
    return check(read_model(path))


def check(model: Model) -> Report:
    """Apply every rule to `model`."""
    # Absurd scales are what is looked for: products of them may overflow.
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        found = [(order, finding) for order, rule in enumerate(RULES) for finding in rule(model)]
    found.sort(key=lambda pair: (SEVERITIES.index(pair[1].severity), pair[0], -pair[1].rank))
    return Report(model.path, model.format, len(model.ops), tuple(finding for _, finding in found))
