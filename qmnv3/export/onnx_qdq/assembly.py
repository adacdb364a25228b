"""Nodes and initializers of one ONNX graph while it is being written, and its naming rules.

An integer tensor `t` of the IR is `t` in the file; `t/dequantized` is what its consumers read and
`t/float` what its producer computes; `t/scale` and `t/zero_point` are shared by both QDQ nodes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from qmnv3.errors import ExportError
from qmnv3.ir import QParams, QuantGraph, Tensor

Array = npt.NDArray[Any]
SHIFT = 128


@dataclass
class Assembly:
    """The ONNX graph so far, and which shared pieces it already has."""

    graph: QuantGraph
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    initializers: list[onnx.TensorProto] = field(default_factory=list)
    names: set[str] = field(default_factory=set)

    def node(self, kind: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        """Append a node with one output, named after it, and return that output's name."""
        self.nodes.append(helper.make_node(kind, inputs, [output], f"{output}:{kind}", **attributes))
        self.names.add(output)
        return output

    def constant(self, name: str, value: Array) -> str:
        """Add an initializer once and return its name."""
        if name not in self.names:
            self.names.add(name)
            self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def read(self, name: str) -> str:
        """The real values of activation `name`: itself when float32, else its one DequantizeLinear."""
        tensor = self.graph.tensors[name]
        return name if tensor.qparams is None else self._dequantize(name, self.activation_grid(tensor))

    def read_constant(self, name: str, value: Array, axis: int | None = None) -> str:
        """The real values of constant `name`, stored as `value` with one scale per slice of `axis`."""
        self.constant(name, value)
        qparams = self.graph.tensors[name].qparams
        if qparams is None:
            return name
        zero_point = qparams.zero_point.astype(value.dtype)
        return self._dequantize(name, self._grid(name, qparams.scale, zero_point), axis)

    def quantize(self, real: str, tensor: Tensor, output: str | None = None) -> str:
        """Round the real values `real` onto the grid of integer activation `tensor`."""
        return self.node("QuantizeLinear", [real, *self.activation_grid(tensor)], output or tensor.name)

    def activation_grid(self, tensor: Tensor) -> list[str]:
        """Names of the scale and zero point that both QDQ nodes of an activation share."""
        qparams = per_tensor(tensor)
        return self._grid(tensor.name, qparams.scale, stored(tensor, qparams.zero_point))

    def _grid(self, name: str, scale: Array, zero_point: Array) -> list[str]:
        return [self.constant(f"{name}/scale", scale), self.constant(f"{name}/zero_point", zero_point)]

    def _dequantize(self, name: str, grid: list[str], axis: int | None = None) -> str:
        output = f"{name}/dequantized"
        if output not in self.names:
            attributes = {} if axis is None else {"axis": axis}
            self.node("DequantizeLinear", [name, *grid], output, **attributes)
        return output


def per_tensor(tensor: Tensor) -> QParams:
    """The one scale and zero point of an integer activation; ExportError when there are several."""
    if tensor.qparams is None or tensor.qparams.axis is not None or tensor.dtype == "int32":
        raise ExportError(
            f"{tensor.name}: a QDQ activation needs one 8-bit grid, has {tensor.dtype} {tensor.qparams}"
        )
    return tensor.qparams


def stored(tensor: Tensor, value: npt.ArrayLike) -> Array:
    """`value` of an activation as the file holds it: float32, or uint8 with int8 ones shifted by 128.

    ONNX Runtime on x86 has integer kernels for uint8 activations only. It rewrites an int8 QuantizeLinear
    directly followed by DequantizeLinear to uint8 while loading, but leaves float islands wherever an
    integer operation stands between the two. The reals are the same, the zero point moves along.
    """
    if tensor.qparams is None:
        return np.asarray(value, np.float32)
    shift = SHIFT if tensor.dtype == "int8" else 0
    return (np.asarray(value, np.int64) + shift).astype(np.uint8)
