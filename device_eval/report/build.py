"""Putting the report together."""

from device_eval.report.document import Missing, Report, Section
from device_eval.report.evidence import Evidence
from device_eval.report.sections import (
    ablations,
    accuracy,
    checks,
    findings,
    latency,
    operations,
    paper,
    prediction,
    provenance,
    structure,
    tensors,
)
from qmnv3 import __version__


def build(evidence: Evidence, title: str = "Quantization report") -> Report:
    """Everything the evidence shows, in the order of the page; sections without data are `missing`."""
    verdicts = [
        *accuracy.verdicts(evidence),
        *checks.verdicts(evidence),
        *latency.verdicts(evidence),
        *structure.verdicts(evidence),
        *findings.verdicts(evidence),
        *tensors.verdicts(evidence),
    ]
    sections: list[Section | Missing] = [
        accuracy.section(evidence),
        checks.section(evidence),
        paper.section(evidence),
        ablations.section(evidence),
        latency.section(evidence),
        operations.section(evidence),
        prediction.section(evidence),
        structure.partitions(evidence),
        structure.h_swish(evidence),
        tensors.tensors(evidence),
        tensors.sensitivity(evidence),
        findings.section(evidence),
        provenance.section(evidence),
    ]
    return Report(
        title,
        __version__,
        tuple(dict.fromkeys(verdicts)),
        tuple(section for section in sections if isinstance(section, Section)),
        tuple(section for section in sections if isinstance(section, Missing)),
        provenance.recipes(evidence),
    )
