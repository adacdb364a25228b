"""Small random QuantGraphs for the ONNX tests, and what torch says each of their operations computes."""

from dataclasses import dataclass, field, replace

import numpy as np
import torch
import torch.nn.functional as F

from qmnv3.ir import (
    Activation,
    Add,
    Conv2d,
    DepthwiseConv2d,
    Dequantize,
    Flatten,
    HardSigmoid,
    HardSwish,
    Logistic,
    Mean,
    Metadata,
    Mul,
    Op,
    Pad,
    Padding,
    QParams,
    QuantGraph,
    Quantize,
    Tensor,
)
from qmnv3.ir.shapes import output_shape, same_padding

Grid = tuple[float, int]
SIDE = 18
SIGNED: Grid = (0.0487, 3)
POSITIVE: Grid = (0.02, -128)
GATE: Grid = (6 / 255, -128)
UNIT_INTERVAL: Grid = (1 / 256, -128)


@dataclass
class Network:
    """A QuantGraph under construction; `quantized` False gives the float network of the same weights."""

    quantized: bool
    seed: int = 0
    tensors: dict[str, Tensor] = field(default_factory=dict)
    ops: list[Op] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.random = np.random.default_rng(self.seed)

    def activation(self, name: str, shape: tuple[int, ...], grid: Grid) -> str:
        scale, zero_point = grid
        qparams = QParams(np.float32(scale), np.int32(zero_point)) if self.quantized else None
        self.tensors[name] = Tensor(name, shape, "int8" if qparams else "float32", qparams)
        return name

    def constant(self, name: str, value: np.ndarray, grid: Grid) -> str:
        self.activation(name, value.shape, grid)
        tensor = self.tensors[name]
        data = np.asarray(tensor.qparams.quantize(value) if tensor.qparams else value, np.dtype(tensor.dtype))
        self.tensors[name] = replace(tensor, data=data)
        return name

    def append(self, op: Op, grid: Grid) -> str:
        shape = output_shape(op, [self.tensors[name].shape for name in op.inputs])
        self.ops.append(op)
        return self.activation(op.output, shape, grid)

    def image(self, channels: int = 3) -> str:
        self.tensors["image"] = Tensor("image", (1, SIDE, SIDE, channels), "float32")
        if not self.quantized:
            return "image"
        self.ops.append(Quantize("quantize", ("image",), "image_q"))
        return self.activation("image_q", (1, SIDE, SIDE, channels), (2 / 255, 0))

    def conv(
        self,
        name: str,
        x: str,
        grid: Grid,
        out: int | None = None,
        kernel: int = 1,
        stride: int = 1,
        activation: Activation = "none",
        padding: Padding | None = None,
        per_channel: bool = True,
    ) -> str:
        """A convolution with `out` filters, depthwise when `out` is None."""
        _, height, width, channels = self.tensors[x].shape
        shape = (1, kernel, kernel, channels) if out is None else (out, kernel, kernel, channels)
        axis = 3 if out is None else 0
        fan_in = kernel * kernel * (1 if out is None else channels)
        weight = self.random.normal(0, (2 / fan_in) ** 0.5, shape).astype(np.float32)
        bias = self.random.normal(0, 0.2, shape[axis]).astype(np.float32)
        self._parameters(name, x, weight, bias, axis if per_channel else None)
        strides = (stride, stride)
        if padding is None:
            padding = same_padding(height, width, (kernel, kernel), strides)
        kind = DepthwiseConv2d if out is None else Conv2d
        inputs = (x, f"{name}.weight", f"{name}.bias")
        op = kind(name, inputs, name, stride=strides, padding=padding, activation=activation)
        return self.append(op, grid)

    def _parameters(self, name: str, x: str, weight: np.ndarray, bias: np.ndarray, axis: int | None) -> None:
        w, b = f"{name}.weight", f"{name}.bias"
        x_qparams = self.tensors[x].qparams
        if x_qparams is None:
            self.tensors[w] = Tensor(w, weight.shape, "float32", None, weight)
            self.tensors[b] = Tensor(b, bias.shape, "float32", None, bias)
            return
        others = tuple(i for i in range(4) if i != axis) if axis is not None else None
        scale = (np.abs(weight).max(axis=others) / 127).astype(np.float32)
        grid = QParams(scale, np.zeros_like(scale, np.int32), -127, 127, axis)
        bias_scale = x_qparams.scale * scale
        bias_axis = None if axis is None else 0
        bias_grid = QParams(bias_scale, np.zeros_like(scale, np.int32), -(2**31), 2**31 - 1, bias_axis)
        self.tensors[w] = Tensor(w, weight.shape, "int8", grid, grid.quantize(weight).astype(np.int8))
        self.tensors[b] = Tensor(b, bias.shape, "int32", bias_grid, bias_grid.quantize(bias))

    def hswish(self, name: str, x: str) -> str:
        """h-swish; in integers as lowered for ONNX, ADD 3 saturating at [0, 6] and MUL: 6 times h-swish."""
        if not self.quantized:
            return self.append(HardSwish(name, (x,), name), SIGNED)
        if "three" not in self.tensors:
            self.constant("three", np.array(3.0), (3 / 127, 0))
        gate = self.append(Add(f"{name}.gate", (x, "three"), f"{name}.gate"), GATE)
        return self.append(Mul(name, (x, gate), name), (0.1, -100))

    def squeeze_excite(self, name: str, x: str) -> str:
        channels = self.tensors[x].shape[3]
        pooled = self.append(Mean(f"{name}.pool", (x,), f"{name}.pool"), POSITIVE)
        reduced = self.conv(f"{name}.reduce", pooled, POSITIVE, 8, activation="relu")
        gate = self.conv(f"{name}.expand", reduced, UNIT_INTERVAL, channels)
        if not self.quantized:
            gate = self.append(HardSigmoid(f"{name}.gate", (gate,), f"{name}.gate"), UNIT_INTERVAL)
        return self.append(Mul(name, (x, gate), name), POSITIVE)

    def finish(self, x: str) -> QuantGraph:
        output = x
        if self.quantized:
            output = "logits"
            self.tensors[output] = Tensor(output, self.tensors[x].shape, "float32")
            self.ops.append(Dequantize("dequantize", (x,), output))
        metadata = Metadata("tiny", labels=("cat", "hündin"))
        return QuantGraph(self.tensors, tuple(self.ops), ("image",), (output,), metadata)


def tiny_mobilenet(quantized: bool, seed: int = 0) -> QuantGraph:
    """Every operation of a MobileNetV3: stem, two blocks with h-swish, SE and a residual, head with swish."""
    net = Network(quantized, seed)
    x = net.hswish("stem.act", net.conv("stem", net.image(), SIGNED, 16, 3, 2))
    y = net.conv("a.expand", x, POSITIVE, 24, activation="relu")
    y = net.conv("a.depthwise", y, POSITIVE, None, 3, activation="relu6")
    y = net.conv("a.project", net.squeeze_excite("a.se", y), SIGNED, 16)
    x = net.append(Add("a.residual", (x, y), "a.residual"), SIGNED)
    x = net.append(Pad("b.pad", (x,), "b.pad", Padding(2, 1, 0, 3)), SIGNED)
    y = net.hswish("b.act", net.conv("b.depthwise", x, SIGNED, None, 5, 2, padding=Padding()))
    shift = net.constant("b.shift", np.linspace(-1, 1, 16), (0.01, 5))
    y = net.append(Add("b.add", (y, shift), "b.add", "relu"), SIGNED)
    y = net.append(Mean("pool", (y,), "pool"), SIGNED)
    y = net.hswish("head.act", net.conv("head", y, SIGNED, 32, per_channel=False))
    gate = net.append(Logistic("classifier.gate", (y,), "classifier.gate"), UNIT_INTERVAL)
    y = net.append(Mul("classifier.swish", (y, gate), "classifier.swish"), (0.02, -100))
    y = net.conv("classifier", y, SIGNED, 10)
    return net.finish(net.append(Flatten("flatten", (y,), "flatten"), SIGNED))


def torch_operation(graph: QuantGraph, op: Op, inputs: list[torch.Tensor]) -> torch.Tensor:
    """What torch computes for `op` on real NCHW inputs, before rounding to the output's grid."""
    relus = {"none": lambda t: t, "relu": F.relu, "relu6": F.relu6}
    if isinstance(op, Conv2d | DepthwiseConv2d):
        x, weight, bias = inputs
        p = op.padding
        x = F.pad(x, (p.left, p.right, p.top, p.bottom))
        groups = x.shape[1] if isinstance(op, DepthwiseConv2d) else 1
        if groups > 1:
            weight = weight.transpose(0, 1)
        return relus[op.activation](F.conv2d(x, weight, bias, op.stride, 0, op.dilation, groups))
    if isinstance(op, Add | Mul):
        result = inputs[0] + inputs[1] if isinstance(op, Add) else inputs[0] * inputs[1]
        return relus[op.activation](result)
    if isinstance(op, Pad):
        p = op.padding
        return F.pad(inputs[0], (p.left, p.right, p.top, p.bottom))
    if isinstance(op, Mean):
        return inputs[0].mean((2, 3), keepdim=True)
    functions = {Flatten: lambda t: t.flatten(1), HardSwish: F.hardswish, HardSigmoid: F.hardsigmoid}
    functions[Logistic] = torch.sigmoid
    return functions.get(type(op), lambda t: t)(inputs[0])


def constant_nchw(tensor: Tensor) -> torch.Tensor:
    """Real values of a constant, its channels first (biases and scalars as they are, [C] as [C, 1, 1])."""
    real = tensor.qparams.dequantize(tensor.data) if tensor.qparams else tensor.data
    value = torch.from_numpy(np.array(real))
    if value.ndim == 4:
        return value.permute(0, 3, 1, 2)
    return value[:, None, None] if tensor.name == "b.shift" else value
