"""Damaged model files, by the thousand: each must be opened or refused, in one line, by living processes.

    python tests/device_eval/fuzz_models.py --cases 2000 MODEL.tflite MODEL.onnx RUN RESULT.json ...

Prints, as JSON, how many of each model's variants were opened and refused, and what else happened.
"""

import argparse
import json
import os
import random
import shutil
import signal
import tempfile
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from altered_models import alter_json, alter_onnx, alter_tflite

from device_eval.check import identify
from device_eval.latency.structure import structure
from device_eval.lint import lint
from device_eval.predictor import predict_path
from device_eval.report import build, gather, to_html, to_markdown
from device_eval.runners import Kernel, open_model
from qmnv3.errors import ExportError, ModelFileError, QmnError
from qmnv3.export.files import export_run
from qmnv3.runs import CALIBRATION, PROVENANCE, load_report

KERNELS: tuple[Kernel, ...] = ("xnnpack", "builtin")
SECONDS = 120
MEMORY_BYTES = 3 * 2**30
_WORDS = (0, 1, 2, 3, 4, 7, 8, 31, 64, 255, 2**16, 2**24, 2**31 - 1, 2**31, 2**32 - 1, 2**32 - 4)


def _flip(content: bytearray, rng: random.Random) -> None:
    for _ in range(rng.choice((1, 2, 8))):
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)


def _set_bytes(content: bytearray, rng: random.Random) -> None:
    for _ in range(rng.choice((1, 2, 8))):
        content[rng.randrange(len(content))] = rng.choice((0, 1, 2, 0x7F, 0x80, 0xFF, rng.randrange(256)))


def _set_word(content: bytearray, rng: random.Random) -> None:
    at = rng.randrange(max(1, len(content) // 4)) * 4
    content[at : at + 4] = rng.choice(_WORDS).to_bytes(4, "little")


def _cut(content: bytearray, rng: random.Random) -> None:
    del content[rng.randrange(len(content)) :]


def _remove(content: bytearray, rng: random.Random) -> None:
    at = rng.randrange(len(content))
    del content[at : at + rng.choice((1, 4, 64))]


def _repeat(content: bytearray, rng: random.Random) -> None:
    at, source = rng.randrange(len(content)), rng.randrange(len(content))
    content[at:at] = content[source : source + rng.choice((1, 4, 64))]


def _copy(content: bytearray, rng: random.Random) -> None:
    length = rng.choice((4, 8, 32))
    at, source = rng.randrange(len(content)), rng.randrange(len(content))
    piece = content[source : source + length]
    content[at : at + len(piece)] = piece


def _noise(content: bytearray, rng: random.Random) -> None:
    content[8:] = rng.randbytes(rng.choice((1, 64, 4096)))


# The first four keep a file's layout, so that more of them get past a parser.
_DAMAGES: tuple[Callable[[bytearray, random.Random], None], ...] = (
    *(_flip, _set_bytes, _set_word, _copy) * 3,
    *(_cut, _remove, _repeat, _noise),
)

_ALTER = {".tflite": alter_tflite, ".onnx": alter_onnx, ".json": alter_json}


def damage(content: bytes, rng: random.Random) -> bytes:
    """`content` with some of its bytes changed."""
    changed = bytearray(content)
    rng.choice(_DAMAGES)(changed, rng)
    return bytes(changed)


def damaged_copy(model: Path, seed: int, folder: Path) -> Path:
    """A file or RUN folder like `model` in `folder`, one of its files damaged; the same for the same seed."""
    rng = random.Random(seed)
    copy = folder / f"{seed}{model.suffix}"
    if model.is_dir():
        shutil.copytree(model, copy)
        files = sorted(copy.iterdir())
        file = rng.choice(files)
    else:
        shutil.copyfile(model, copy)
        file = copy
    # Half of the cases: what a parser refuses never reaches a runtime.
    change = _ALTER.get(file.suffix, damage) if rng.random() < 0.5 else damage
    file.write_bytes(change(file.read_bytes(), rng))
    return copy


def use(path: Path) -> list[QmnError]:
    """What every command does that reads models or results; what they refuse of it."""
    uses: list[Callable[[Path], object]] = [_report]
    if path.suffix != ".json":
        uses += [lint, predict_path, *(partial(_evaluate, kernel=kernel) for kernel in KERNELS)]
        uses += [_export] if path.is_dir() else [structure, _check]
    refusals = []
    for each in uses:
        try:
            each(path)
        except QmnError as error:
            refusals.append(error)
    return refusals


def _export(run: Path) -> None:
    for name in (CALIBRATION, PROVENANCE):
        load_report(run, name)
    with tempfile.TemporaryDirectory() as out:
        export_run(run, Path(out), ("int8", "float32"))


def _report(path: Path) -> None:
    made = build(gather([path]))
    to_html(made), to_markdown(made), json.dumps(made.to_json())


def _check(path: Path) -> None:
    """A model is not its own float parent; what is damaged is refused before that shows."""
    try:
        identify(path, path)
    except ModelFileError as error:
        if "is quantized; --float" not in str(error) and "is not quantized" not in str(error):
            raise


def _evaluate(path: Path, kernel: Kernel) -> None:
    runner = open_model(path, kernel, 2)
    side = runner.input.resolution
    runner.run(np.random.default_rng(0).uniform(-1, 1, (1, side, side, 3)).astype(np.float32))


def outcome(path: Path) -> str:
    """ "opened", "refused", or how a process that used `path` went wrong."""
    receiving, sending = os.pipe()
    child = os.fork()
    if child == 0:
        signal.alarm(SECONDS)
        os.write(sending, _used(path).encode())
        os._exit(0)
    os.close(sending)
    with os.fdopen(receiving, "rb") as pipe:
        said = pipe.read().decode()
    _, status, usage = os.wait4(child, 0)
    if os.waitstatus_to_exitcode(status) != 0:
        return f"ended with {os.waitstatus_to_exitcode(status)}"
    if usage.ru_maxrss * 1024 > MEMORY_BYTES:
        return f"took {usage.ru_maxrss >> 10} MiB"
    return said


def _used(path: Path) -> str:
    try:
        refusals = use(path)
    # Whatever it is, the user would see a traceback.
    except BaseException as error:
        return f"raised {type(error).__name__}: {error}"
    # An export of a RUN names the layer that has no place in the format.
    readers = [str(refusal) for refusal in refusals if not isinstance(refusal, ExportError)]
    nameless = [refusal for refusal in readers if str(path) not in refusal]
    return f"does not name the file: {nameless[0]}" if nameless else "refused" if refusals else "opened"


def fuzz(model: Path, cases: int, first: int = 0) -> dict[str, object]:
    """Outcomes of `cases` variants: counts, and the seeds of all that are neither opened nor refused."""
    counts: Counter[str] = Counter()
    wrong: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as name:
        for seed in range(first, first + cases):
            path = damaged_copy(model, seed, Path(name))
            found = outcome(path)
            counts["opened" if found == "opened" else "refused" if found == "refused" else "wrong"] += 1
            if found not in ("opened", "refused"):
                wrong[str(seed)] = found
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    return {"opened": counts["opened"], "refused": counts["refused"], "wrong": wrong}


def main() -> None:
    """Fuzz every model named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--cases", type=int, default=100)
    parser.add_argument("--first", type=int, default=0, help="seed of the first case")
    given = parser.parse_args()
    # All forks below ask this process's helper.
    for model in given.models:
        use(model)
    print(json.dumps({str(model): fuzz(model, given.cases, given.first) for model in given.models}, indent=2))


if __name__ == "__main__":
    main()
