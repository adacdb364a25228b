"""Processes that decode and augment beside one that trains on a GPU."""

import os
import signal
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.context import SpawnContext, SpawnProcess
from typing import Any, TypeVar

from qmnv3.errors import DataError
from qmnv3.processes import end_with_parent, signals_held

_Result = TypeVar("_Result")


class WorkerProcesses:
    """A pool of processes; they end with their parent, however it ends, and leave Ctrl-C and SIGTERM to it.

    Threads will not do beside a GPU: decoding small images keeps Python's lock busy, and the thread that
    launches kernels waits for it. As ever with processes that are started anew, a script that
    makes this needs `if __name__ == "__main__":`.
    """

    def __init__(self, count: int) -> None:
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # each process would start a thread for every core
        self._pool = ProcessPoolExecutor(
            count, _Spawn(), initializer=end_with_parent, initargs=(signal.SIGKILL,)
        )

    def __call__(self, function: Callable[..., _Result], *arguments: Any) -> _Result:
        """What the function returns in a process; DataError if a process died."""
        try:
            with signals_held(signal.SIGINT, signal.SIGTERM):
                future = self._pool.submit(function, *arguments)
            return future.result()
        except BrokenProcessPool as error:
            raise DataError(
                "a process that decodes images died; where memory is short lower --workers, then --resume"
            ) from error

    def close(self) -> None:
        """End the processes."""
        self._pool.shutdown(wait=True, cancel_futures=True)


class _Process(SpawnProcess):
    def terminate(self) -> None:
        self.kill()  # SIGTERM is held back


class _Spawn(SpawnContext):
    """Started anew, not forked: a process with threads and CUDA must not be copied."""

    Process = _Process
