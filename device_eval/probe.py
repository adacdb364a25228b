"""Opening a model file in a process of its own first: runtimes written in C++ crash on damaged files.

A helper process imports the runtimes once and forks for every question, so that a question costs milliseconds
and a crash, a hang or a file that wants too much memory ends that fork alone.
"""

import atexit
import json
import os
import subprocess
import sys
import threading
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, Literal

from qmnv3.errors import ModelFileError, ProcessError

Stage = Literal["read", "xnnpack", "builtin", "reference", "onnxruntime"]
"""Describe the file without a runtime, or open and run it under LiteRT's kernels or in ONNX Runtime."""

MAX_SECONDS = 30
MAX_MEMORY_BYTES = 2**30
_COMMAND = "from device_eval.probe_helper import serve; serve()"
_lock = threading.Lock()
_refusals: dict[tuple[object, ...], str | None] = {}
_inside = False


def probe(path: Path, stage: Stage) -> None:
    """Raise ModelFileError unless `path` can be taken through `stage` in another process.

    It may take MAX_SECONDS and MAX_MEMORY_BYTES besides 16 times its own size. Each state of a file is asked
    about once. Without fork (Windows) nothing is asked. ProcessError when the helper itself was killed.
    """
    if _inside or not hasattr(os, "fork"):
        return
    status = path.stat()
    key = (path.resolve(), status.st_mtime_ns, status.st_size, stage, MAX_SECONDS, MAX_MEMORY_BYTES)
    with _lock:
        if key not in _refusals:
            _refusals[key] = _ask("try", path, stage)
        refusal = _refusals[key]
    if refusal is not None:
        raise ModelFileError(f"{path}: {refusal}")


def peak_memory_mb(path: Path, stage: Stage) -> float | None:
    """How much a process that loads `path` and runs it once grows at its peak, in MB (10^6 bytes).

    Weights in whatever forms the runtime keeps them, and activations; not the code of the runtime. None where
    the system does not tell (all but Linux), or the file fails.
    """
    if _inside or not hasattr(os, "fork"):
        return None
    with _lock:
        found = _ask("memory", path, stage)
    return found if isinstance(found, float) else None


def enter() -> None:
    """From now on this process is the one that tries: `probe` asks nobody."""
    global _inside
    _inside = True


def _ask(task: Literal["try", "memory"], path: Path, stage: Stage) -> Any:
    helper = _helper()
    assert helper.stdin is not None and helper.stdout is not None
    memory_bytes = MAX_MEMORY_BYTES + 16 * path.stat().st_size
    request = [task, str(path.absolute()), stage, MAX_SECONDS, memory_bytes]
    try:
        helper.stdin.write(json.dumps(request) + "\n")
        helper.stdin.flush()
        return json.loads(helper.stdout.readline())
    except (OSError, ValueError) as error:
        _helper.cache_clear()
        raise ProcessError(f"{path}: the process that tries model files has ended; run it again") from error


@cache
def _helper() -> "subprocess.Popen[str]":
    """The helper process; it ends when this one closes its end of the pipe, however that happens."""
    paths = os.pathsep.join(path for path in sys.path if path)
    helper = subprocess.Popen(
        # -P: a file of the current folder must not take the place of a library.
        [sys.executable, "-P", "-c", _COMMAND],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONPATH": paths},
        # Ctrl-C is this process's to answer.
        start_new_session=True,
    )
    atexit.register(_close, helper)
    return helper


def _close(helper: "subprocess.Popen[str]") -> None:
    for pipe in (helper.stdin, helper.stdout):
        # One that was killed left a question unread.
        with suppress(OSError):
            if pipe is not None:
                pipe.close()
    helper.wait()
