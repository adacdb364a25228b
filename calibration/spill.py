"""The folder for tensors that do not fit in memory, locked while in use: a killed run's is told apart."""

import fcntl
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

_PREFIX = "qmnv3-activations-"


class SpillFolder:
    """A temporary folder of this process, `path`; making one removes those that killed processes left."""

    def __init__(self) -> None:
        _remove_stale(Path(tempfile.gettempdir()))
        made = Path(tempfile.mkdtemp(prefix="qmnv3-"))
        # The lock goes with the process, however it ends. Taken before others can see the folder's name.
        self._lock = os.open(made, os.O_RDONLY)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        self.path = made.rename(made.with_name(made.name.replace("qmnv3-", _PREFIX, 1)))

    def cleanup(self) -> None:
        """Remove the folder and what is in it."""
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)


def _remove_stale(temporary: Path) -> None:
    for folder in temporary.glob(f"{_PREFIX}*"):
        with suppress(OSError):  # another user's, in use, or just gone
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(lock)
