"""h-swish and hard-sigmoid as operations every integer runtime runs: a saturating ADD, then MUL.

relu6(x + 3) is an ADD whose output grid ends at 0 and 6. The division by 6 costs nothing: the result is
declared six times larger than it is, and the next convolution's weight scales are divided by six. A residual
ADD needs both inputs declared alike, so the convolution that makes the other one has its weight scales
multiplied. Where no convolution can take the factor up (the graph's output, a sum of two h-swishes), the
gate relu6(x + 3) / 6 is a 1x1 depthwise convolution instead.
"""

from dataclasses import replace

import numpy as np

from qmnv3.errors import ExportError
from qmnv3.ir import (
    Activation,
    Add,
    Conv2d,
    DepthwiseConv2d,
    HardSigmoid,
    HardSwish,
    Logistic,
    Mul,
    Op,
    QParams,
    QuantGraph,
    Tensor,
)
from qmnv3.ir.graph import DType

SIX = 6.0
INT8, INT16 = (-128, 127), (-32768, 32767)
# Steps from 0 to 6 (h-swish reaches 6) and from 0 to just below 1 (hard-sigmoid), by the type of the gate.
HARD_SWISH_LEVELS = {"int8": 255, "int16": 32767}
HARD_SIGMOID_LEVELS = {"int8": 256, "int16": 32768}


def lower_hard_activations(graph: QuantGraph, keep: tuple[type[Op], ...] = ()) -> QuantGraph:
    """Replace every HardSwish and HardSigmoid of an integer graph by ADD (or depthwise) and MUL.

    int8 operations of the kinds in `keep` stay as they are; like a sigmoid, a HardSwish that stays needs its
    input declared at true size, so what feeds it is never declared larger.
    """
    rewriter = _Rewriter(graph, (*keep, Logistic))
    for op in graph.ops:
        rewriter.visit(op)
    return replace(graph, tensors=rewriter.tensors, ops=tuple(rewriter.ops))


class _Rewriter:
    """Copies a graph op by op, tracking the factor by which each tensor is declared too large."""

    def __init__(self, graph: QuantGraph, keep: tuple[type[Op], ...]) -> None:
        self.graph = graph
        self.keep = keep
        self.tensors = dict(graph.tensors)
        self.ops: list[Op] = []
        self.factors: dict[str, float] = {}

    def visit(self, op: Op) -> None:
        match op:
            case _ if self._kept(op):
                self.ops.append(op)
            case HardSwish():
                absorbed = self._absorbed_downstream(op.output)
                gate = self._gate(op, f"{op.name}.gate", HARD_SWISH_LEVELS, absorbed)
                self.ops.append(Mul(op.name, (op.inputs[0], gate), op.output))
                self._declare(op.output, self._factor(op.inputs[0]) * self._factor(gate))
            case HardSigmoid():
                self._gate(op, op.output, HARD_SIGMOID_LEVELS, self._absorbed_downstream(op.output))
            case Conv2d() | DepthwiseConv2d():
                self._absorb(op)
                self.ops.append(op)
            case Mul():
                self.ops.append(op)
                self._declare(op.output, self._factor(op.inputs[0]) * self._factor(op.inputs[1]))
            case Add():
                self._match_summands(op)
                self.ops.append(op)
                self._declare(op.output, self._factor(op.inputs[0]))
            case _:
                self.ops.append(op)
                self._declare(op.output, self._factor(op.inputs[0]))

    def _kept(self, op: Op) -> bool:
        return isinstance(op, self.keep) and self.graph.tensors[op.output].dtype == "int8"

    def _factor(self, name: str) -> float:
        return self.factors.get(name, 1.0)

    def _declare(self, name: str, factor: float) -> None:
        """Declare `name` as `factor` times its true value; its integers stay what they are."""
        if factor == 1.0:
            return
        tensor = self.tensors[name]
        assert tensor.qparams is not None
        self.factors[name] = factor
        self.tensors[name] = replace(tensor, qparams=tensor.qparams.scaled(factor))

    def _absorb(self, op: Conv2d | DepthwiseConv2d) -> None:
        factor = self._factor(op.inputs[0])
        if factor != 1.0:
            self._scale_weight(op, 1.0 / factor)

    def _scale_weight(self, op: Conv2d | DepthwiseConv2d, factor: float) -> None:
        """Declare `op`'s weight and bias as `factor` times their value."""
        x, weight, bias = (self.tensors[name] for name in op.inputs)
        assert x.qparams is not None and weight.qparams is not None
        weight_qparams = weight.qparams.scaled(factor)
        self.tensors[weight.name] = replace(weight, qparams=weight_qparams)
        self.tensors[bias.name] = replace(bias, qparams=QParams.bias(x.qparams, weight_qparams))

    def _match_summands(self, op: Add) -> None:
        """Declare the input that a convolution makes as large as the other one."""
        factor = max(self._factor(name) for name in op.inputs)
        for name in op.inputs:
            producer = self.graph.producer(name)
            if self._factor(name) != factor and isinstance(producer, Conv2d | DepthwiseConv2d):
                self._scale_weight(producer, factor)
                self._declare(name, factor)

    def _absorbed_downstream(self, name: str) -> bool:
        """Whether every path from `name` reaches a convolution, the other input of each ADD following."""
        if name in self.graph.outputs:
            return False
        for op in self.graph.consumers(name):
            if self._kept(op):
                return False
            if isinstance(op, Add) and not all(self._follows(other, op) for other in set(op.inputs) - {name}):
                return False
            if not isinstance(op, Conv2d | DepthwiseConv2d) and not self._absorbed_downstream(op.output):
                return False
        return True

    def _follows(self, name: str, reader: Add) -> bool:
        """Whether `name` is made by a convolution for `reader` alone, so its declared size is free."""
        made_by_layer = isinstance(self.graph.producer(name), Conv2d | DepthwiseConv2d)
        return made_by_layer and self.graph.consumers(name) == (reader,)

    def _gate(self, op: HardSwish | HardSigmoid, output: str, levels: dict[str, int], absorbed: bool) -> str:
        """Emit relu6(x + 3) (declared six times too large) or relu6(x + 3) / 6 into `output`.

        Both ends saturate with the type, but for int16's lower one, which is below 0.
        """
        x = op.inputs[0]
        factor, dtype = self._factor(x), self.tensors[x].dtype
        top = SIX * factor if absorbed else 1.0
        zero_point, limits = (0, INT16) if dtype == "int16" else (-128, INT8)
        grid = QParams.per_tensor(top / levels[dtype], zero_point, *limits)
        self.tensors[output] = Tensor(output, self.tensors[x].shape, dtype, grid)
        activation: Activation = "relu" if dtype == "int16" else "none"
        if absorbed:
            three = self._constant(3.0 * factor, dtype)
            self.ops.append(Add(f"{op.name}.add", (x, three), output, activation))
            self.factors[output] = top
        else:
            self._depthwise_gate(op, x, output, factor, activation)
        return output

    def _constant(self, value: float, dtype: DType) -> str:
        limits = INT16 if dtype == "int16" else INT8
        name = f"constant_{value:g}" + ("_int16" if dtype == "int16" else "")
        # A power of two: 3 / 64 is 255/128 steps of the gate, which XNNPACK's multipliers hold exactly.
        stored = (limits[1] + 1) // 2
        grid = QParams.per_tensor(value / stored, 0, *limits)
        self.tensors[name] = Tensor(name, (1,), dtype, grid, np.array([stored], dtype))
        return name

    def _depthwise_gate(
        self, op: HardSwish | HardSigmoid, x: str, output: str, factor: float, activation: Activation
    ) -> None:
        source = self.tensors[x]
        if source.qparams is None or len(source.shape) != 4:
            raise ExportError(f"{op.name}: {type(op).__name__} needs an integer [N,H,W,C] tensor")
        channels = source.shape[3]
        scale = np.full(channels, 1.0 / (SIX * factor * 127), np.float32)
        grid = QParams(scale, np.zeros(channels, np.int32), -127, 127, 3)
        bias_grid = QParams.bias(source.qparams, grid)
        weight = Tensor(
            f"{op.name}.gate.weight",
            (1, 1, 1, channels),
            "int8",
            grid,
            np.full((1, 1, 1, channels), 127, np.int8),
        )
        bias_type: DType = "int64" if source.dtype == "int16" else "int32"
        half = bias_grid.quantize(np.full(channels, 0.5)).astype(bias_type)
        bias = Tensor(f"{op.name}.gate.bias", (channels,), bias_type, bias_grid, half)
        self.tensors |= {weight.name: weight, bias.name: bias}
        gate = DepthwiseConv2d(f"{op.name}.depthwise", (x, weight.name, bias.name), output)
        self.ops.append(replace(gate, activation=activation))
