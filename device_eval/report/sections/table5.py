"""The paper's Table 5 with what was predicted and measured here of the same networks."""

from collections.abc import Iterator

from device_eval.paper.table5 import TABLE5
from device_eval.report.document import Cell, Column, Table
from device_eval.report.evidence import Evidence
from device_eval.report.paper_records import Ablation, AblationCell, AblationLatency
from device_eval.report.records import Device, PhonePrediction
from device_eval.report.sections.prediction import on, predictions
from device_eval.report.sections.table4 import MS, NETWORK, SOURCE, TOP1, phone


def table(evidence: Evidence) -> Table:
    """The paper's rows, then float predictions, then networks of `qmnv3 ablate`, swish's included."""
    columns = (NETWORK, SOURCE, TOP1, MS[0], Column("measured_ms", "measured ms", ".2f"))
    paper = tuple((row.variant, "paper, float32", row.top1_percent, row.pixel1_ms, None) for row in TABLE5)
    predicted = tuple(
        (model.path, "predicted", None, on("Pixel 1", model.predicted), None)
        for model in predictions(evidence)
        if model.precision == "float32"
    )
    ablated = (row for ablation in evidence.of(Ablation) for row in _ablated(ablation))
    return Table("Table 5: where V3-Large has h-swish", columns, (*paper, *predicted, *ablated))


def is_measured(evidence: Evidence) -> bool:
    """Whether some ablation has a network of the table."""
    return any(True for ablation in evidence.of(Ablation) for _ in _ablated(ablation))


def fits(evidence: Evidence) -> list[tuple[str, PhonePrediction]]:
    """Precision and prediction of every network of an ablation."""
    cells = (cell for ablation in evidence.of(Ablation) for cell in ablation.cells if _is_placement(cell))
    files = (file for cell in cells if cell.size is not None for file in cell.size.files)
    return [(file.form.partition(" ")[0], one) for file in files for one in file.predicted]


def _ablated(ablation: Ablation) -> Iterator[tuple[Cell, ...]]:
    for cell in filter(_is_placement, ablation.cells):
        name = cell.variant if cell.width == 1 else f"{cell.width:g} {cell.variant}"
        for file in cell.size.files if cell.size is not None else ():
            yield name, f"predicted, {file.form}", None, on("Pixel 1", file.predicted), None
        if cell.latency is None:
            continue
        device, host = cell.latency.conditions, (ablation.device or {}).get("name", "this host")
        for one in cell.latency.latencies:
            yield name, _source(one, device, host), None, *_placed(one.p50_us / 1000, device)


def _is_placement(cell: AblationCell) -> bool:
    """V3-Large as in the table, but for where it has which nonlinearity."""
    nonlinearity = cell.options.get("nonlinearity", "paper")
    widths = {row.width for row in TABLE5 if row.nonlinearity == nonlinearity} | {1.0}
    only = not set(cell.options) - {"nonlinearity", "activations"}
    network = (cell.model, cell.resolution) == ("large", 224) and only
    return network and cell.width in widths


def _source(one: AblationLatency, device: Device, where: str) -> str:
    doubt = "" if one.verdict == "steady" else f", {one.verdict.partition(':')[0]}"
    return f"measured, {one.form}, {one.runtime} on {device.model or where}{doubt}"


def _placed(ms: float, device: Device) -> tuple[float | None, float | None]:
    """In the column of the paper's phone or in that of all other devices."""
    return (ms, None) if phone(device) == "Pixel 1" else (None, ms)
