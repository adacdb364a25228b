"""Convolutions with exact integer accumulators, NHWC."""

from typing import Any

import numpy as np
import numpy.typing as npt

from qmnv3.ir import Conv2d, DepthwiseConv2d, Padding, QParams
from qmnv3.ir.shapes import window_size
from qmnv3.reference.requantize import Array, Semantics, optimized_int16_requantize, wide_requantize

# A double holds every integer below 2^53, far above any sum of int8 by int8 (or int16) products plus a bias
# of 32 bits, so BLAS adds them exactly in whatever order it likes.
Accumulator = npt.NDArray[np.float64]


def conv2d(
    op: Conv2d, x: Array, weight: Array, bias: Array, grids: tuple[QParams, QParams, QParams], how: Semantics
) -> Array:
    """Convolve `x` [N,H,W,I] with `weight` [O,kh,kw,I]; `grids` are those of x, weight and output."""
    centred = _centred_and_padded(x, grids[0], op.padding)
    columns = _columns(centred, (weight.shape[1], weight.shape[2]), op.stride, op.dilation)
    batch, height, width = columns.shape[:3]
    matrix = weight.reshape(weight.shape[0], -1).astype(np.float64)
    accumulator = columns.reshape(batch * height * width, -1) @ matrix.T
    accumulator += bias
    return _requantized(op, accumulator.reshape(batch, height, width, -1), bias.dtype, grids, how)


def depthwise_conv2d(
    op: DepthwiseConv2d,
    x: Array,
    weight: Array,
    bias: Array,
    grids: tuple[QParams, QParams, QParams],
    how: Semantics,
) -> Array:
    """Filter each channel of `x` [N,H,W,C] with its own kernel in `weight` [1,kh,kw,C], one tap at a time."""
    centred = _centred_and_padded(x, grids[0], op.padding)
    kernel = (weight.shape[1], weight.shape[2])
    height, width = _positions(centred, kernel, op.stride, op.dilation)
    accumulator = np.empty((centred.shape[0], height, width, centred.shape[3]), np.float64)
    accumulator[...] = bias
    for row in range(kernel[0]):
        for column in range(kernel[1]):
            top, left = row * op.dilation[0], column * op.dilation[1]
            rows = slice(top, top + (height - 1) * op.stride[0] + 1, op.stride[0])
            columns = slice(left, left + (width - 1) * op.stride[1] + 1, op.stride[1])
            accumulator += centred[:, rows, columns] * weight[0, row, column].astype(np.float64)
    return _requantized(op, accumulator, bias.dtype, grids, how)


def _centred_and_padded(x: Array, grid: QParams, padding: Padding) -> Accumulator:
    """Values less their zero point, with a border of zeros (in the stored integers: of zero points)."""
    p = padding
    batch, height, width, channels = x.shape
    padded = np.zeros((batch, height + p.top + p.bottom, width + p.left + p.right, channels))
    inside = padded[:, p.top : p.top + height, p.left : p.left + width]
    np.subtract(x, np.float64(grid.zero_point), out=inside)
    return padded


def _positions(
    x: Accumulator, kernel: tuple[int, int], stride: tuple[int, int], dilation: tuple[int, int]
) -> tuple[int, int]:
    height, width = (
        window_size(size, k, s, d, 0)
        for size, k, s, d in zip(x.shape[1:3], kernel, stride, dilation, strict=True)
    )
    return height, width


def _columns(
    x: Accumulator, kernel: tuple[int, int], stride: tuple[int, int], dilation: tuple[int, int]
) -> Accumulator:
    """im2col: [N, OH, OW, kh, kw, I], a view where it can be."""
    height, width = _positions(x, kernel, stride, dilation)
    n, h, w, c = x.strides
    return np.lib.stride_tricks.as_strided(
        x,
        (x.shape[0], height, width, *kernel, x.shape[3]),
        (n, h * stride[0], w * stride[1], h * dilation[0], w * dilation[1], c),
        writeable=False,
    )


def _requantized(
    op: Conv2d | DepthwiseConv2d,
    accumulator: Accumulator,
    bias_type: np.dtype[Any],
    grids: tuple[QParams, QParams, QParams],
    how: Semantics,
) -> Array:
    x, weight, output = grids
    requantize = how.requantize
    if bias_type == np.int64:
        requantize = wide_requantize
    elif how.optimized_int16:
        requantize = optimized_int16_requantize
    multiplier = how.conv_multiplier(x, weight, output)
    return how.finish(requantize(accumulator, multiplier), op.activation, output)
