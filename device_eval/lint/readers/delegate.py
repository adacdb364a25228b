"""What LiteRT itself says of a .tflite file: its partitions, or why it refuses it."""

from dataclasses import replace
from pathlib import Path

from device_eval.lint.description import Model
from device_eval.lint.rules.requantization import aborting_ops
from device_eval.partitions import delegate_partitions
from qmnv3.errors import ModelFileError


def with_partitions(model: Model, file: Path) -> Model:
    """`model` with what LiteRT made of `file`, the same model as .tflite."""
    aborting = aborting_ops(model)
    if aborting:
        # LiteRT would end this process, not raise.
        return replace(model, runtime_error=f"LiteRT aborts the process at {model.where(aborting[0])}")
    try:
        return replace(model, partitions=delegate_partitions(file))
    except ModelFileError as error:
        return replace(model, runtime_error=str(error).removeprefix(f"{file}: "))
