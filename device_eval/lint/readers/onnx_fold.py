"""From ONNX nodes to operations: QDQ pairs become grids of the tensors between them.

DequantizeLinear -> Conv -> QuantizeLinear is one integer operation, as it is in ONNX Runtime, if every
operand is quantized and ONNX Runtime has an integer kernel. What stays float says why.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from device_eval.lint.description import Grid, Op, Tensor
from device_eval.lint.readers.onnx_nodes import (
    DATA_INPUTS,
    INTEGER_KERNELS,
    MOVES,
    Node,
    grid_of,
    kind_of,
    qoperator_operands,
)

Constants = Mapping[str, Any]
Grids = dict[str, tuple[Grid, str, Any]]
_CLAMPS = ("Relu", "Clip")
_CLAMPED = ("Conv", "DepthwiseConv", "FullyConnected", "Add", "Mul")


def fold(nodes: Sequence[Node], constants: Constants, outputs: set[str]) -> tuple[tuple[Op, ...], Grids]:
    """Operations in order, and for each quantized tensor its grid, integer type and constant (or None)."""
    folding = _Folding(constants, outputs, nodes)
    for node in nodes:
        folding.visit(node)
    ops = folding.merge_clamps()
    return tuple(replace(op, index=i) for i, op in enumerate(ops)), folding.grids


@dataclass
class _Folding:
    constants: Constants
    outputs: set[str]
    nodes: Sequence[Node]
    ops: list[Op] = field(default_factory=list)
    grids: Grids = field(default_factory=dict)
    quantized: dict[str, str] = field(default_factory=dict)
    """Name of a dequantized value: the integer tensor it was read from."""
    stored: dict[str, str] = field(default_factory=dict)
    """Name of a float value that is quantized at once: the integer tensor."""

    fusable: set[str] = field(default_factory=set)
    """Float values between an integer operation and a clamp that ONNX Runtime drops."""

    def __post_init__(self) -> None:
        conversions = ("QuantizeLinear", "DequantizeLinear")
        self.computed = {n for node in self.nodes if node.op_type not in conversions for n in node.outputs}
        self.readers: dict[str, list[Node]] = {}
        for node in self.nodes:
            for name in set(node.inputs):
                self.readers.setdefault(name, []).append(node)
        for name, readers in self.readers.items():
            only_quantized = all(n.op_type == "QuantizeLinear" and n.input(0) == name for n in readers)
            if only_quantized and name not in self.outputs:
                self.stored[name] = readers[0].outputs[0]

    def visit(self, node: Node) -> None:
        """Take up one node."""
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            self._conversion(node)
        elif (operands := qoperator_operands(node, self.constants)) is not None:
            inputs, output, bias = operands
            for operand in (*inputs, output):
                self.grids[operand.name] = (operand.grid, operand.dtype, None)
            kind, axis = kind_of(node, self.constants, inputs[1].name if len(inputs) > 1 else "")
            names = tuple(operand.name for operand in inputs)
            names += (bias,) if bias else ()
            self.ops.append(Op(0, kind, node.op_type, names, (output.name,), "none", axis))
        else:
            self._operation(node)

    def _conversion(self, node: Node) -> None:
        source, target = node.input(0), node.outputs[0]
        axis = int(node.attributes.get("axis", 1))
        found = grid_of(node.input(1), node.input(2), self.constants, axis)
        if found is None:
            self.ops.append(Op(0, node.op_type, node.op_type, (source,), (target,), float_reason=_DYNAMIC))
            return
        grid, dtype = found
        if node.op_type == "DequantizeLinear":
            held = self.constants.get(source)
            integer = str(held.dtype) if held is not None else dtype
            self.grids.setdefault(source, (grid, integer if not node.input(2) else dtype, None))
            self.quantized[target] = source
            if target in self.outputs or not self.readers.get(target):
                self.ops.append(Op(0, "Dequantize", node.op_type, (source,), (target,)))
            return
        data = None
        if source in self.constants:
            data = _quantize(np.asarray(self.constants[source], np.float64), grid, dtype)
        self.grids[target] = (grid, dtype, data)
        folded = source in self.computed and self.stored.get(source) == target
        if data is None and not folded:
            self.ops.append(Op(0, "Quantize", node.op_type, (self._read(source),), (target,)))

    def _read(self, name: str) -> str:
        return self.quantized.get(name, name)

    def _operation(self, node: Node) -> None:
        inputs = tuple(self._read(name) for name in node.inputs)
        outputs = tuple(self.stored.get(name, name) for name in node.outputs)
        if node.op_type in MOVES and node.input(0) in self.grids:
            self.grids.setdefault(node.outputs[0], (*self.grids[node.input(0)][:2], None))
        weight = self._read(node.input(1))
        values = {name: data for name, (_, _, data) in self.grids.items() if data is not None}
        kind, axis = kind_of(node, {**self.constants, **values}, weight)
        attributes = {k: float(v) for k, v in node.attributes.items() if isinstance(v, float | int)}
        self.ops.append(
            Op(0, kind, node.op_type, inputs, outputs, "none", axis, self._float_reason(node), attributes)
        )

    def _float_reason(self, node: Node) -> str | None:
        """Why ONNX Runtime computes `node` in float; None when it has it in integers."""
        numbers = [n for n in node.inputs[: DATA_INPUTS.get(node.op_type, len(node.inputs))] if n]
        if all(self._is_integer(name) for name in numbers):
            return None
        if node.op_type not in INTEGER_KERNELS | set(_CLAMPS):
            return f"ONNX Runtime has no integer kernel for {node.op_type}"
        # ONNX Runtime quantizes a constant bias itself.
        bias = node.input(2) if node.op_type in ("Conv", "Gemm") else ""
        missing = [n for n in numbers if n not in self.quantized and not (n == bias and n in self.constants)]
        clamped = len(missing) == 1 and node.op_type in _CLAMPS and missing[0] in self.fusable
        if missing and not clamped:
            return f"its input {missing[0]} is float"
        if self._is_stored(node):
            return None
        clamp = next((n for n in self.readers.get(node.outputs[0], []) if n.op_type in _CLAMPS), None)
        if clamp is None or clamp.outputs[0] not in self.stored:
            return "its output is not quantized"
        return f"its output is quantized after a {clamp.op_type} that the grid does not imply"

    def _is_stored(self, node: Node) -> bool:
        """Whether the result is quantized at once, or after a clamp that QuantizeLinear does anyway."""
        name = node.outputs[0]
        if name in self.stored:
            return node.op_type not in _CLAMPS or self._redundant(node)
        readers = self.readers.get(name, [])
        if len(readers) != 1 or readers[0].op_type not in _CLAMPS or readers[0].outputs[0] not in self.stored:
            return False
        if self._redundant(readers[0]):
            self.fusable.add(name)
        return name in self.fusable

    def _redundant(self, clamp: Node) -> bool:
        """Whether the grid that `clamp` is quantized to ends where it does, so ONNX Runtime drops it."""
        quantize = self.readers[clamp.outputs[0]][0]
        found = grid_of(quantize.input(1), quantize.input(2), self.constants)
        if found is None or found[0].per_channel:
            return False
        stored = Tensor(clamp.outputs[0], (), found[1], found[0])
        low, high = stored.span
        bottom, top = self._bounds(clamp)
        return low >= bottom - stored.scale / 2 and high <= top + stored.scale / 2

    def _bounds(self, clamp: Node) -> tuple[float, float]:
        if clamp.op_type == "Relu":
            return 0.0, float("inf")
        given = (self.constants.get(clamp.input(1)), self.constants.get(clamp.input(2)))
        low, high = (None if value is None else float(np.asarray(value).reshape(())) for value in given)
        low = clamp.attributes.get("min", float("-inf")) if low is None else low
        high = clamp.attributes.get("max", float("inf")) if high is None else high
        return low, high

    def _is_integer(self, name: str) -> bool:
        if name in self.constants:
            return not np.issubdtype(self.constants[name].dtype, np.floating)
        return name in self.grids

    def merge_clamps(self) -> list[Op]:
        """Operations with the one Relu or Clip that follows taken up as their activation."""
        readers: dict[str, list[Op]] = {}
        for op in self.ops:
            for name in set(op.inputs):
                readers.setdefault(name, []).append(op)
        clamped = {
            id(op): after[0]
            for op in self.ops
            if op.kind in _CLAMPED and (after := readers.get(op.outputs[0], []))
            if len(after) == 1 and after[0].kind in _CLAMPS and op.outputs[0] not in self.outputs
        }
        dropped = {id(clamp) for clamp in clamped.values()}
        return [self._with_clamp(op, clamped.get(id(op))) for op in self.ops if id(op) not in dropped]

    def _with_clamp(self, op: Op, clamp: Op | None) -> Op:
        if clamp is None:
            return op
        activation = "relu" if clamp.kind == "Relu" else "clip"
        on_reals = op.outputs[0] not in self.grids
        bounds = [self.constants[name] for name in clamp.inputs[1:3] if name in self.constants]
        if on_reals and activation == "clip" and [float(np.max(b)) for b in bounds] == [0.0, 6.0]:
            activation = "relu6"
        reason = op.float_reason or clamp.float_reason
        return replace(op, outputs=clamp.outputs, activation=activation, float_reason=reason)


_DYNAMIC = "its scale is computed at run time (dynamic quantization)"


def _quantize(real: Any, grid: Grid, dtype: str) -> Any:
    shape = [1] * real.ndim
    if grid.per_channel:
        shape[grid.axis] = -1
    info = np.iinfo(dtype)
    with np.errstate(all="ignore"):
        steps = np.rint(real / grid.scale.reshape(shape)) + grid.zero_point.reshape(shape)
    return np.nan_to_num(np.clip(steps, info.min, info.max)).astype(dtype)
