"""Runs a QuantGraph in numpy."""

from collections.abc import Mapping

import numpy as np

from qmnv3.errors import GraphError
from qmnv3.ir import (
    Add,
    Cast,
    Conv2d,
    DepthwiseConv2d,
    Dequantize,
    Flatten,
    HardSigmoid,
    HardSwish,
    Logistic,
    Mean,
    Mul,
    Op,
    Pad,
    PixelPairs,
    QParams,
    QuantGraph,
    Quantize,
)
from qmnv3.reference.activations import SIGMOID_QPARAMS, hard_sigmoid_i8, hard_swish_i8, logistic_i8
from qmnv3.reference.conv import conv2d, depthwise_conv2d
from qmnv3.reference.elementwise import add, mul
from qmnv3.reference.pooling import mean
from qmnv3.reference.requantize import INT16_SEMANTICS, SEMANTICS, Array, Semantics, SemanticsName
from qmnv3.reference.shaping import dequantize, pad, quantize


def run(
    graph: QuantGraph, inputs: Mapping[str, Array], semantics: SemanticsName, keep: bool = False
) -> dict[str, Array]:
    """Run `graph` on `inputs` with the arithmetic of one runtime; docs/parity.md says what is exact.

    Inputs have the graph's dtypes and shapes with any batch size. Returns the graph outputs by name, or with
    `keep` every activation tensor. Raises GraphError for inputs that do not fit and for float32 graphs.
    """
    values: dict[str, Array] = {n: t.data for n, t in graph.tensors.items() if t.data is not None}
    for name in graph.inputs:
        values[name] = _checked_input(graph, name, inputs)
    for op in graph.ops:
        wide = "int16" in (graph.tensors[name].dtype for name in (*op.inputs, op.output))
        how = (INT16_SEMANTICS if wide else SEMANTICS)[semantics]
        values[op.output] = _execute(op, graph, values, how)
    if keep:
        return {name: value for name, value in values.items() if graph.tensors[name].data is None}
    return {name: values[name] for name in graph.outputs}


def _checked_input(graph: QuantGraph, name: str, inputs: Mapping[str, Array]) -> Array:
    tensor = graph.tensors[name]
    if name not in inputs:
        raise GraphError(f"{name}: graph input missing; given were {sorted(inputs)}")
    value = np.asarray(inputs[name])
    if value.shape[1:] != tensor.shape[1:] or value.ndim != len(tensor.shape) or value.dtype != tensor.dtype:
        wanted = ", ".join(["N", *map(str, tensor.shape[1:])])
        raise GraphError(
            f"{name}: input is {value.dtype}{list(value.shape)}, the graph takes {tensor.dtype}[{wanted}]"
        )
    return value


def _execute(op: Op, graph: QuantGraph, values: Mapping[str, Array], how: Semantics) -> Array:
    x = [values[name] for name in op.inputs]
    match op:
        case Quantize():
            return quantize(x[0], graph.tensors[op.inputs[0]].qparams, _grid(graph, op, op.output), how)
        case Dequantize():
            return dequantize(x[0], _grid(graph, op, op.inputs[0]))
        case Cast():
            return x[0].astype(np.int16)
        case Pad():
            return pad(x[0], _grid(graph, op, op.output), op.padding)
        case Flatten() | PixelPairs():
            return x[0].reshape(-1, *graph.tensors[op.output].shape[1:])
    first, output = _grid(graph, op, op.inputs[0]), _grid(graph, op, op.output)
    match op:
        case Conv2d():
            return conv2d(op, x[0], x[1], x[2], (first, _grid(graph, op, op.inputs[1]), output), how)
        case DepthwiseConv2d():
            return depthwise_conv2d(
                op, x[0], x[1], x[2], (first, _grid(graph, op, op.inputs[1]), output), how
            )
        case Add():
            return add(x[0], x[1], (first, _grid(graph, op, op.inputs[1]), output), op.activation, how)
        case Mul():
            return mul(x[0], x[1], (first, _grid(graph, op, op.inputs[1]), output), op.activation, how)
        case Mean():
            return mean(x[0], (first, output), how)
        case HardSwish() | HardSigmoid() if x[0].dtype == np.int16:
            raise GraphError(
                f"{op.name}: {type(op).__name__} has no int16 arithmetic of its own; lower the graph first"
            )
        case HardSigmoid() | Logistic() if output != SIGMOID_QPARAMS:
            raise GraphError(
                f"{op.name}: {type(op).__name__} output must have scale 1/256 and zero point -128 in int8, "
                f"not {output.scale:.6g} and {output.zero_point}"
            )
        case HardSwish():
            return hard_swish_i8(x[0], first, output)
        case HardSigmoid():
            return hard_sigmoid_i8(x[0], first)
        case Logistic():
            return logistic_i8(x[0], first, how)


def _grid(graph: QuantGraph, op: Op, name: str) -> QParams:
    qparams = graph.tensors[name].qparams
    if qparams is None:
        raise GraphError(
            f"{op.name}: tensor {name!r} is float32; the integer reference runs quantized graphs, "
            "export the float parent and run that file instead"
        )
    return qparams
