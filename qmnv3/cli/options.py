"""Option types and output shared by commands."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

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


def table_console() -> "Console":
    """Where tables go: stdout, wide enough for one line per row when it is not a terminal."""
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=PIPE_WIDTH)
