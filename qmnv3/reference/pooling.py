"""Global average over height and width."""

import numpy as np

from qmnv3.ir import QParams
from qmnv3.reference.fixed_point import IntArray, multiply_by_quantized_multiplier, quantize_multiplier
from qmnv3.reference.requantize import Array, Semantics


def mean(x: Array, grids: tuple[QParams, QParams], how: Semantics) -> Array:
    """[N,H,W,C] to [N,1,1,C]; `grids` are those of x and the output."""
    pixels = x.shape[1] * x.shape[2]
    total = x.sum(axis=(1, 2), keepdims=True, dtype=np.int64)
    average = _mean_tflite if how.name == "tflite" else _mean_xnnpack
    return how.finish(average(total, pixels, grids), "none", grids[1])


def _mean_tflite(total: IntArray, pixels: int, grids: tuple[QParams, QParams]) -> IntArray:
    """The sum times one Q31 multiplier that has the pixel count divided in, truncated."""
    ratio = np.float64(grids[0].scale) / np.float64(grids[1].scale)
    multiplier_q31, shift = quantize_multiplier(ratio)
    # Shifted left before the division so that the quotient keeps 31 significant bits.
    extra = min(pixels.bit_length() - 1, 32, 31 + int(shift))
    centred = total - pixels * np.int64(grids[0].zero_point)
    return multiply_by_quantized_multiplier(centred, (multiplier_q31 << extra) // pixels, shift - extra)


def _mean_xnnpack(total: IntArray, pixels: int, grids: tuple[QParams, QParams]) -> Array:
    """The sum of stored integers times one float32 multiplier, plus a float32 offset for both zero points."""
    multiplier = (grids[0].scale / grids[1].scale) * (np.float32(1) / np.float32(pixels))
    zero_point = np.float32(grids[1].zero_point)
    # Every product and sum here rounds to float32; exact offsets would break ties the other way.
    offset = zero_point - np.float32(pixels * int(grids[0].zero_point)) * multiplier
    stored: Array = np.rint(total.astype(np.float32) * multiplier + offset)
    return stored - zero_point
