"""What is done to cells of an ablation; a module of its own, as spawned processes import it."""

import os
import signal

from qmnv3.cli.ablate_attempt import attempt
from qmnv3.cli.ablate_cell import CellJob
from qmnv3.data.workers import WorkerProcesses


def dying(job: CellJob) -> dict[str, str]:
    """As `attempt`, in a process that ends before it answers where the cell says so."""
    if job.cell.variant == "V3":
        os.kill(os.getpid(), signal.SIGKILL)
    if job.cell.variant == "broken":
        os._exit(3)
    return attempt(job)


def decoding(job: CellJob) -> dict[str, str]:
    """Has a process of its own do something, as training on a GPU has images decoded."""
    workers = WorkerProcesses(1)
    try:
        return {"size": workers(str.upper, job.cell.variant)}
    finally:
        workers.close()
