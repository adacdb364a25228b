"""Errors a user can cause. The CLI prints each as one line and exits with code 2.

Every message names the thing, the value found and the next step.
"""


class QmnError(Exception):
    """Base of all errors that are the input's fault, not the program's."""

    exit_code = 2


class DataError(QmnError):
    """An image folder or image cannot be used as asked."""


class ImageError(DataError):
    """One image among others cannot be read or decoded; the rest can be used without it."""


class ModelError(QmnError):
    """A model's name or options name nothing that can be built."""


class WeightsError(QmnError):
    """A checkpoint cannot be read or does not fit the model."""


class MisfitError(WeightsError):
    """A checkpoint can be read and does not fit the model."""


class RecipeError(QmnError):
    """A recipe has an unknown key or a value out of range."""


class PrepareError(QmnError):
    """A float model has an operation that cannot be quantized."""


class CalibrationError(QmnError):
    """Calibration met values it cannot turn into ranges (NaN, infinity, no images)."""


class GraphError(QmnError):
    """A QuantGraph breaks one of its own rules, or its file is damaged."""


class ExportError(QmnError):
    """A QuantGraph cannot be written in the format or for the target asked."""


class ModelFileError(QmnError):
    """A .tflite, .onnx or RUN to evaluate cannot be loaded or run."""


class DeviceError(QmnError):
    """A phone cannot be measured: not there, not authorised, full, or of another architecture."""


class ReportError(QmnError):
    """A file given to the report is no result of a command, or is damaged."""


class TrainingError(QmnError):
    """Training cannot go on, or not begin."""


class ProcessError(QmnError):
    """Another of several processes has ended early, or cannot be reached."""

    exit_code = 1


class ClusterError(QmnError):
    """A cluster cannot be used: not reachable, or what it needs is not installed."""


class TrainingStopped(QmnError):
    """Training was asked to stop by a signal; all is saved."""

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + number
