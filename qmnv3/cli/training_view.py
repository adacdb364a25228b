"""A running training on the terminal: a live line on a TTY, elsewhere plain lines, one an epoch at least."""

import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

_PLAIN_EVERY_S = 30.0
_SMOOTHING = 0.9


class TrainingView:
    """Epoch, step, loss, accuracy, images per second and time left, on stderr."""

    def __init__(self, epochs: int) -> None:
        self._epochs = epochs
        self._console = Console(stderr=True)
        self._live = self._console.is_terminal
        columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
        self._bar = Progress(*columns, console=self._console, disable=not self._live, transient=True)
        self._task: TaskID | None = None
        self._smooth: dict[str, float] = {}
        self._shown_at = self._started_at = time.monotonic()
        self._first_step = 0

    def __enter__(self) -> "TrainingView":
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()

    def step(self, record: dict[str, Any], total: int) -> None:
        """After every update."""
        for key in ("loss", "accuracy", "images_per_s"):
            if record[key] is not None:
                now = float(record[key])
                self._smooth[key] = _SMOOTHING * self._smooth.get(key, now) + (1 - _SMOOTHING) * now
        accuracy = self._smooth.get("accuracy")
        text = (
            f"epoch {record['epoch'] + 1}/{self._epochs} step {record['step']}/{total} "
            f"loss {self._smooth['loss']:.3f} "
            f"{'' if accuracy is None else f'accuracy {100 * accuracy:.1f} % '}"
            f"{self._smooth['images_per_s']:.0f} images/s"
        )
        if self._live:
            if self._task is None:
                self._task = self._bar.add_task(text, total=total)
            self._bar.update(self._task, completed=record["step"], description=text)
            return
        self._first_step = self._first_step or record["step"]
        now = time.monotonic()
        epoch_ends = record["step"] % (total // self._epochs) == 0
        if epoch_ends or now - self._shown_at > _PLAIN_EVERY_S:
            self._shown_at = now
            done = record["step"] - self._first_step
            left = (now - self._started_at) / max(done, 1) * (total - record["step"])
            self._console.print(f"{text}, {left / 60:.0f} min left", highlight=False)

    def validated(self, record: dict[str, Any]) -> None:
        """After every validation."""
        self._console.print(
            f"epoch {record['epoch']}: validation {100 * record['validation']:.2f} %", highlight=False
        )
