"""The whole of `qmnv3 ablate`: cells in other processes, then latency in this, one cell at a time."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from device_eval.latency import Plan
from device_eval.latency.result import Device, Report
from qmnv3.cli.ablate_accuracy import untrained
from qmnv3.cli.ablate_attempt import attempt, known, missing
from qmnv3.cli.ablate_cell import CellJob, reason
from qmnv3.cli.ablate_config import AblationConfig, Axis, Cell, cells
from qmnv3.cli.ablate_engine import Engine
from qmnv3.cli.ablate_latency import latency
from qmnv3.cli.progress import progress
from qmnv3.cli.training_data import find_training_data
from qmnv3.data.digits import write_digits
from qmnv3.data.folder import find_images
from qmnv3.errors import DataError
from qmnv3.files import file_sha256

DIGITS_SIDE = 64
_ELSEWHERE = (
    "done, but nothing came to {}; machines of a cluster must share --out and have the same version of qmnv3"
)


@dataclass(frozen=True)
class Ablation:
    """What to ablate and how; accuracy needs `data`. `engine` builds and trains cells.

    `device` measures latency; `training_device` is "cpu" or "cuda".
    """

    config: AblationConfig
    axes: tuple[Axis, ...]
    out: Path
    device: Device
    engine: Engine
    plan: Plan = field(default_factory=Plan)
    data: Path | None = None
    val: Path | None = None
    training_device: str = "cpu"


@dataclass(frozen=True)
class Outcome:
    """Finished cells in the recipe's order as plain JSON types, and reasons of failure by cell and axis.

    `device` is the identity of what measured latency, None without that axis.
    """

    cells: tuple[dict[str, Any], ...]
    failures: dict[str, str]
    device: dict[str, str] | None


def run_ablation(ablation: Ablation, report: Report) -> Outcome:
    """Find out what is not known yet about every cell; one that fails does not stop the others.

    Raises a QmnError for a recipe that names no network, and for images or weights that cannot be used.
    """
    jobs = _jobs(ablation)
    device = ablation.device.identity() if "latency" in ablation.axes else None
    if any(axis in ablation.axes for axis in ("size", "latency")):
        digits = jobs[0].digits
        if not digits.is_dir():
            write_digits(digits, DIGITS_SIDE)
    waiting, failures = [job for job in jobs if missing(job)], dict[str, str]()
    if "accuracy" in ablation.axes and any("accuracy" not in known(job) for job in waiting):
        report.note(f"each training writes its progress to {ablation.out}/cells/*/*/training.log")
    with progress("cells", len(jobs)) as advance:
        advance(len(jobs) - len(waiting))
        for job, failed in ablation.engine.run(attempt, waiting):
            failures |= {f"{job.cell.name}, {axis}": text for axis, text in failed.items()}
            advance(1)
            if not failed and missing(job):
                failures[f"{job.cell.name}, files"] = _ELSEWHERE.format(job.folder)
    results = {job.cell.name: known(job) for job in jobs}
    if device is not None:
        failures |= _measure(ablation, device, jobs, results, report)
    listed = (job.cell for job in jobs)
    return Outcome(tuple({**asdict(cell), **results[cell.name]} for cell in listed), failures, device)


def _jobs(ablation: Ablation) -> list[CellJob]:
    data, val, inputs = ablation.data, ablation.val, dict[str, str]()
    if data is not None:
        found = find_training_data(data, val, labels=True)
        if found.val is None:
            raise DataError(f"{data}: accuracy needs images to judge by; add {data}/val or give --val")
        data, val = Path(found.train.root).resolve(), Path(found.val.root).resolve()
        folders = {"train": find_images(data, classes=True), "val": find_images(val, classes=True)}
        inputs = {name: folder.listing_sha256() for name, folder in folders.items()}
    config, axes, out = ablation.config, ablation.axes, ablation.out.resolve()
    given, device = (out / "digits", data, val), ablation.training_device
    return [
        CellJob(cell, config, axes, out, *given, {**inputs, **_weights(cell)}, device)
        for cell in cells(config)
    ]


def _weights(cell: Cell) -> dict[str, str]:
    """The SHA-256 of what the cell's training starts from; refused here, not when its turn comes."""
    if cell.weights is None:
        return {}
    untrained(cell, cell.resolution, 0)
    return {"weights": file_sha256(Path(cell.weights))}


def _measure(
    ablation: Ablation,
    device: dict[str, str],
    jobs: Sequence[CellJob],
    results: dict[str, dict[str, Any]],
    report: Report,
) -> dict[str, str]:
    """Adds latencies to `results`; returns failures. One cell at a time, when nothing else runs here."""
    first, failures = ablation.config.variants[0].name, {}
    same_size = {(job.cell.width, job.cell.resolution): job for job in jobs if job.cell.variant == first}
    with progress("measuring", len(jobs)) as advance:
        for job in jobs:
            if "size" in results[job.cell.name]:
                baseline = same_size[job.cell.width, job.cell.resolution]
                comparable = "size" in results[baseline.cell.name]
                try:
                    results[job.cell.name]["latency"] = latency(
                        job,
                        baseline if comparable else None,
                        ablation.device,
                        device,
                        ablation.plan,
                        report,
                    )
                except Exception as error:
                    failures[f"{job.cell.name}, latency"] = reason(error)
            advance(1)
    return failures
