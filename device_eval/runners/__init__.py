"""Runners: one small interface over TFLite, ONNX and RUN folders."""

import stat
from pathlib import Path

from device_eval.runners.interface import InputDescription, Invocable, Kernel, OutputKind, Runner
from qmnv3.errors import ModelFileError

__all__ = ["InputDescription", "Invocable", "Kernel", "OutputKind", "Runner", "check_exists", "open_model"]

MAX_BYTES = 2**29


def open_model(path: Path, kernel: Kernel | None = None, threads: int = 1) -> Runner:
    """Open a .tflite, .onnx or RUN folder, chosen by suffix.

    `kernel` (default "xnnpack") selects LiteRT's kernels; for a RUN "xnnpack" or "reference" (default) names
    the arithmetic; ONNX Runtime ignores it. Raises ModelFileError for anything that is not such a model.
    """
    check_exists(path)
    # Imported here: one format must not need the other's runtime.
    if path.is_dir():
        from device_eval.runners.run import RunRunner

        return RunRunner(path, "xnnpack" if kernel == "xnnpack" else "tflite")
    if path.suffix == ".tflite":
        from device_eval.runners.litert import LitertRunner

        return LitertRunner(path, kernel or "xnnpack", threads)
    from device_eval.runners.onnx import OnnxRunner

    return OnnxRunner(path, threads)


def check_exists(path: Path) -> None:
    """Raise ModelFileError unless `path` is a folder or a readable .tflite or .onnx file of usual size."""
    if path.is_dir():
        return
    if path.suffix not in (".tflite", ".onnx"):
        raise ModelFileError(f"{path}: unknown model format; give a .tflite, an .onnx or a RUN folder")
    try:
        # Before opening it: a pipe would wait for its writer.
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise ModelFileError(
                f"{path}: neither a file nor a folder; give a .tflite, an .onnx or a RUN folder"
            )
        if status.st_size > MAX_BYTES:
            raise ModelFileError(
                f"{path}: {status.st_size >> 20} MiB; give an image classifier below {MAX_BYTES >> 20} MiB"
            )
        with path.open("rb"):
            pass
    except OSError as error:
        raise ModelFileError(f"{path}: {error.strerror}; give a .tflite, an .onnx or a RUN folder") from error
