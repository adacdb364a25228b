"""One cell of an ablation, and what is known of it: a JSON file of its own for each axis."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qmnv3 import __version__
from qmnv3.cli.ablate_config import AblationConfig, Axis, Cell, fingerprint
from qmnv3.errors import QmnError
from qmnv3.files import write_json

Result = dict[str, Any]
Failures = dict[str, str]
"""One line of reason by axis."""


@dataclass(frozen=True)
class CellJob:
    """What to find out about a cell. `digits` are images for networks that are not trained; `data` is for
    those that are (None without the accuracy axis), `training_device` where ("cpu" or "cuda"), `inputs` what
    tells images and weights from others. Results go to a folder of the cell's below `out`.

    Paths are absolute: whatever process takes the job may be in another folder.
    """

    cell: Cell
    config: AblationConfig
    axes: tuple[Axis, ...]
    out: Path
    digits: Path
    data: Path | None = None
    val: Path | None = None
    inputs: Mapping[str, str] = field(default_factory=dict)
    training_device: str = "cpu"

    @property
    def folder(self) -> Path:
        """The cell's own."""
        return self.out / "cells" / self.cell.name


@dataclass(frozen=True)
class Record:
    """The file of one axis of a cell. What it holds counts only for the `settings` it was made with."""

    folder: Path
    axis: str
    settings: Result

    @property
    def fingerprint(self) -> str:
        """Of the settings and the version of qmnv3."""
        return fingerprint({"version": __version__, **self.settings})

    @property
    def _path(self) -> Path:
        return self.folder / f"{self.axis}.json"

    def read(self) -> Result | None:
        """The result; None where there is none of these settings, or it is damaged."""
        try:
            kept = json.loads(self._path.read_text(encoding="utf-8"))
            result: Result = kept["result"]
            files = [self.folder / file["file"] for file in result.get("files", ())]
            whole = kept["fingerprint"] == self.fingerprint and all(path.is_file() for path in files)
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            return None
        return result if whole else None

    def read_or_make(
        self, make: Callable[[], Result], poor: Callable[[Result], bool] = lambda result: False
    ) -> Result:
        """What is kept unless it is `poor`, else what `make` finds, which is then kept."""
        result = self.read()
        if result is None or poor(result):
            result = make()
            kept = {"fingerprint": self.fingerprint, "settings": self.settings, "result": result}
            write_json(self._path, kept)
        return result


def reason(error: BaseException) -> str:
    """One line; the kind of error where it is no message of ours."""
    text = " ".join(str(error).split())
    return text if isinstance(error, QmnError) else f"{type(error).__name__}: {text}"
