"""Processes that work for another: they end with it, however it ends, and leave signals to it."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from signal import Signals


@contextmanager
def signals_held(*held: Signals) -> Iterator[None]:
    """A process started by this thread meanwhile does not get these: they are its parent's to answer.

    A service manager sends SIGTERM to every process of a job, a terminal Ctrl-C likewise.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, held)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_with_parent(last: Signals) -> None:
    """Send this process the signal `last` when its parent is gone, even by SIGKILL."""

    def watch() -> None:
        parent = multiprocessing.parent_process()
        assert parent is not None
        parent.join()
        os.kill(os.getpid(), last)

    threading.Thread(target=watch, daemon=True).start()
