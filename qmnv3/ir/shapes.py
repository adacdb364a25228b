"""Shape rules of the operations, NHWC."""

from collections.abc import Callable, Sequence

import numpy as np

from qmnv3.errors import GraphError
from qmnv3.ir.ops import Conv2d, DepthwiseConv2d, Flatten, Mean, Op, Pad, Padding, PixelPairs

Shape = tuple[int, ...]


def output_shape(op: Op, inputs: Sequence[Shape]) -> Shape:
    """Shape of `op`'s output from its inputs' shapes; GraphError when they do not fit together."""
    expected = _ARITY.get(type(op).__name__, 1)
    if len(inputs) != expected:
        raise GraphError(f"{op.name}: {type(op).__name__} takes {expected} inputs, got {len(inputs)}")
    rule = _RULES.get(type(op).__name__)
    return rule(op, inputs) if rule else inputs[0]


def window_size(size: int, kernel: int, stride: int, dilation: int, pad_total: int) -> int:
    """Number of positions of a (dilated) window over `size` pixels with `pad_total` pixels of padding."""
    return (size + pad_total - dilation * (kernel - 1) - 1) // stride + 1


def same_padding(height: int, width: int, kernel: tuple[int, int], stride: tuple[int, int]) -> Padding:
    """TensorFlow's SAME padding: the odd pixel goes to the bottom and right."""
    total = [
        max((-(-size // s) - 1) * s + k - size, 0)
        for size, k, s in zip((height, width), kernel, stride, strict=True)
    ]
    return Padding(total[0] // 2, total[0] - total[0] // 2, total[1] // 2, total[1] - total[1] // 2)


def _spatial(op: Conv2d | DepthwiseConv2d, x: Shape, weight: Shape) -> tuple[int, int]:
    p = op.padding
    height = window_size(x[1], weight[1], op.stride[0], op.dilation[0], p.top + p.bottom)
    width = window_size(x[2], weight[2], op.stride[1], op.dilation[1], p.left + p.right)
    if height < 1 or width < 1:
        raise GraphError(f"{op.name}: kernel {weight[1:3]} is larger than the padded input {x[1:3]}")
    return height, width


def _conv(op: Op, inputs: Sequence[Shape]) -> Shape:
    assert isinstance(op, Conv2d)
    x, weight, bias = inputs
    if len(x) != 4 or len(weight) != 4 or weight[3] != x[3] or bias != (weight[0],):
        raise GraphError(f"{op.name}: x{x}, weight{weight} (OHWI), bias{bias} do not fit together")
    return (x[0], *_spatial(op, x, weight), weight[0])


def _depthwise(op: Op, inputs: Sequence[Shape]) -> Shape:
    assert isinstance(op, DepthwiseConv2d)
    x, weight, bias = inputs
    if len(x) != 4 or len(weight) != 4 or weight[0] != 1 or weight[3] != x[3] or bias != (x[3],):
        raise GraphError(f"{op.name}: x{x}, weight{weight} (1HWC), bias{bias} do not fit together")
    return (x[0], *_spatial(op, x, weight), x[3])


def _broadcast(op: Op, inputs: Sequence[Shape]) -> Shape:
    try:
        return np.broadcast_shapes(*inputs)
    except ValueError as error:
        raise GraphError(f"{op.name}: shapes {inputs[0]} and {inputs[1]} do not broadcast") from error


def _mean(op: Op, inputs: Sequence[Shape]) -> Shape:
    assert isinstance(op, Mean)
    return (inputs[0][0], 1, 1, inputs[0][3])


def _pad(op: Op, inputs: Sequence[Shape]) -> Shape:
    assert isinstance(op, Pad)
    p, (n, h, w, c) = op.padding, inputs[0]
    return (n, h + p.top + p.bottom, w + p.left + p.right, c)


def _flatten(op: Op, inputs: Sequence[Shape]) -> Shape:
    assert isinstance(op, Flatten)
    n, h, w, c = inputs[0]
    if (h, w) != (1, 1):
        raise GraphError(f"{op.name}: Flatten needs a 1x1 map, got {h}x{w}")
    return (n, c)


def _pixel_pairs(op: Op, inputs: Sequence[Shape]) -> Shape:
    assert isinstance(op, PixelPairs)
    n, h, w, c = inputs[0]
    if w % 2:
        raise GraphError(f"{op.name}: PixelPairs needs an even width, got {w}")
    return (n, h, w // 2, 2 * c)


_ARITY = {"Conv2d": 3, "DepthwiseConv2d": 3, "Add": 2, "Mul": 2}
_RULES: dict[str, Callable[[Op, Sequence[Shape]], Shape]] = {
    "Conv2d": _conv,
    "DepthwiseConv2d": _depthwise,
    "Add": _broadcast,
    "Mul": _broadcast,
    "Mean": _mean,
    "Pad": _pad,
    "Flatten": _flatten,
    "PixelPairs": _pixel_pairs,
}
