"""Processes that decode and augment beside one that trains on a GPU."""

import multiprocessing
import os
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from qmnv3.errors import DataError

_Result = TypeVar("_Result")


class WorkerProcesses:
    """A pool of processes; they end with their parent, however it ends, and leave Ctrl-C and SIGTERM to it.

    Threads will not do beside a GPU: decoding small images holds Python's lock half of the time, and the
    thread that launches kernels waits for it.
    """

    def __init__(self, count: int) -> None:
        # Started anew, not forked: a process with threads and CUDA must not be copied.
        context = multiprocessing.get_context("spawn")
        self._pool = ProcessPoolExecutor(count, context, initializer=_begin)

    def __call__(self, function: Callable[..., _Result], *arguments: Any) -> _Result:
        """What the function returns in a process; DataError if that was killed."""
        try:
            return self._pool.submit(function, *arguments).result()
        except BrokenProcessPool as error:
            raise DataError(
                "a process that decodes images was ended from outside, maybe for want of memory; "
                "lower workers and --resume"
            ) from error

    def close(self) -> None:
        """End the processes."""
        self._pool.shutdown(wait=True, cancel_futures=True)


def _begin() -> None:
    os.setsid()  # what is sent to the parent's group, as by Ctrl-C and timeout, does not reach this process
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
