"""One row for every file of every cell of an ablation."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from device_eval.ablation.paper import Published, published

PIECES = "pieces"


@dataclass(frozen=True)
class Predicted:
    """Latency on one large core of a Pixel 1 in the software of the paper, and how far to trust it.

    Errors, in percent, are of published networks each left out of the fit; `families` are the median
    and worst ones of networks left out with all of their family. `notes` say what is doubtful.
    """

    ms: float
    median_error_percent: float
    worst_error_percent: float
    families: Mapping[str, tuple[float, float]]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Row:
    """One file of one network. `form` is "float32", or "int8" and how its nonlinearities are lowered.

    `measured_ms` are medians by runtime, `ratios` those to the first variant's first int8 file of the same
    width and resolution, `noisy` the runtimes whose samples were not steady, or too few to tell. `refusals`
    are reasons by the runtime that does not run the file, or PIECES where XNNPACK does not take it in
    pieces either. `paper` is what the paper published for this network in this precision. None where an
    axis was left out.
    """

    variant: str
    curves: tuple[str, ...]
    width: float
    resolution: int
    form: str
    size_bytes: int | None = None
    madds: int | None = None
    params: int | None = None
    partitions: int | None = None
    measured_ms: Mapping[str, float] | None = None
    ratios: Mapping[str, float] | None = None
    noisy: frozenset[str] = frozenset()
    refusals: Mapping[str, str] = field(default_factory=dict)
    predicted: Predicted | None = None
    top1_percent: tuple[float, float, float] | None = None
    paper: Published | None = None

    @property
    def notes(self) -> tuple[str, ...]:
        """What must be read with the row's figures."""
        return (*(self.predicted.notes if self.predicted else ()), *self.refusals.values())


def rows_of(cells: Sequence[Mapping[str, Any]]) -> list[Row]:
    """Rows of finished cells, in their order; a cell is as `qmnv3 ablate` writes it into its JSON."""
    return [row for cell in cells for row in _rows(cell)]


def _rows(cell: Mapping[str, Any]) -> list[Row]:
    size, accuracy = cell.get("size"), cell.get("accuracy")
    if size:
        built = {"madds": size["madds"], "params": size["params"]}
        return [_row(cell, file["form"], built | _of_file(file)) for file in size["files"]]
    return [_row(cell, form, {}) for form in (accuracy["top1"] if accuracy else ())]


def _row(cell: Mapping[str, Any], form: str, built: dict[str, Any]) -> Row:
    latency, accuracy = _of_latency(cell.get("latency"), form), cell.get("accuracy")
    refusals = {**built.pop("refusals", {}), **latency.pop("refusals", {})}
    top1 = accuracy["top1"].get(form) if accuracy else None
    return Row(
        cell["variant"],
        tuple(cell["curves"]),
        cell["width"],
        cell["resolution"],
        form,
        **built,
        **latency,
        refusals=refusals,
        top1_percent=None if top1 is None else (top1["estimate"], top1["low"], top1["high"]),
        paper=published(cell["model"], cell["options"], cell["width"], cell["resolution"], form.split()[0]),
    )


def _of_file(file: Mapping[str, Any]) -> dict[str, Any]:
    refused = file["refused"]
    return {
        "size_bytes": file["size_bytes"],
        "partitions": None if refused else file["partitions"],
        "predicted": _predicted_pixel1(file),
        "refusals": {PIECES: refused} if refused else {},
    }


def _predicted_pixel1(file: Mapping[str, Any]) -> Predicted:
    """Of a file as `qmnv3 ablate` writes it into its JSON."""
    pixel1 = next(device for device in file["predicted"] if device["device"] == "Pixel 1")
    families = {name: _errors(errors) for name, errors in pixel1["families_left_out"].items()}
    return Predicted(
        pixel1["predicted_ms"], *_errors(pixel1["leave_one_out"]), families, tuple(file["notes"])
    )


def _errors(errors: Mapping[str, float]) -> tuple[float, float]:
    return errors["median_percent"], errors["worst_percent"]


def _of_latency(latency: Mapping[str, Any] | None, form: str) -> dict[str, Any]:
    if latency is None:
        return {}
    taken = [entry for entry in latency["latencies"] if entry["form"] == form]
    return {
        "measured_ms": {entry["runtime"]: entry["p50_us"] / 1000 for entry in taken} or None,
        "ratios": {entry["runtime"]: entry["ratio"] for entry in taken if entry["ratio"]} or None,
        "noisy": frozenset(entry["runtime"] for entry in taken if entry["verdict"] != "steady"),
        "refusals": {r["runtime"]: r["reason"] for r in latency["refusals"] if r["form"] == form},
    }
