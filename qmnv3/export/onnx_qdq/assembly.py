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
    constants: dict[str, Array] = field(default_factory=dict)
    dequantized: set[str] = field(default_factory=set)

    @property
    def initializers(self) -> list[onnx.TensorProto]:
        """The constants as ONNX tensors."""
        return [numpy_helper.from_array(value, name) for name, value in self.constants.items()]

    def node(self, kind: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        """Append a node with one output, named after it, and return that output's name."""
        self.nodes.append(helper.make_node(kind, inputs, [output], f"{output}:{kind}", **attributes))
        return output

    def constant(self, name: str, value: Array) -> str:
        """Add a constant, once however often it is asked for, and return its name.

        Raises ExportError when the name already holds something else.
        """
        # Not ascontiguousarray: it makes scalars one-dimensional, and ONNX Runtime then fuses no QLinearAdd.
        value = np.asarray(value, order="C")
        held = self.constants.setdefault(name, value)
        if held.shape != value.shape or held.dtype != value.dtype or not np.array_equal(held, value):
            raise ExportError(
                f"{name}: two different constants of this name, {held.dtype}{held.shape} and "
                f"{value.dtype}{value.shape}; rename one tensor of the graph"
            )
        return name

    def read(self, name: str) -> str:
        """The real values of an operand: itself when float32, else its one DequantizeLinear."""
        tensor = self.graph.tensors[name]
        return name if tensor.qparams is None else self._dequantize(name, self.activation_grid(tensor))

    def read_parameter(self, name: str, value: Array, axis: int | None) -> str:
        """The real values of a weight or bias, stored as `value` with one scale per slice of `axis`."""
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
        if output not in self.dequantized:
            self.dequantized.add(output)
            attributes = {} if axis is None else {"axis": axis}
            self.node("DequantizeLinear", [name, *grid], output, **attributes)
        return output


def per_tensor(tensor: Tensor) -> QParams:
    """The one scale and zero point of an integer activation; ExportError when there are several."""
    if tensor.qparams is None or tensor.qparams.axis is not None or tensor.dtype == "int32":
        grids = "no scale" if tensor.qparams is None else f"{tensor.qparams.scale.size} scales"
        raise ExportError(
            f"{tensor.name}: {tensor.dtype} with {grids} cannot be an activation; needs 8 bits, one scale"
        )
    return tensor.qparams


def stored(tensor: Tensor, value: npt.ArrayLike) -> Array:
    """`value` of an activation as the file holds it: float32, or uint8 with int8 ones shifted by 128.

    The zero point moves along, so the reals are the same. ONNX Runtime's x86 kernels multiply uint8 by int8.
    It rewrites int8 activations while loading, but misses tensors read twice and constant operands: V3-Small
    with int8 activations kept 26 of 54 convolutions in float and took 3.4 times as long as the float
    network, against 0.9 with uint8; forced to int8 kernels it took 4.3 times as long (1.32, AVX512-VNNI).
    """
    if tensor.qparams is None:
        return np.asarray(value, np.float32)
    shift = SHIFT if tensor.dtype == "int8" else 0
    return (np.asarray(value, np.int64) + shift).astype(np.uint8)
