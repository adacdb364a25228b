"""Option types and output shared by commands."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from device_eval.runners import Kernel

PIPE_WIDTH = 140


def path_or_url(text: str) -> Path | str:
    """A URL as it is: a Path would take a slash from "https://"."""
    return text if "://" in text else Path(text)


class KernelName(StrEnum):
    """LiteRT kernels; for a RUN folder the arithmetic of the integer reference."""

    xnnpack = "xnnpack"
    builtin = "builtin"
    reference = "reference"

    @property
    def kernel(self) -> "Kernel":
        """As `device_eval` names it."""
        return self.value


def table_console(*tables: "Table") -> "Console":
    """Where tables go: stdout, wide enough that no cell of `tables` is cut off.

    A narrow terminal wraps lines; when it is not a terminal it is at least `PIPE_WIDTH` wide.
    """
    from rich.console import Console

    console = Console()
    least = console.width if console.is_terminal else PIPE_WIDTH
    unbounded = console.options.update(width=10_000)
    return Console(width=max(least, *(console.measure(t, options=unbounded).maximum for t in tables), 0))
