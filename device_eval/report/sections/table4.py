"""The paper's Table 4 with what was measured and predicted here: accuracy in 8 bits, latency on Pixels."""

from collections.abc import Iterator
from statistics import median

from device_eval.paper.table3 import TABLE3
from device_eval.paper.table4 import TABLE4
from device_eval.report.document import Cell, Column, Estimate, Table
from device_eval.report.evidence import Evidence
from device_eval.report.paper_records import Check, CheckedSamples
from device_eval.report.records import Benchmark, Device, Evaluation, Latency
from device_eval.report.sections.accuracy import judged, percent
from device_eval.report.sections.prediction import on, predictions

PHONES = ("Pixel 1", "Pixel 2", "Pixel 3")
NETWORK, SOURCE = Column("network", "network"), Column("source", "source")
TOP1 = Column("top1_percent", "top-1 %", ".1f")
MS = tuple(Column(f"{phone.lower().replace(' ', '')}_ms", f"{phone} ms", ".1f") for phone in PHONES)
# As phones call themselves; those called 3a have another processor.
_MODELS = {"Pixel": "Pixel 1", "Pixel XL": "Pixel 1", "Pixel 2 XL": "Pixel 2", "Pixel 3 XL": "Pixel 3"}

_Accuracy = tuple[Estimate, Estimate, Estimate | None, int]
"""Top-1 in 8 bits, in float, the change, and the number of images."""


def phone(device: Device) -> str | None:
    """Which of the paper's phones a device is, None for any other and for the host."""
    if device.kind != "android" or device.model is None:
        return None
    name = _MODELS.get(device.model, device.model)
    return name if name in PHONES else None


def table(evidence: Evidence) -> Table:
    """The paper's rows, then a row for each model and runtime measured, then predictions."""
    columns = (
        *(NETWORK, SOURCE, TOP1),
        Column("float_top1_percent", "in float", ".1f"),
        Column("top1_change_points", "change", "+.1f"),
        *MS,
    )
    predicted = tuple(
        (model.path, "predicted", None, None, None, *(on(name, model.predicted) for name in PHONES))
        for model in predictions(evidence)
        if model.precision == "int8"
    )
    return Table("Table 4: quantized to 8 bits", columns, (*_paper(), *_measured(evidence), *predicted))


def is_measured(evidence: Evidence) -> bool:
    """Whether the table has rows of ours that are not predicted."""
    return any(True for _ in _measured(evidence))


def _paper() -> Iterator[tuple[Cell, ...]]:
    parents = {(row.model, row.width): row.top1_percent for row in TABLE3}
    for row in TABLE4:
        parent = parents[row.model, row.width]
        accuracy = (row.top1_percent, parent, row.top1_percent - parent)
        yield row.network, "paper", *accuracy, row.pixel1_ms, row.pixel2_ms, row.pixel3_ms


def _measured(evidence: Evidence) -> Iterator[tuple[Cell, ...]]:
    accuracies, latencies = _accuracies(evidence), _latencies(evidence)
    for path in dict.fromkeys((*accuracies, *latencies)):
        for top1, parent, change, images in accuracies.get(path, [(None, None, None, 0)]):
            for runtime, found in latencies.get(path, {"": {}}).items():
                source = [f"{images} images"] * bool(images) + [runtime] * bool(runtime)
                times = (found.get(name) for name in PHONES)
                yield path, ", ".join(("measured", *source)), top1, parent, change, *times


def _accuracies(evidence: Evidence) -> dict[str, list[_Accuracy]]:
    """By path; a model may have been evaluated on several sets of images."""
    found: dict[str, list[_Accuracy]] = {}
    for evaluation in evidence.of(Evaluation):
        if evaluation.against is not None and len(evaluation.models) == 2:
            (path, _, top1, _), (_, _, parent, _) = judged(evaluation)
            change = percent(evaluation.against.difference)
            found.setdefault(path, []).append((top1, parent, change, evaluation.images))
    for check in evidence.of(Check):
        if check.accuracy is not None:
            accuracy = check.accuracy
            each = (percent(share) for share in (accuracy.int8, accuracy.float32, accuracy.difference))
            found.setdefault(check.model, []).append((*each, accuracy.images))  # type: ignore[arg-type]
    return {path: list(dict.fromkeys(rows)) for path, rows in found.items()}


def _latencies(evidence: Evidence) -> dict[str, dict[str, dict[str, float]]]:
    """Medians in milliseconds by path, runtime (and whether noisy) and phone, of one core."""
    found: dict[str, dict[str, dict[str, float]]] = {}

    def add(path: str, device: Device, one: Latency | CheckedSamples) -> None:
        name = phone(device)
        if name is not None:
            doubt = "" if one.verdict == "steady" else f", {one.verdict.partition(':')[0]}"
            by_phone = found.setdefault(path, {}).setdefault(one.runtime + doubt, {})
            by_phone[name] = median(one.latency_us) / 1000

    for benchmark in evidence.of(Benchmark):
        integer = {model.path for model in benchmark.models if model.quantized}
        for one in benchmark.latencies:
            if benchmark.threads == 1 and one.path in integer:
                add(one.path, benchmark.device, one)
    for check in evidence.of(Check):
        if check.latency is not None:
            add(check.model, check.latency.device, check.latency.int8)
    return found
