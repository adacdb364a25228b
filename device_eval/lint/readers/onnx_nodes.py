"""ONNX nodes one by one: what kind each is, and the grids that QOperator nodes carry as inputs."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from device_eval.lint.description import Grid

Constants = Mapping[str, Any]

KINDS = {
    "Conv": "Conv",
    "ConvInteger": "Conv",
    "Gemm": "FullyConnected",
    "MatMul": "FullyConnected",
    "MatMulInteger": "FullyConnected",
    "GlobalAveragePool": "Mean",
    "ReduceMean": "Mean",
    "Sigmoid": "Logistic",
    "Flatten": "Reshape",
    "Squeeze": "Reshape",
    "Unsqueeze": "Reshape",
    "QuantizeLinear": "Quantize",
    "DequantizeLinear": "Dequantize",
}
"""Operators called otherwise in a description; all others keep their name."""

_ARITHMETIC = {"Conv", "MatMul", "Gemm", "Add", "Mul", "AveragePool", "GlobalAveragePool"}
_LOOKUPS = {"LeakyRelu", "Sigmoid", "Softmax"}
MOVES = {"Concat", "Where", "Split", "MaxPool", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose"}
MOVES |= {"Slice", "Gather", "Resize", "Expand", "DepthToSpace", "Identity"}
"""Operators that keep the grid of the integers they move."""

INTEGER_KERNELS = _ARITHMETIC | _LOOKUPS | MOVES
"""Operators that ONNX Runtime's CPU provider fuses with the QDQ pairs around them."""

DATA_INPUTS = {"Reshape": 1, "Squeeze": 1, "Unsqueeze": 1, "Slice": 1, "Gather": 1, "Resize": 1, "Expand": 1}
"""Operators whose later inputs are shapes and indices, not numbers to quantize."""
DATA_INPUTS |= {"Clip": 1, "Pad": 1, "ReduceMean": 1, "Split": 1, "Upsample": 1}


@dataclass(frozen=True)
class Node:
    """A NodeProto with its attributes as Python values."""

    op_type: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]

    def input(self, position: int) -> str:
        """Name of an input, "" where it is left out."""
        return self.inputs[position] if position < len(self.inputs) else ""


@dataclass(frozen=True)
class Quantized:
    """One operand of a QOperator node: its tensor and its grid with the integer type."""

    name: str
    grid: Grid
    dtype: str


def kind_of(node: Node, constants: Constants, weight: str) -> tuple[str, int | None]:
    """Neutral kind, and the output channels' axis of the weight `weight` for layers."""
    base = node.op_type.removeprefix("QLinear").removeprefix("Q")
    base = {"Gemm": "Gemm", "uantizeLinear": "QuantizeLinear"}.get(base, base)
    kind = KINDS.get(base, base)
    if kind == "Conv":
        shape: tuple[int, ...] = constants[weight].shape if weight in constants else ()
        group = int(node.attributes.get("group", 1))
        depthwise = group > 1 and len(shape) == 4 and shape[0] == group and shape[1] == 1
        return ("DepthwiseConv" if depthwise else "Conv"), 0
    if kind == "FullyConnected":
        if weight not in constants or constants[weight].ndim != 2:
            return kind, None
        return kind, 0 if node.attributes.get("transB", 0) else 1
    return kind, None


def grid_of(scale: str, zero_point: str, constants: Constants, axis: int = 0) -> tuple[Grid, str] | None:
    """Grid and integer type from the names of its constants; None when they are computed at run time."""
    if scale not in constants or (zero_point and zero_point not in constants):
        return None
    scales = np.atleast_1d(np.asarray(constants[scale], np.float64))
    points = constants[zero_point] if zero_point else np.zeros((), np.uint8)
    if scales.ndim != 1 or np.ndim(points) > 1:
        return None
    dtype = str(np.asarray(points).dtype)
    zeros = np.atleast_1d(np.asarray(points, np.int64))
    return Grid(scales, np.broadcast_to(zeros, scales.shape) if zeros.size == 1 else zeros, axis), dtype


def qoperator_operands(node: Node, constants: Constants) -> tuple[list[Quantized], Quantized, str] | None:
    """Inputs, output and bias name of a QLinear... or QGemm node; None when it is of another form."""
    layout = _layout(node)
    if layout is None:
        return None
    places, result, bias = layout
    axis = _weight_axis(node)
    operands = []
    for position, (tensor, scale, zero_point) in enumerate(places):
        found = grid_of(node.input(scale), node.input(zero_point), constants, axis if position else 0)
        if found is None:
            return None
        operands.append(Quantized(node.input(tensor), *found))
    made = grid_of(node.input(result[0]), node.input(result[1]), constants)
    if made is None:
        return None
    return operands, Quantized(node.outputs[0], *made), node.input(bias) if bias is not None else ""


def _layout(node: Node) -> tuple[list[tuple[int, int, int]], tuple[int, int], int | None] | None:
    """Positions of (tensor, scale, zero point) of each operand, of the output's grid and of the bias."""
    name = node.op_type
    if name in ("QLinearConv", "QLinearMatMul"):
        return [(0, 1, 2), (3, 4, 5)], (6, 7), 8
    if name == "QGemm":
        return [(0, 1, 2), (3, 4, 5)], (7, 8), 6
    if name in ("QLinearAdd", "QLinearMul"):
        return [(0, 1, 2), (3, 4, 5)], (6, 7), None
    if name == "QLinearConcat":
        return [(i, i + 1, i + 2) for i in range(2, len(node.inputs) - 2, 3)], (0, 1), None
    return ([(0, 1, 2)], (3, 4), None) if name.startswith("QLinear") else None


def _weight_axis(node: Node) -> int:
    if node.op_type == "QLinearMatMul":
        return 1
    return 0 if node.op_type != "QGemm" or node.attributes.get("transB", 0) else 1
