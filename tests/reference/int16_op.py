"""Random graphs of one operation with int16 activations, as `single_op` makes them for int8."""

from collections.abc import Callable

import numpy as np
from single_op import ACTIVATIONS, Case, Rng, one_op, random_grid, random_i8

from qmnv3.ir import (
    Add,
    Cast,
    Conv2d,
    DepthwiseConv2d,
    Dequantize,
    Flatten,
    Mean,
    Mul,
    Op,
    Pad,
    Padding,
    QParams,
    Quantize,
    Tensor,
)
from qmnv3.ir.shapes import same_padding

# Small enough that no sum leaves int32, where LiteRT's kernels would disagree with each other.
MOST_CHANNELS = 18


def grid16(scale: float) -> QParams:
    return QParams.per_tensor(scale, 0, -32768, 32767)


def random_grid16(rng: Rng) -> QParams:
    return grid16(10 ** rng.uniform(-5, -2))


def random_i16(rng: Rng, shape: tuple[int, ...]) -> np.ndarray:
    return rng.integers(-32768, 32768, shape).astype(np.int16)


def convolution(kind: type[Conv2d] | type[DepthwiseConv2d], bias_type: str, rng: Rng) -> Case:
    depthwise = kind is DepthwiseConv2d
    kernel, stride, dilation = int(rng.choice([1, 3, 5])), int(rng.integers(1, 3)), 1
    if stride == 1 and kernel == 3 and rng.random() < 0.2:
        dilation = 2
    window = dilation * (kernel - 1) + 1
    height, width = (int(size) for size in rng.integers(window, window + 12, 2))
    channels = int(rng.integers(1, MOST_CHANNELS))
    filters = channels if depthwise else int(rng.integers(1, 40))
    x = Tensor("x", (1, height, width, channels), "int16", random_grid16(rng))
    shape = (1, kernel, kernel, channels) if depthwise else (filters, kernel, kernel, channels)
    scale = 10 ** rng.uniform(-4, -1.5, filters)
    qparams = QParams(scale, np.zeros(filters), -127, 127, 3 if depthwise else 0)
    if rng.random() < 0.2:
        qparams = QParams(scale[0], 0, -127, 127)
    weight = Tensor("w", shape, "int8", qparams, rng.integers(-127, 128, shape, dtype=np.int8))
    spread = 70 * 19000 * np.sqrt(kernel * kernel * (1 if depthwise else channels))
    bias = rng.integers(-int(spread), int(spread) + 1, filters).astype(bias_type)
    bias_grid = QParams.bias(x.qparams, qparams)
    same = same_padding(height, width, (window, window), (stride, stride))
    padding = same if rng.random() < 0.7 else Padding()
    activation = str(rng.choice(ACTIVATIONS))
    op = kind("op", ("x", "w", "b"), "y", (stride, stride), padding, (dilation, dilation), activation)
    # The largest multiplier is that of an int8 layer at 1, on a grid 128 times finer.
    fitting = np.median(bias_grid.scale) * spread / 10000 * 10 ** rng.uniform(-2, 1)
    output = grid16(max(float(fitting), float(bias_grid.scale.max()) / 127))
    operands = [x, weight, Tensor("b", (filters,), bias_type, bias_grid, bias)]
    return Case(one_op(op, operands, output, "int16"), {"x": random_i16(rng, x.shape)})


def binary(kind: type[Add] | type[Mul], rng: Rng) -> Case:
    shape = (1, *(int(size) for size in rng.integers(1, 24, 3)))
    a, b = random_grid16(rng), random_grid16(rng)
    if kind is Add:
        output = grid16(max(a.scale, b.scale) * 10 ** rng.uniform(-2, 1))
    else:
        output = grid16(a.scale * b.scale * 10 ** rng.uniform(2, 5))
    op = kind("op", ("a", "b"), "y", str(rng.choice(ACTIVATIONS)))
    operands, inputs = [Tensor("a", shape, "int16", a)], {"a": random_i16(rng, shape)}
    second = [shape, (1, 1, 1, shape[3]), (1,)][rng.integers(3)]
    if second == (1,):
        operands.append(Tensor("b", second, "int16", b, random_i16(rng, second)))
    else:
        operands.append(Tensor("b", second, "int16", b))
        inputs["b"] = random_i16(rng, second)
    return Case(one_op(op, operands, output, "int16"), inputs)


def large_add(rng: Rng) -> Case:
    """Many elements, not a multiple of 16: kernels that agree but once in 100,000 elements differ here."""
    shape, a = (1, 31, 33, 129), random_grid16(rng)
    b = grid16(float(a.scale) * 10 ** rng.uniform(-5.5, 0.5))
    output = grid16(max(a.scale, b.scale) * 10 ** rng.uniform(-0.3, 0.5))
    operands = [Tensor("a", shape, "int16", a), Tensor("b", shape, "int16", b)]
    inputs = {"a": random_i16(rng, shape), "b": random_i16(rng, shape)}
    return Case(one_op(Add("op", ("a", "b"), "y"), operands, output, "int16"), inputs)


def mean(rng: Rng) -> Case:
    shape = (1, *(int(size) for size in rng.integers(1, 15, 2)), int(rng.integers(1, 100)))
    x = Tensor("x", shape, "int16", random_grid16(rng))
    ratio = float(rng.choice([1.0, 2.0, 10 ** rng.uniform(-0.3, 1.2)]))
    graph = one_op(Mean("op", ("x",), "y"), [x], grid16(float(x.qparams.scale) / ratio), "int16")
    return Case(graph, {"x": random_i16(rng, shape) // 4})


def narrow(rng: Rng) -> Case:
    """int16 to int8, often by the factor 128 that conversion uses, where half of the low bits are ties."""
    x = Tensor("x", (1, 8, 8, 5), "int16", random_grid16(rng))
    ratio = 128.0 if rng.random() < 0.5 else 10 ** rng.uniform(0, 3)
    output = random_grid(rng, float(x.qparams.scale) * ratio)
    return Case(one_op(Quantize("op", ("x",), "y"), [x], output), {"x": random_i16(rng, x.shape)})


def widen(rng: Rng) -> Case:
    x = Tensor("x", (1, 8, 8, 5), "int8", random_grid(rng))
    output = grid16(float(x.qparams.scale))
    graph = one_op(Quantize("op", ("x",), "y"), [x], output, "int16")
    return Case(graph, {"x": random_i8(rng, x.shape)})


def regrid(rng: Rng) -> Case:
    x = Tensor("x", (1, 8, 8, 5), "int16", random_grid16(rng))
    output = grid16(float(x.qparams.scale) * 10 ** rng.uniform(-1, 1))
    return Case(one_op(Quantize("op", ("x",), "y"), [x], output, "int16"), {"x": random_i16(rng, x.shape)})


def cast(rng: Rng) -> Case:
    x = Tensor("x", (1, 8, 8, 5), "int8", random_grid(rng))
    graph = one_op(Cast("op", ("x",), "y"), [x], grid16(float(x.qparams.scale)), "int16")
    return Case(graph, {"x": random_i8(rng, x.shape)})


def _unary(op: Op, shape: tuple[int, ...], rng: Rng, dtype: str = "int16") -> Case:
    x = Tensor("x", shape, "int16", random_grid16(rng))
    graph = one_op(op, [x], x.qparams if dtype == "int16" else None, dtype)
    return Case(graph, {"x": random_i16(rng, shape)})


INT16_CASES: dict[str, Callable[[Rng], Case]] = {
    "Conv2d, int32 bias": lambda rng: convolution(Conv2d, "int32", rng),
    "Conv2d, int64 bias": lambda rng: convolution(Conv2d, "int64", rng),
    "DepthwiseConv2d": lambda rng: convolution(DepthwiseConv2d, "int64", rng),
    "Add": lambda rng: binary(Add, rng),
    "Add, large": large_add,
    "Mul": lambda rng: binary(Mul, rng),
    "Mean": mean,
    "Quantize int16 to int8": narrow,
    "Quantize int8 to int16": widen,
    "Quantize int16 to int16": regrid,
    "Cast": cast,
    "Dequantize": lambda rng: _unary(Dequantize("op", ("x",), "y"), (1, 8, 8, 5), rng, "float32"),
    "Pad": lambda rng: _unary(Pad("op", ("x",), "y", Padding(1, 2, 0, 3)), (1, 6, 7, 5), rng),
    "Flatten": lambda rng: _unary(Flatten("op", ("x",), "y"), (1, 1, 1, 17), rng),
}
