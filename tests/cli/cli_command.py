"""Running the real command, in this process or its own, and what every refusal must look like."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from qmnv3.cli import main
from qmnv3.data.transform import preprocess
from qmnv3.models.weights import LoadedModel

HERE = Path(__file__).parent
# A network that trains in seconds, for the `colours` of conftest.
MODEL = ("--model", "small", "--width", 0.35, "--resolution", 32)
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (HERE.parent.parent, HERE.parent, HERE)))}


@dataclass(frozen=True)
class Finished:
    code: int
    stdout: str
    stderr: str


Cli = Callable[..., Finished]


def run_main(*arguments: object) -> int:
    """Exit code of the command run in this process: starting Python and torch anew takes seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["qmnv3", *map(str, arguments)])
        try:
            main()
        except SystemExit as exit_:
            return int(exit_.code or 0)
    return 0


def spawn(*arguments: object, **options: object) -> Finished:
    """The command in a process of its own."""
    command = [sys.executable, "-m", "qmnv3", *map(str, arguments)]
    done = subprocess.run(
        command,
        **{
            "capture_output": True,
            "text": True,
            "env": ENVIRONMENT,
            "timeout": 300,
            "check": False,
            **options,
        },
    )
    return Finished(done.returncode, done.stdout, done.stderr)


def assert_refused(done: Finished, *texts: str) -> None:
    """Exit code 2 and one line "error: ..." with every text; before it only warnings."""
    assert done.code == 2, done
    *before, last = done.stderr.splitlines()
    assert last.startswith("error: "), done.stderr
    assert all(line.startswith("warning: ") for line in before), done.stderr
    for text in texts:
        assert text in last, f"{text!r} is not in {last!r}"


@contextmanager
def untouched(*folders: Path) -> Iterator[None]:
    """Fail when the block leaves anything new, changed or missing under `folders`."""
    before = _content(folders)
    yield
    assert _content(folders) == before


def _content(folders: tuple[Path, ...]) -> dict[Path, bytes | None]:
    paths = [path for folder in folders for path in (folder, *folder.rglob("*"))]
    return {path: path.read_bytes() if path.is_file() else None for path in paths}


def image_batch(paths: list[Path], model: LoadedModel) -> torch.Tensor:
    """Images as the model is evaluated on them."""
    images = [preprocess(np.asarray(Image.open(path)), model.preprocessing) for path in paths]
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
