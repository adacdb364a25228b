"""Small QuantGraphs built by hand for the TFLite tests, with torch as the oracle of every operation."""

from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from qmnv3.ir import (
    Add,
    Conv2d,
    DepthwiseConv2d,
    Dequantize,
    Flatten,
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

RESOLVERS = {
    "reference": OpResolverType.BUILTIN_REF,
    "builtin": OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    "xnnpack": OpResolverType.AUTO,
}
CLAMP = {"none": (-np.inf, np.inf), "relu": (0.0, np.inf), "relu6": (0.0, 6.0)}


def torch_result(op: Op, inputs: list[np.ndarray]) -> np.ndarray:
    """Real-valued result of `op` on real NHWC inputs, computed by torch."""
    x, *rest = [torch.tensor(i, dtype=torch.float32) for i in inputs]
    match op:
        case Conv2d() | DepthwiseConv2d():
            weight, bias = rest
            p = op.padding
            depthwise = isinstance(op, DepthwiseConv2d)
            kernel = weight.permute(3, 0, 1, 2) if depthwise else weight.permute(0, 3, 1, 2)
            padded = F.pad(x.permute(0, 3, 1, 2), (p.left, p.right, p.top, p.bottom))
            groups = x.shape[3] if depthwise else 1
            y = F.conv2d(padded, kernel, bias, op.stride, 0, op.dilation, groups).permute(0, 2, 3, 1)
        case Add():
            y = x + rest[0]
        case Mul():
            y = x * rest[0]
        case Mean():
            y = x.mean((1, 2), keepdim=True)
        case Pad():
            y = F.pad(x, (0, 0, op.padding.left, op.padding.right, op.padding.top, op.padding.bottom))
        case Flatten():
            y = x.flatten(1)
        case HardSwish():
            y = F.hardswish(x)
        case Logistic():
            y = torch.sigmoid(x)
        case Quantize() | Dequantize():
            y = x
    low, high = CLAMP[getattr(op, "activation", "none")]
    return y.clamp(low, high).numpy()


def asymmetric(values: np.ndarray, dtype: str = "int8") -> QParams:
    """Min-max grid of `values` on the whole range of `dtype`."""
    limits = np.iinfo(dtype)
    low, high = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    scale = np.float32(max(high - low, 1e-3) / 255)
    zero_point = int(np.clip(round(limits.min - low / scale), limits.min, limits.max))
    return QParams(scale, zero_point, limits.min, limits.max)


def symmetric(values: np.ndarray, axis: int | None) -> QParams:
    axes = None if axis is None else tuple(i for i in range(values.ndim) if i != axis)
    scale = np.abs(values).max(axis=axes) / 127
    return QParams(scale, np.zeros(np.shape(scale)), -127, 127, axis)


def real(tensor: Tensor, values: np.ndarray) -> np.ndarray:
    return tensor.qparams.dequantize(values) if tensor.qparams else np.asarray(values, np.float32)


@dataclass
class Sketch:
    """Adds operations one by one; each output's grid is the min-max of torch's result on `image`."""

    quantized: bool
    seed: int = 0
    tensors: dict[str, Tensor] = field(default_factory=dict)
    ops: list[Op] = field(default_factory=list)
    reals: dict[str, np.ndarray] = field(default_factory=dict)
    inputs: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)

    def image(self, *shape: int, name: str = "image", dtype: str | None = None, low: float = -3.0) -> str:
        dtype = dtype or ("int8" if self.quantized else "float32")
        values = self.rng.uniform(low, 3.0, shape).astype(np.float32)
        qparams = None if dtype == "float32" else asymmetric(values, dtype)
        self.inputs.append(name)
        return self._declare(Tensor(name, shape, dtype, qparams), values)

    def constant(self, name: str, values: np.ndarray, qparams: QParams | None = None) -> str:
        values = np.asarray(values, np.float32)
        if not self.quantized:
            return self._declare(Tensor(name, values.shape, "float32", None, values.copy()), values)
        qparams = qparams or asymmetric(values)
        data = qparams.quantize(values).astype(np.int8)
        return self._declare(Tensor(name, values.shape, "int8", qparams, data), qparams.dequantize(data))

    def conv(
        self,
        x: str,
        channels: int | None,
        kernel: int = 1,
        stride: int = 1,
        activation: str = "none",
        padding: Padding | None = None,
        dilation: int = 1,
        per_channel: bool = True,
    ) -> str:
        """Conv2d to `channels`, or DepthwiseConv2d when None; SAME unless `padding` is given."""
        name, (_, height, width, depth) = f"conv{len(self.ops)}", self.tensors[x].shape
        shape = (1, kernel, kernel, depth) if channels is None else (channels, kernel, kernel, depth)
        axis = (3 if channels is None else 0) if per_channel else None
        fan_in = kernel * kernel * (1 if channels is None else depth)
        weights = (
            self.rng.normal(0, fan_in**-0.5, shape)
            * np.exp(self.rng.normal(0, 0.5, shape[axis or 0]))[
                (slice(None), None, None, None) if axis != 3 else (None, None, None, slice(None))
            ]
        )
        if padding is None:
            window = dilation * (kernel - 1) + 1
            padding = same_padding(height, width, (window, window), (stride, stride))
        w = self.constant(f"{name}/weight", weights, symmetric(weights, axis))
        b = self._bias(f"{name}/bias", x, w, channels or depth)
        kind = DepthwiseConv2d if channels is None else Conv2d
        return self.add_op(kind(name, (x, w, b), name, (stride,) * 2, padding, (dilation,) * 2, activation))

    def _bias(self, name: str, x: str, weight: str, channels: int) -> str:
        values = self.rng.normal(0, 0.5, channels).astype(np.float32)
        if not self.quantized:
            return self.constant(name, values)
        w = self.tensors[weight].qparams
        scale = self.tensors[x].qparams.scale * w.scale
        limits = np.iinfo(np.int32)
        axis = None if w.axis is None else 0
        qparams = QParams(scale, np.zeros(scale.shape), int(limits.min), int(limits.max), axis)
        data = qparams.quantize(values)
        return self._declare(Tensor(name, data.shape, "int32", qparams, data), qparams.dequantize(data))

    def add(self, a: str, b: str, activation: str = "none") -> str:
        return self.add_op(Add(f"add{len(self.ops)}", (a, b), f"add{len(self.ops)}", activation))

    def mul(self, a: str, b: str, activation: str = "none") -> str:
        return self.add_op(Mul(f"mul{len(self.ops)}", (a, b), f"mul{len(self.ops)}", activation))

    def unary(self, kind: type[Op], x: str, **attributes: object) -> str:
        name = f"{kind.__name__.lower()}{len(self.ops)}"
        return self.add_op(kind(name, (x,), name, **attributes))

    def add_op(self, op: Op, dtype: str | None = None) -> str:
        """Append `op` and declare its output."""
        ins = [self.tensors[name] for name in op.inputs]
        shape = output_shape(op, [t.shape for t in ins])
        values = torch_result(op, [self.reals[name] for name in op.inputs])
        dtype = dtype or ("float32" if isinstance(op, Dequantize) or not self.quantized else "int8")
        if isinstance(op, Pad | Flatten):
            qparams = ins[0].qparams
        elif isinstance(op, Logistic) and self.quantized:
            qparams = QParams.per_tensor(1 / 256, -128)  # TFLite's own
        else:
            qparams = None if dtype == "float32" else asymmetric(values, dtype)
        self.ops.append(op)
        return self._declare(Tensor(op.output, shape, dtype, qparams), values)

    def _declare(self, tensor: Tensor, values: np.ndarray) -> str:
        self.tensors[tensor.name] = tensor
        if tensor.qparams:
            values = tensor.qparams.dequantize(tensor.qparams.quantize(values))
        self.reals[tensor.name] = values
        return tensor.name

    def graph(self, *outputs: str, metadata: Metadata | None = None) -> QuantGraph:
        return QuantGraph(
            self.tensors, tuple(self.ops), tuple(self.inputs), outputs, metadata or Metadata("sketch")
        )

    def feed(self) -> dict[str, np.ndarray]:
        """Input values in the dtype the file wants."""
        result = {}
        for name in self.inputs:
            t = self.tensors[name]
            values = t.qparams.quantize(self.reals[name]) if t.qparams else self.reals[name]
            result[name] = values.astype(t.dtype)
        return result


def interpreter(model: bytes, resolver: str, keep_all: bool = False) -> Interpreter:
    made = Interpreter(
        model_content=model,
        experimental_op_resolver_type=RESOLVERS[resolver],
        experimental_preserve_all_tensors=keep_all,
        num_threads=1,
    )
    made.allocate_tensors()
    return made


def run(model: bytes, feed: dict[str, np.ndarray], resolver: str) -> dict[str, np.ndarray]:
    """Outputs by signature name."""
    return interpreter(model, resolver).get_signature_runner("serving_default")(**feed)


def run_all(model: bytes, feed: dict[str, np.ndarray], resolver: str) -> dict[str, np.ndarray]:
    """Every tensor of the file by name, intermediate ones included."""
    made = interpreter(model, resolver, keep_all=True)
    for detail in made.get_input_details():
        made.set_tensor(detail["index"], feed[detail["name"]])
    made.invoke()
    return {d["name"]: made.get_tensor(d["index"]) for d in made.get_tensor_details() if d["name"]}


def mobilenet_v3_chain(quantized: bool, resolution: int = 32, hard_swish_op: bool = False) -> Sketch:
    """Like MobileNetV3-Small: stem, SE blocks, h-swish as ADD and MUL, residuals, head, classifier."""
    s = Sketch(quantized, seed=7)
    three, sixth = s.constant("three", np.full((1,), 3.0)), s.constant("sixth", np.full((1,), 1 / 6))

    def gate(x: str) -> str:
        return s.add(x, three, "relu6")

    def hard_swish(x: str) -> str:
        return s.unary(HardSwish, x) if hard_swish_op else s.mul(s.mul(x, sixth), gate(x))

    def squeeze_excite(x: str) -> str:
        depth = s.tensors[x].shape[3]
        pooled = s.conv(s.conv(s.unary(Mean, x), 8, activation="relu"), depth)
        return s.mul(x, s.mul(gate(pooled), sixth))

    x = hard_swish(s.conv(s.image(1, resolution, resolution, 3), 16, 3, 2))
    rows = [(3, 16, 16, True, "relu", 2), (3, 72, 24, False, "relu", 2), (3, 88, 24, False, "relu", 1)]
    rows += [(5, 96, 40, True, "hswish", 2), (5, 240, 40, True, "hswish", 1)]
    for kernel, expand, out, excite, nonlinearity, stride in rows:
        activation = "relu" if nonlinearity == "relu" else "none"
        y = s.conv(x, expand, activation=activation)
        y = y if activation == "relu" else hard_swish(y)
        y = s.conv(y, None, kernel, stride, activation)
        y = y if activation == "relu" else hard_swish(y)
        y = s.conv(squeeze_excite(y) if excite else y, out)
        x = s.add(x, y) if stride == 1 else y
    x = hard_swish(s.conv(x, 240))
    x = hard_swish(s.conv(s.unary(Mean, x), 128))
    logits = s.conv(x, 10)
    s.add_op(Flatten("flatten", (logits,), "logits"))
    return s
