"""Where cells are built and trained: in processes of this machine, a fresh one for each cell."""

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Protocol

import torch

from qmnv3.cli.ablate_cell import CellJob, Failures
from qmnv3.errors import TrainingStopped
from qmnv3.processes import end_with_parent, signals_held

Work = Callable[[CellJob], Failures]
"""Writes a cell's results into its files; returns what failed."""

DIED = "process"
"""In place of the axis, where the process that worked on a cell died."""

_GRACE_S = 60.0


class Engine(Protocol):
    """Runs the same work for many cells; whatever happens to one, the others are finished."""

    def run(self, work: Work, jobs: Sequence[CellJob]) -> Iterator[tuple[CellJob, Failures]]:
        """Every job with what failed of it, in the order they end."""


@dataclass(frozen=True)
class Processes:
    """At most `count` processes at a time. Ended early, they save what training they were at."""

    count: int = 1

    def run(self, work: Work, jobs: Sequence[CellJob]) -> Iterator[tuple[CellJob, Failures]]:
        """Every job with what failed of it, in the order they end."""
        waiting, running = deque(jobs), dict[Connection, tuple[CellJob, BaseProcess]]()
        threads = max(1, (os.cpu_count() or 1) // self.count)
        try:
            while waiting or running:
                while waiting and len(running) < self.count:
                    job = waiting.popleft()
                    pipe, process = _start(work, job, threads)
                    running[pipe] = job, process
                ended = wait(list(running))
                for pipe in [pipe for pipe in running if pipe in ended]:
                    job, process = running.pop(pipe)
                    yield job, _answer(pipe, process)
        finally:
            _stop([process for _, process in running.values()])


def _start(work: Work, job: CellJob, threads: int) -> tuple[Connection, BaseProcess]:
    # Forked processes hang in torch's threads.
    context = multiprocessing.get_context("spawn")
    receiving, sending = context.Pipe(duplex=False)
    # Not a daemon: these may not have the processes that decode images beside a GPU.
    process = context.Process(target=_run, args=(work, job, threads, sending))
    with signals_held(signal.SIGINT):
        process.start()
    # The pipe ends when the process does.
    sending.close()
    return receiving, process


def _run(work: Work, job: CellJob, threads: int, pipe: Connection) -> None:
    end_with_parent(signal.SIGTERM)
    torch.set_num_threads(min(torch.get_num_threads(), threads))
    # Then all is saved, and nobody asks any more.
    with suppress(TrainingStopped):
        pipe.send(work(job))


def _answer(pipe: Connection, process: BaseProcess) -> Failures:
    try:
        failures: Failures = pipe.recv()
    except EOFError:
        process.join()
        return {DIED: died(process.exitcode or 0)}
    finally:
        pipe.close()
    process.join()
    return failures


def died(code: int) -> str:
    """One line on a process that ended with `code`, below 0 for a signal, before it answered."""
    if code == -signal.SIGKILL:
        return "its process was killed, usually for want of memory; give the command again with fewer --jobs"
    how = signal.strsignal(-code) if code < 0 else f"exit code {code}"
    return f"its process crashed ({how}); give the command again"


def _stop(processes: Sequence[BaseProcess]) -> None:
    for process in processes:
        process.terminate()
    for process in processes:
        process.join(_GRACE_S)
        process.kill()
