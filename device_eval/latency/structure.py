"""What a model file is made of, and what one run of it costs at least: multiplications, bytes, memory."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from device_eval.lint.description import Model, Op, Tensor
from device_eval.lint.readers import read_model
from device_eval.onnx_operations import optimized_operations
from device_eval.partitions import Partitions
from device_eval.predictor.costs import op_cost, total
from device_eval.runners import check_exists
from device_eval.runners.litert import load_interpreter, operations_of
from qmnv3.errors import ModelFileError


@dataclass(frozen=True)
class Structure:
    """What a model is made of: `partitions` for TFLite; for ONNX `float_ops` that remain after optimizing.

    `macs` counts multiply-adds of convolutions and fully connected layers. `bytes_moved` is every operand
    read once and every result written once, as if no operations were fused. Both None when the file does
    not tell its shapes, the latter also for types of unknown size (int4). `arena_bytes` is what TFLite's
    planner laid out for activations under the built-in kernels; None for shapes known only as it runs, and
    for ONNX, whose runtime does not tell.
    """

    path: Path
    quantized: bool
    size_bytes: int
    op_counts: dict[str, int]
    macs: int | None = None
    bytes_moved: int | None = None
    arena_bytes: int | None = None
    partitions: Partitions | None = None
    float_ops: dict[str, int] | None = None


def structure(path: Path) -> Structure:
    """Read `path`; ModelFileError for RUN folders and files the runtime cannot load."""
    if path.is_dir():
        raise ModelFileError(
            f"{path}: a folder has no runtime to time; "
            f"run `qmnv3 export --int8 --checkpoint {path} --out DIR` and give the files"
        )
    check_exists(path)
    model = read_model(path)
    if model.runtime_error is not None:
        raise ModelFileError(f"{path}: {model.runtime_error}")
    quantized = any(tensor.quantized for tensor in model.tensors.values())
    size, macs, moved = path.stat().st_size, _macs(model), _bytes_moved(model)
    if model.partitions is not None:
        counts = model.partitions.op_counts
        return Structure(
            path, quantized, size, counts, macs, moved, arena_bytes(path), partitions=model.partitions
        )
    operations = optimized_operations(path)
    return Structure(path, quantized, size, operations.op_counts, macs, moved, float_ops=operations.float_ops)


def arena_bytes(path: Path) -> int | None:
    """Bytes between the first and the last activation where TFLite's planner put them in its arena.

    None when some get their place only while the model runs.
    """
    interpreter = load_interpreter(path, "builtin", 1)
    produced = {int(t) for op in operations_of(interpreter) for t in op["outputs"]}
    produced |= {int(details["index"]) for details in interpreter.get_input_details()}
    try:
        spans = [_span(interpreter.tensor(index)()) for index in sorted(produced)]
    except ValueError:
        return None
    return max(end for _, end in spans) - min(start for start, _ in spans)


def _span(values: Any) -> tuple[int, int]:
    start = int(values.__array_interface__["data"][0])
    return start, start + int(values.nbytes)


def _macs(model: Model) -> int | None:
    try:
        return total(op_cost(model, op) for op in model.ops).macs
    except ModelFileError:
        return None


def _bytes_moved(model: Model) -> int | None:
    moved = [t for op in model.ops for t in (*model.operands(op), *_results(model, op))]
    if not all((tensor.shape or tensor.data is not None) and tensor.dtype != "other" for tensor in moved):
        return None
    return sum(_elements(tensor) * np.dtype(tensor.dtype).itemsize for tensor in moved)


def _results(model: Model, op: Op) -> tuple[Tensor, ...]:
    return tuple(model.tensors[name] for name in op.outputs if name in model.tensors)


def _elements(tensor: Tensor) -> int:
    return int(np.prod(tensor.shape, dtype=np.int64))
