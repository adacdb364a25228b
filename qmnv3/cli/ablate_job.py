"""The whole of `qmnv3 ablate`: cells in parallel processes, then latency, one cell at a time."""

import multiprocessing
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from device_eval.latency import Plan
from device_eval.latency.result import Device, Report
from qmnv3.cli.ablate_cell import CellJob, Found, attempt, latency, reason
from qmnv3.cli.ablate_config import AblationConfig, Axis, Cell, cells
from qmnv3.cli.progress import progress
from qmnv3.cli.training_data import find_training_data
from qmnv3.data.digits import write_digits
from qmnv3.environment import cpu_name
from qmnv3.errors import DataError

DIGITS_SIDE = 64


@dataclass(frozen=True)
class Ablation:
    """What to ablate and how; accuracy needs `data`. `jobs` processes build and train cells."""

    config: AblationConfig
    axes: tuple[Axis, ...]
    out: Path
    device: Device
    device_name: str
    plan: Plan = field(default_factory=Plan)
    data: Path | None = None
    val: Path | None = None
    jobs: int = 1

    @property
    def where(self) -> str:
        """The device in words: "host" is another on another machine."""
        return cpu_name() if self.device_name == "host" else self.device_name


@dataclass(frozen=True)
class Outcome:
    """Finished cells in the recipe's order as plain JSON types, and reasons of failure by cell and axis."""

    cells: tuple[dict[str, Any], ...]
    failures: dict[str, str]


def run_ablation(ablation: Ablation, report: Report) -> Outcome:
    """Find out what is not known yet about every cell; one that fails does not stop the others.

    Raises a QmnError for a recipe that names no network, and for images that cannot be used.
    """
    jobs = _jobs(ablation)
    if any(axis in ablation.axes for axis in ("size", "latency")):
        digits = jobs[0].digits
        if not digits.is_dir():
            write_digits(digits, DIGITS_SIDE)
    found: dict[str, Found] = {}
    with progress("cells", len(jobs)) as advance:
        for name, result in _all(jobs, ablation.jobs):
            found[name] = result
            advance(1)
    failures = {
        f"{job.cell.name}, {axis}": text
        for job in jobs
        for axis, text in found[job.cell.name].failures.items()
    }
    results = {name: dict(result.results) for name, result in found.items()}
    if "latency" in ablation.axes:
        failures |= _measure(ablation, jobs, results, report)
    listed = (job.cell for job in jobs)
    return Outcome(tuple({**_plain(cell), **results[cell.name]} for cell in listed), failures)


def _jobs(ablation: Ablation) -> list[CellJob]:
    data, val = ablation.data, ablation.val
    if data is not None:
        if find_training_data(data, val, labels=True).val is None:
            raise DataError(f"{data}: accuracy needs images to judge by; add {data}/val or give --val")
        val = val or data / "val"
        data = data / "train" if (data / "train").is_dir() else data
    config, axes, out = ablation.config, ablation.axes, ablation.out
    return [CellJob(cell, config, axes, out, out / "digits", data, val) for cell in cells(config)]


def _all(jobs: Sequence[CellJob], processes: int) -> Iterator[tuple[str, Found]]:
    if processes == 1:
        for job in jobs:
            yield job.cell.name, attempt(job)
        return
    threads = max(1, (os.cpu_count() or 1) // processes)
    # Forked processes hang in torch's threads.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context, torch.set_num_threads, (threads,)) as pool:
        names = {pool.submit(attempt, job): job.cell.name for job in jobs}
        for future in as_completed(names):
            try:
                yield names[future], future.result()
            except Exception as error:  # its process was killed
                yield names[future], Found({}, {"process": reason(error)})


def _measure(
    ablation: Ablation, jobs: Sequence[CellJob], results: dict[str, dict[str, Any]], report: Report
) -> dict[str, str]:
    """Adds latencies to `results`; returns failures. One cell at a time, when nothing else runs here."""
    first, failures = ablation.config.variants[0].name, {}
    same_size = {(job.cell.width, job.cell.resolution): job for job in jobs if job.cell.variant == first}
    with progress("measuring", len(jobs)) as advance:
        for job in jobs:
            if "size" in results[job.cell.name]:
                baseline = same_size[job.cell.width, job.cell.resolution]
                known = baseline if "size" in results[baseline.cell.name] else None
                try:
                    results[job.cell.name]["latency"] = latency(
                        job, known, ablation.device, ablation.where, ablation.plan, report
                    )
                except Exception as error:
                    failures[f"{job.cell.name}, latency"] = reason(error)
            advance(1)
    return failures


def _plain(cell: Cell) -> dict[str, Any]:
    return {
        "variant": cell.variant,
        "model": cell.model,
        "options": dict(cell.options),
        "width": cell.width,
        "resolution": cell.resolution,
        "curve": cell.curve,
        "claim": cell.claim,
    }
