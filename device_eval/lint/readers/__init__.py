"""Reading a model file or RUN into the one description that rules look at, one reader per format."""

from pathlib import Path

from device_eval.lint.description import Model
from device_eval.runners import check_exists


def read_model(path: Path) -> Model:
    """Describe a .tflite, .onnx or RUN folder, chosen by suffix.

    Raises ModelFileError for anything that is no such model, GraphError for a folder that is no RUN.
    """
    check_exists(path)
    # Imported here: one format must not need the other's runtime.
    if path.is_dir():
        from device_eval.lint.readers.run import read_run

        return read_run(path)
    if path.suffix == ".tflite":
        from device_eval.lint.readers.tflite import read_tflite

        return read_tflite(path)
    from device_eval.lint.readers.onnx import read_onnx

    return read_onnx(path)
