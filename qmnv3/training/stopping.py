"""Stopping between two steps when asked to, so that what is saved is whole."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stop:
    """Whether a signal has come, and which."""

    def __init__(self) -> None:
        self.signal: int | None = None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """The signal handler; a second signal does what it would have done."""
        self.signal = number
        for each in _heard():
            signal.signal(each, signal.SIG_DFL)


@contextmanager
def asked_to_stop() -> Iterator[Stop]:
    """Note Ctrl-C, SIGTERM and a closed terminal instead of dying of them; only the main thread can."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.signal(number, stop) for number in _heard()}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _heard() -> list[signal.Signals]:
    """All but those that are ignored, as nohup has it of a closed terminal."""
    return [number for number in _SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
