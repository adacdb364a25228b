"""What the operations of a model cost: multiply-adds, elements moved, constants read."""

from collections.abc import Iterable
from dataclasses import dataclass
from math import prod

import numpy as np

from device_eval.lint.description import LAYERS, Model, Op, Tensor
from qmnv3.errors import ModelFileError

# Counted as the ADD and MUL they are composed of, which is how the paper's software ran them and how they are
# exported for XNNPACK: x * relu6(x + 3) moves 5 elements for each of its output's, relu6(x + 3) / 6 moves 4.
COMPOSED = {"HardSwish": 5, "HardSigmoid": 4}


@dataclass(frozen=True)
class Cost:
    """Costs of one operation, or of several together, for one image.

    `activations` counts elements of activations read and written, `constants` those of weights, biases and
    other constants; `bytes_moved` is both in bytes; `sigmoids` counts sigmoids computed. The same network
    costs the same in float and in integers, but for `bytes_moved`.
    """

    macs: int = 0
    activations: int = 0
    constants: int = 0
    bytes_moved: int = 0
    sigmoids: int = 0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(
            self.macs + other.macs,
            self.activations + other.activations,
            self.constants + other.constants,
            self.bytes_moved + other.bytes_moved,
            self.sigmoids + other.sigmoids,
        )


def total(costs: Iterable[Cost]) -> Cost:
    """All of them together."""
    return sum(costs, Cost())


def op_cost(model: Model, op: Op) -> Cost:
    """Cost of one operation of `model`; ModelFileError when the file does not tell a layer's shapes.

    A convolution of pixel pairs counts the multiply-adds of that of the pixels, and reading pairs is free.
    """
    if _makes_pairs(model, op):
        return Cost()
    operands = [model.tensors[name] for name in op.inputs if name in model.tensors]
    output = model.output(op)
    constants = [tensor for i, tensor in enumerate(operands) if _is_constant(op, i, tensor)]
    moved = [tensor for i, tensor in enumerate(operands) if not _is_constant(op, i, tensor)]
    moved += [output] if output is not None else []
    times = COMPOSED.get(op.kind)
    if times is not None and output is not None:
        moved = [output] * times
    return Cost(
        _macs(model, op, output),
        sum(prod(tensor.shape) for tensor in moved),
        sum(prod(tensor.shape) for tensor in constants),
        sum(nbytes(tensor) for tensor in (*moved, *constants)),
        prod(output.shape) if op.kind == "Logistic" and output is not None else 0,
    )


def nbytes(tensor: Tensor) -> int:
    """Size of a tensor; one byte an element where the type is not known."""
    known = tensor.dtype != "other"
    return prod(tensor.shape) * (np.dtype(tensor.dtype).itemsize if known else 1)


def _is_constant(op: Op, position: int, tensor: Tensor) -> bool:
    # Weights of types that cannot be read, such as int4, have no data.
    return tensor.data is not None or (op.weight_axis is not None and position > 0)


def _macs(model: Model, op: Op, output: Tensor | None) -> int:
    if op.kind not in LAYERS:
        return 0
    x, weight = model.input(op, 0), model.input(op, 1)
    if x is None or weight is None or output is None or not (x.shape and weight.shape and output.shape):
        raise ModelFileError(
            f"{model.path}: {model.where(op)} has no known shape; export it with fixed shapes"
        )
    if op.weight_axis is None:
        return prod(output.shape) * x.shape[-1]
    if weight.data is not None and _are_pairs(model, x):
        # Zeros in all output channels stand for no pixel: they complete the pairs.
        return prod(output.shape) * int(np.count_nonzero(weight.data.any(axis=op.weight_axis)))
    return prod(output.shape) * (prod(weight.shape) // max(1, weight.shape[op.weight_axis]))


def _are_pairs(model: Model, x: Tensor) -> bool:
    """Whether `x` is an image of pixel pairs, padded or not."""
    maker = model.producer(x.name)
    if maker is not None and maker.kind == "Pad":
        padded = model.input(maker, 0)
        maker = None if padded is None else model.producer(padded.name)
    return maker is not None and _makes_pairs(model, maker)


def _makes_pairs(model: Model, op: Op) -> bool:
    """Whether `op` reads two neighbouring pixels of an image as one."""
    x, pairs = model.input(op, 0), model.output(op)
    if op.kind != "Reshape" or x is None or pairs is None or len(x.shape) != 4:
        return False
    batch, height, width, channels = x.shape
    return pairs.shape == (batch, height, width // 2, 2 * channels)
