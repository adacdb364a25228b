"""Random graphs of one operation each: shapes, strides, zero points, scales over magnitudes, activations."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from qmnv3.ir import (
    Add,
    Conv2d,
    DepthwiseConv2d,
    Dequantize,
    Flatten,
    HardSwish,
    Logistic,
    Mean,
    Mul,
    Op,
    Pad,
    Padding,
    PixelPairs,
    QParams,
    QuantGraph,
    Quantize,
    Tensor,
)
from qmnv3.ir.shapes import output_shape, same_padding

Rng = np.random.Generator
ACTIVATIONS = ("none", "relu", "relu6")
# XNNPACK takes a convolution while input scale * weight scale / output scale < 256.
LARGEST_MULTIPLIER = 250.0
# LiteRT refuses a fused ReLU6 whose 6 / scale overflows int32.
SMALLEST_OUTPUT_SCALE = 1e-8


@dataclass(frozen=True)
class Case:
    """A graph of one operation and inputs for it, batch 1."""

    graph: QuantGraph
    inputs: dict[str, np.ndarray]


def grid(scale: float, zero_point: int) -> QParams:
    return QParams.per_tensor(scale, zero_point)


def random_grid(rng: Rng, scale: float | None = None) -> QParams:
    scale = 10 ** rng.uniform(-3, -0.5) if scale is None else scale
    return grid(scale, int(rng.integers(-128, 128)))


def random_i8(rng: Rng, shape: tuple[int, ...]) -> np.ndarray:
    return rng.integers(-128, 128, shape, dtype=np.int8)


def one_op(op: Op, operands: list[Tensor], output: QParams | None, dtype: str = "int8") -> QuantGraph:
    shape = output_shape(op, [t.shape for t in operands])
    tensors = [*operands, Tensor(op.output, shape, dtype, output)]
    inputs = tuple(t.name for t in operands if t.data is None)
    return QuantGraph({t.name: t for t in tensors}, (op,), inputs, (op.output,))


def convolution(kind: type[Conv2d] | type[DepthwiseConv2d], rng: Rng) -> Case:
    depthwise = kind is DepthwiseConv2d
    kernel, stride, dilation = int(rng.choice([1, 3, 5])), int(rng.integers(1, 3)), 1
    if stride == 1 and kernel == 3 and rng.random() < 0.2:
        dilation = 2
    window = dilation * (kernel - 1) + 1
    height, width = (int(size) for size in rng.integers(window, window + 18, 2))
    channels = int(rng.integers(1, 40))
    filters = channels if depthwise else int(rng.integers(1, 40))
    same = same_padding(height, width, (window, window), (stride, stride))
    x = Tensor("x", (1, height, width, channels), "int8", random_grid(rng))
    weight = _weight(rng, kernel, channels, filters, depthwise)
    spread = 70 * 70 * np.sqrt(weight.data[0].size if not depthwise else kernel * kernel)
    bias_grid = QParams.bias(x.qparams, weight.qparams)
    bias = rng.integers(-int(spread), int(spread) + 1, filters, dtype=np.int32)
    op = kind(
        "op",
        ("x", "w", "b"),
        "y",
        (stride, stride),
        same if rng.random() < 0.7 else Padding(),
        (dilation, dilation),
        str(rng.choice(ACTIVATIONS)),
    )
    output = random_grid(rng, _conv_output_scale(rng, bias_grid.scale, spread))
    operands = [x, weight, Tensor("b", (filters,), "int32", bias_grid, bias)]
    return Case(one_op(op, operands, output), {"x": random_i8(rng, x.shape)})


def _weight(rng: Rng, kernel: int, channels: int, filters: int, depthwise: bool) -> Tensor:
    shape = (1, kernel, kernel, channels) if depthwise else (filters, kernel, kernel, channels)
    if rng.random() < 0.2:
        qparams = QParams(10 ** rng.uniform(-4, -1.5), 0, -127, 127)
    else:
        scale = 10 ** rng.uniform(-4, -1.5, filters)
        qparams = QParams(scale, np.zeros(filters), -127, 127, 3 if depthwise else 0)
    return Tensor("w", shape, "int8", qparams, rng.integers(-127, 128, shape, dtype=np.int8))


def _conv_output_scale(rng: Rng, accumulator_scale: np.ndarray, spread: float) -> float:
    largest = float(accumulator_scale.max())
    fitting = float(np.median(accumulator_scale)) * spread / 40 * 10 ** rng.uniform(-1, 1)
    scale = max(fitting, largest / LARGEST_MULTIPLIER)
    if rng.random() < 0.2:
        scale = largest / rng.uniform(1, LARGEST_MULTIPLIER)
    return max(scale, SMALLEST_OUTPUT_SCALE)


def binary(kind: type[Add] | type[Mul], rng: Rng) -> Case:
    shape = (1, *(int(size) for size in rng.integers(1, 24, 3)))
    a, b = random_grid(rng), random_grid(rng)
    if kind is Add:
        output = random_grid(rng, max(a.scale, b.scale) * 10 ** rng.uniform(-1, 1))
    else:
        output = random_grid(rng, a.scale * b.scale * 10 ** rng.uniform(0, 2.5))
    op = kind("op", ("a", "b"), "y", str(rng.choice(ACTIVATIONS)))
    operands, inputs = [Tensor("a", shape, "int8", a)], {"a": random_i8(rng, shape)}
    second = [shape, (1, 1, 1, shape[3]), (1,)][rng.integers(3)]
    if second == (1,):
        operands.append(Tensor("b", second, "int8", b, random_i8(rng, second)))
    else:
        operands.append(Tensor("b", second, "int8", b))
        inputs["b"] = random_i8(rng, second)
    return Case(one_op(op, operands, output), inputs)


def convolution_near_ties(rng: Rng) -> Case:
    """Every channel gives a tie but for the rounding of its scales, so their precision decides.

    XNNPACK rounds once, at k + 0.5. LiteRT rounds to `shift` fractional bits before, so there the neighbour
    half a unit of those bits below k + 0.5 is what divides.
    """
    filters, x, output = 200, random_grid(rng), random_grid(rng)
    accumulator = rng.integers(1000, 100_000, filters, dtype=np.int32)
    result = rng.integers(0, 60, filters) + 0.5
    shift = np.frexp(result / accumulator)[1]
    result -= np.where(rng.random(filters) < 0.5, 2.0 ** (shift - 1), 0.0)
    weight_scale = result * output.scale / (x.scale * accumulator)
    weight = QParams(weight_scale, np.zeros(filters), -127, 127, 0)
    # The input is its zero point: the accumulator is the bias.
    image = np.full((1, 1, 1, 1), x.zero_point, np.int8)
    kernel = np.ones((filters, 1, 1, 1), np.int8)
    operands = [
        Tensor("x", image.shape, "int8", x),
        Tensor("w", kernel.shape, "int8", weight, kernel),
        Tensor("b", (filters,), "int32", QParams.bias(x, weight), accumulator),
    ]
    return Case(one_op(Conv2d("op", ("x", "w", "b"), "y"), operands, output), {"x": image})


def add_near_ties(rng: Rng) -> Case:
    """a / 2 + b on the output grid, but for 2^-20 of a: odd values of a are ties or just beside them."""
    shape, output = (1, 16, 16, 3), random_grid(rng)
    nudge = 0.0 if rng.random() < 0.3 else rng.uniform(-(2.0**-19), 2.0**-19)
    a, b = (random_grid(rng, float(output.scale) * ratio) for ratio in (0.5 + nudge, 1.0))
    operands = [Tensor("a", shape, "int8", a), Tensor("b", shape, "int8", b)]
    inputs = {"a": random_i8(rng, shape), "b": random_i8(rng, shape)}
    return Case(one_op(Add("op", ("a", "b"), "y"), operands, output), inputs)


def mul_near_ties(rng: Rng) -> Case:
    """a * b with b at the value that makes odd values of a ties, but for the rounding of the scales."""
    shape, a, b = (1, 16, 16, 1), random_grid(rng), grid(10 ** rng.uniform(-3, -0.5), 0)
    factor = int(rng.integers(1, 128))
    output = random_grid(rng, float(a.scale) * float(b.scale) * factor * 2)
    constant = Tensor("b", (1,), "int8", b, np.array([factor], np.int8))
    every_input = np.arange(-128, 128).astype(np.int8).reshape(shape)
    operands = [Tensor("a", shape, "int8", a), constant]
    return Case(one_op(Mul("op", ("a", "b"), "y"), operands, output), {"a": every_input})


def saturated_add(rng: Rng) -> Case:
    """The gate of h-swish on XNNPACK: x + 3, saturating at [0, 6]; some scales make 6 / scale a tie."""
    shape = (1, 16, 16, 1)
    output_scale = 6 / (int(rng.integers(20, 128)) + 0.5) if rng.random() < 0.5 else 6 / 255
    steps = int(np.ceil(6 / output_scale))
    output = grid(output_scale, int(rng.integers(-128, max(-127, 127 - steps))))
    three = Tensor("three", (1,), "int8", grid(3 / 127, 0), np.array([127], np.int8))
    x = Tensor("x", shape, "int8", random_grid(rng))
    op = Add("op", ("x", "three"), "y", "relu6")
    every_input = np.arange(-128, 128).astype(np.int8).reshape(shape)
    return Case(one_op(op, [x, three], output), {"x": every_input})


def mean(rng: Rng) -> Case:
    shape = (1, *(int(size) for size in rng.integers(1, 15, 2)), int(rng.integers(1, 200)))
    x = random_grid(rng)
    # A ratio of exactly 1 or 2 makes ties common; that is where roundings differ.
    ratio = rng.choice([1.0, 2.0, 10 ** rng.uniform(-0.3, 1.2)])
    output = x if rng.random() < 0.2 else random_grid(rng, float(x.scale) / ratio)
    noise = rng.integers(-30, 31, shape) + rng.integers(-40, 41, (1, 1, 1, shape[3])) + int(x.zero_point)
    values = np.clip(noise, -128, 127).astype(np.int8)
    return Case(one_op(Mean("op", ("x",), "y"), [Tensor("x", shape, "int8", x)], output), {"x": values})


def quantize(rng: Rng) -> Case:
    shape, output = (1, 8, 8, 5), random_grid(rng)
    halves = rng.integers(-300, 300, shape) / 2 * output.scale
    values = halves if rng.random() < 0.5 else rng.normal(0, 60 * output.scale, shape)
    graph = one_op(Quantize("op", ("x",), "y"), [Tensor("x", shape, "float32")], output)
    return Case(graph, {"x": values.astype(np.float32)})


def regrid(rng: Rng) -> Case:
    """int8 to int8 on another grid; XNNPACK takes ratios in [2^-8, 2^7]."""
    shape, x = (1, 8, 8, 5), random_grid(rng)
    output = random_grid(rng, float(x.scale) * 10 ** rng.uniform(-1, 1))
    graph = one_op(Quantize("op", ("x",), "y"), [Tensor("x", shape, "int8", x)], output)
    return Case(graph, {"x": random_i8(rng, shape)})


def change_sign(rng: Rng) -> Case:
    """int8 to uint8 and back, the same real values: how a uint8 interface joins an int8 network."""
    shape, x = (1, 8, 8, 5), random_grid(rng)
    unsigned = QParams.per_tensor(float(x.scale), int(x.zero_point) + 128, 0, 255)
    ends = [("int8", x), ("uint8", unsigned)]
    (in_type, source), (out_type, output) = ends if rng.random() < 0.5 else ends[::-1]
    tensor = Tensor("x", shape, in_type, source)
    values = (rng.integers(0, 256, shape) + source.qmin).astype(in_type)
    return Case(one_op(Quantize("op", ("x",), "y"), [tensor], output, out_type), {"x": values})


def _unary(op: Op, shape: tuple[int, ...], rng: Rng, dtype: str = "int8") -> Case:
    x = Tensor("x", shape, "int8", random_grid(rng))
    output = x.qparams if dtype == "int8" else None
    return Case(one_op(op, [x], output, dtype), {"x": random_i8(rng, shape)})


def dequantize(rng: Rng) -> Case:
    return _unary(Dequantize("op", ("x",), "y"), (1, 8, 8, 5), rng, "float32")


def pad(rng: Rng) -> Case:
    sides = (int(side) for side in rng.integers(0, 4, 4))
    return _unary(Pad("op", ("x",), "y", Padding(*sides)), (1, 6, 7, 5), rng)


def flatten(rng: Rng) -> Case:
    return _unary(Flatten("op", ("x",), "y"), (1, 1, 1, int(rng.integers(1, 60))), rng)


def pixel_pairs(rng: Rng) -> Case:
    height, half_width, channels = (int(size) for size in rng.integers(1, 6, 3))
    return _unary(PixelPairs("op", ("x",), "y"), (1, height, 2 * half_width, channels), rng)


def hard_swish_grids(rng: Rng, low: float = 1e-3, high: float = 0.3) -> tuple[QParams, QParams]:
    """An input grid with scale in [low, high] and the output grid that a min-max calibration would choose."""
    while True:
        source = random_grid(rng, 10 ** rng.uniform(np.log10(low), np.log10(high)))
        real = source.dequantize(np.arange(-128, 128)).astype(np.float64)
        image = real * np.clip(real + 3, 0, 6) / 6
        bottom, top = min(image.min(), 0.0), max(image.max(), 0.0)
        scale = (top - bottom) / 255
        # LiteRT refuses an output scale of 1/128 of the input's or less.
        if 128 * scale > 1.001 * source.scale:
            return source, grid(scale, int(np.clip(np.rint(-128 - bottom / scale), -128, 127)))


def hard_swish(rng: Rng) -> Case:
    source, output = hard_swish_grids(rng)
    every_input = np.arange(-128, 128).astype(np.int8).reshape(1, 16, 16, 1)
    x = Tensor("x", every_input.shape, "int8", source)
    return Case(one_op(HardSwish("op", ("x",), "y"), [x], output), {"x": every_input})


def logistic(rng: Rng) -> Case:
    every_input = np.arange(-128, 128).astype(np.int8).reshape(1, 16, 16, 1)
    x = Tensor("x", every_input.shape, "int8", random_grid(rng, 10 ** rng.uniform(-5, 2)))
    return Case(one_op(Logistic("op", ("x",), "y"), [x], grid(1 / 256, -128)), {"x": every_input})


CASES: dict[str, Callable[[Rng], Case]] = {
    "Conv2d": lambda rng: convolution(Conv2d, rng),
    "Conv2d near ties": convolution_near_ties,
    "DepthwiseConv2d": lambda rng: convolution(DepthwiseConv2d, rng),
    "Add": lambda rng: binary(Add, rng),
    "Add near ties": add_near_ties,
    "Add saturating at [0, 6]": saturated_add,
    "Mul": lambda rng: binary(Mul, rng),
    "Mul near ties": mul_near_ties,
    "Mean": mean,
    "Quantize": quantize,
    "Quantize int8 to int8": regrid,
    "Quantize int8 to uint8 and back": change_sign,
    "Dequantize": dequantize,
    "Pad": pad,
    "Flatten": flatten,
    "PixelPairs": pixel_pairs,
    "HardSwish": hard_swish,
    "Logistic": logistic,
}
# LiteRT keeps these from the delegate; under `xnnpack` its own kernels run them.
NOT_DELEGATED = ("Quantize int8 to uint8 and back", "HardSwish")
