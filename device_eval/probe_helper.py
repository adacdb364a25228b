"""The helper process of `probe`: one fork tries one file, under limits of memory and time."""

import importlib
import json
import os
import resource
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np

from device_eval import probe
from device_eval.probe import Stage
from device_eval.runners.interface import Kernel, Runner
from qmnv3.errors import ModelFileError

_RUNTIMES = {"onnxruntime": "ONNX Runtime"}
_READERS = {".tflite": "device_eval.lint.readers.tflite", ".onnx": "device_eval.lint.readers.onnx"}


def serve() -> None:
    """Answer requests [task, path, stage, seconds, memory_bytes] on stdin, a JSON line each.

    To the task "try" null or a refusal, to "memory" MB or null; a refusal to either where the fork crashed.
    """
    probe.enter()
    answers = os.dup(1)
    silent = os.open(os.devnull, os.O_WRONLY)
    # What C++ prints must not get between the answers.
    os.dup2(silent, 1)
    for line in sys.stdin:
        task, path, stage, seconds, memory_bytes = json.loads(line)
        # Imported before the fork, once for all files; what is not installed the asker will say.
        with suppress(ImportError):
            importlib.import_module(_READERS[Path(path).suffix])
        work = partial(_try if task == "try" else _grown_mb, Path(path), stage, memory_bytes)
        answer = _in_fork(work, stage, seconds, memory_bytes)
        os.write(answers, (json.dumps(answer) + "\n").encode())


def _in_fork(
    work: Callable[[], str | float | None], stage: Stage, seconds: int, memory_bytes: int
) -> str | float | None:
    receiving, sending = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(receiving)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, memory_bytes))
        signal.alarm(seconds)
        with os.fdopen(sending, "wb") as pipe:
            pipe.write(json.dumps(work()).encode())
        os._exit(0)
    os.close(sending)
    with os.fdopen(receiving, "rb") as pipe:
        answer = pipe.read()
    ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if ended == 0:
        found: str | float | None = json.loads(answer)
        return found
    return _ending(stage, ended, seconds)


def _ending(stage: Stage, ended: int, seconds: int) -> str:
    who = "its reader" if stage == "read" else _RUNTIMES.get(stage, f"LiteRT with its {stage} kernels")
    if ended == -signal.SIGALRM:
        return f"{who} is not done with it after {seconds} s; give another file"
    how = signal.strsignal(-ended) if ended < 0 else f"exit code {ended}"
    return f"{who} crashes on it ({how}): damaged, or made to do so; export or fetch it again"


def _try(path: Path, stage: Stage, memory_bytes: int) -> str | None:
    try:
        _stage(path, stage)
    except ModelFileError as error:
        return str(error).removeprefix(f"{path}: ")
    except ImportError:
        return None
    except MemoryError:
        return f"needs more than {memory_bytes >> 20} MiB of memory; give a model of images of usual size"
    # Whatever a reader or runtime raises on a file that makes no sense is the file's fault.
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        return f"damaged model ({reason}); export or fetch it again"
    return None


def _grown_mb(path: Path, stage: Stage, memory_bytes: int) -> float | None:
    from device_eval.peak_memory import grown_mb

    try:
        return grown_mb(path, stage)
    # Whatever a runtime raises, its memory is not known.
    except Exception:
        return None


def _stage(path: Path, stage: Stage) -> None:
    if stage == "read":
        _read(path)
    elif stage == "onnxruntime":
        _run_onnx(path)
    else:
        _run_litert(path, stage)


def _read(path: Path) -> None:
    from device_eval.lint.lint import check

    if path.suffix == ".onnx":
        from device_eval.lint.readers.onnx import describe_onnx

        check(describe_onnx(path))
    else:
        from device_eval.lint.readers.tflite import describe_tflite

        check(describe_tflite(path))


def _run_onnx(path: Path) -> None:
    from device_eval.onnx_operations import optimized_operations
    from device_eval.runners.onnx import OnnxRunner

    optimized_operations(path)
    # What is no classifier of images can still be loaded and linted.
    with suppress(ModelFileError):
        _run_once(OnnxRunner(path))


def _run_litert(path: Path, kernel: Kernel) -> None:
    from device_eval.runners.litert import LitertRunner, load_interpreter

    load_interpreter(path, kernel, 1)
    with suppress(ModelFileError):
        _run_once(LitertRunner(path, kernel))


def _run_once(runner: Runner) -> None:
    side = runner.input.resolution
    runner.run(np.zeros((1, side, side, 3), np.float32))
