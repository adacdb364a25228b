"""Cells of an ablation whose process dies; a module of its own, as spawned processes import it."""

import os
import signal

from qmnv3.cli.ablate_attempt import attempt
from qmnv3.cli.ablate_cell import CellJob


def dying(job: CellJob) -> dict[str, str]:
    """As `attempt`, in a process that ends before it answers where the cell says so."""
    if job.cell.variant == "V3":
        os.kill(os.getpid(), signal.SIGKILL)
    if job.cell.variant == "broken":
        os._exit(3)
    return attempt(job)
