"""What an engine does for a cell, and what is there afterwards; all results go through the cell's files."""

from collections.abc import Callable

from qmnv3.cli.ablate_accuracy import accuracy, accuracy_record
from qmnv3.cli.ablate_cell import CellJob, Failures, Record, Result, reason
from qmnv3.cli.ablate_export import size, size_record
from qmnv3.errors import TrainingStopped


def attempt(job: CellJob) -> Failures:
    """Find out what is not known yet of size (also what latency needs) and accuracy; what fails is returned.

    Raises TrainingStopped when asked to end.
    """
    steps: dict[str, Callable[[CellJob], Result]] = {"size": size, "accuracy": accuracy}
    failures = Failures()
    for axis in _records(job):
        try:
            steps[axis](job)
        except TrainingStopped:
            raise
        except Exception as error:
            failures[axis] = reason(error)
    return failures


def known(job: CellJob) -> dict[str, Result]:
    """Results by axis, as far as they are there."""
    found = {axis: record.read() for axis, record in _records(job).items()}
    return {axis: result for axis, result in found.items() if result is not None}


def missing(job: CellJob) -> bool:
    """Whether there is anything to attempt."""
    return len(known(job)) < len(_records(job))


def _records(job: CellJob) -> dict[str, Record]:
    records = {}
    if {"size", "latency"} & set(job.axes):
        records["size"] = size_record(job)
    if "accuracy" in job.axes:
        records["accuracy"] = accuracy_record(job)
    return records
