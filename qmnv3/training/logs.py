"""What a training writes down while it runs."""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from qmnv3.errors import TrainingError
from qmnv3.files import atomic_file

LOG, EVENTS = "log.jsonl", "tensorboard"


class Reporter(Protocol):
    """Who shows a training to people; `total` is the number of steps."""

    def step(self, record: dict[str, Any], total: int) -> None: ...  # noqa: D102
    def validated(self, record: dict[str, Any]) -> None: ...  # noqa: D102


class Silent:
    """Shows nothing."""

    def step(self, record: dict[str, Any], total: int) -> None:
        """Nothing."""

    def validated(self, record: dict[str, Any]) -> None:
        """Nothing."""


class JsonLines:
    """One JSON object a line; a run that goes on first forgets what it had logged past `step`, a new one all.

    So it does a validation at `step` that is to come again, unless `validated`.
    """

    def __init__(self, path: Path, step: int | None, validated: bool) -> None:
        self._path = path
        kept = [] if step is None else [line for line in _lines(path) if 0 <= _step(line) <= step]
        if step is not None and not validated:
            kept = [line for line in kept if _step(line) < step or "validation" not in json.loads(line)]
        with atomic_file(path) as temporary:
            temporary.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")

    def write(self, record: dict[str, Any]) -> None:
        """Add a line; complete on disk when this returns, as far as a kill of the process goes."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")


class TensorBoard:
    """Event files for TensorBoard, which is an extra: TrainingError without it.

    A run that goes on hides what it had written past `step`.
    """

    def __init__(self, folder: Path, step: int) -> None:
        if find_spec("tensorboard") is None:
            raise TrainingError("tensorboard: is not installed; pip install 'qmnv3[tensorboard]'")
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder), purge_step=step + 1)

    def write(self, record: dict[str, Any]) -> None:
        """A scalar per number."""
        for name, value in record.items():
            if name not in ("step", "epoch") and value is not None:
                self._writer.add_scalar(name, value, record["step"])
        self._writer.flush()


def read_log(path: Path) -> list[dict[str, Any]]:
    """All whole lines of a log."""
    return [json.loads(line) for line in _lines(path) if _step(line) >= 0]


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def _step(line: str) -> int:
    """Step of a line; -1 for one that was cut off."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return -1
