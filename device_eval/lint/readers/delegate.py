"""What LiteRT itself says of a .tflite file: its partitions, or why it refuses it."""

from dataclasses import replace
from pathlib import Path

from device_eval.lint.description import Model
from device_eval.partitions import delegate_partitions
from qmnv3.errors import ModelFileError


def with_partitions(model: Model, file: Path) -> Model:
    """`model` with what LiteRT made of `file`, the same model as .tflite."""
    try:
        return replace(model, partitions=delegate_partitions(file))
    except ModelFileError as error:
        return replace(model, runtime_error=str(error).removeprefix(f"{file}: "))
