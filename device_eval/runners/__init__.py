"""Runners: one small interface over TFLite, ONNX and RUN folders."""

from pathlib import Path

from device_eval.runners.interface import InputDescription, Invocable, Kernel, OutputKind, Runner
from qmnv3.errors import ModelFileError
from qmnv3.files import check_model_file

__all__ = ["InputDescription", "Invocable", "Kernel", "OutputKind", "Runner", "check_exists", "open_model"]


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
        check_model_file(path)
        with path.open("rb"):
            pass
    except ValueError as error:
        raise ModelFileError(f"{path}: {error}; give a .tflite, an .onnx or a RUN folder") from error
    except OSError as error:
        raise ModelFileError(f"{path}: {error.strerror}; give a .tflite, an .onnx or a RUN folder") from error
