"""ADD and MUL of two integer tensors, each on its own grid, broadcast like numpy."""

import numpy as np

from qmnv3.ir import Activation, QParams
from qmnv3.reference.fixed_point import (
    IntArray,
    multiply_by_quantized_multiplier,
    quantize_multiplier,
    rounding_doubling_high_mul,
)
from qmnv3.reference.requantize import Array, Semantics, centred, storage_dtype

# Headroom LiteRT gives both inputs before rescaling them to a common grid (kernels/add.cc): int8, int16.
TFLITE_ADD_LEFT_SHIFT, TFLITE_ADD_LEFT_SHIFT_INT16 = 20, 15
# Elements that LiteRT's optimized int16 ADD takes at once (optimized/integer_ops/add.h).
INT16_VECTOR = 16
# Bits of XNNPACK's larger input multiplier (qs8-vadd microparams).
XNNPACK_ADD_MULTIPLIER_BITS = 20


def add(
    a: Array,
    b: Array,
    grids: tuple[QParams, QParams, QParams],
    activation: Activation,
    how: Semantics,
) -> Array:
    """a + b; `grids` are those of a, b and the output."""
    total = _add_tflite if how.name == "tflite" else _add_xnnpack
    if how.optimized_int16 and a.shape == b.shape:
        total = _add_optimized_int16
    return how.finish(total(centred(a, grids[0]), centred(b, grids[1]), grids), activation, grids[2])


def mul(
    a: Array,
    b: Array,
    grids: tuple[QParams, QParams, QParams],
    activation: Activation,
    how: Semantics,
) -> Array:
    """a * b; both runtimes combine the three scales in float32."""
    product = centred(a, grids[0]) * centred(b, grids[1])
    multiplier = np.asarray(grids[0].scale * grids[1].scale / grids[2].scale, np.float32)
    return how.finish(how.requantize(product, multiplier), activation, grids[2])


def _add_tflite(a: IntArray, b: IntArray, grids: tuple[QParams, QParams, QParams]) -> IntArray:
    """Both inputs rescaled to twice the larger scale, with headroom, added, rescaled to the output."""
    wide = storage_dtype(grids[2]) is np.int16
    left_shift = TFLITE_ADD_LEFT_SHIFT_INT16 if wide else TFLITE_ADD_LEFT_SHIFT
    a_scale, b_scale, output_scale = (np.float64(grid.scale) for grid in grids)
    common = 2 * max(a_scale, b_scale)
    rescaled = [
        multiply_by_quantized_multiplier(x << left_shift, *quantize_multiplier(scale / common))
        for x, scale in ((a, a_scale), (b, b_scale))
    ]
    to_output = quantize_multiplier(common / (2.0**left_shift * output_scale))
    return multiply_by_quantized_multiplier(rescaled[0] + rescaled[1], *to_output)


def _add_optimized_int16(a: IntArray, b: IntArray, grids: tuple[QParams, QParams, QParams]) -> IntArray:
    """As `_add_tflite`, but each input's right shift comes before its multiplication, out of the headroom.

    LiteRT does so for 16 elements at a time; what is left at the end of an image is as in `_add_tflite`.
    """
    a_scale, b_scale, output_scale = (np.float64(grid.scale) for grid in grids)
    common = 2 * max(a_scale, b_scale)
    total = np.zeros(a.shape, np.int64)
    for x, scale in ((a, a_scale), (b, b_scale)):
        multiplier_q31, shift = quantize_multiplier(scale / common)
        left = TFLITE_ADD_LEFT_SHIFT_INT16 + int(shift)
        total += rounding_doubling_high_mul(x << left if left > 0 else x >> -left, multiplier_q31)
    to_output = quantize_multiplier(common / (2.0**TFLITE_ADD_LEFT_SHIFT_INT16 * output_scale))
    result = multiply_by_quantized_multiplier(total, *to_output).reshape(a.shape[0], -1)
    tail = result.shape[1] % INT16_VECTOR
    if tail:
        result[:, -tail:] = _add_tflite(a, b, grids).reshape(a.shape[0], -1)[:, -tail:]
    return result.reshape(a.shape)


def _add_xnnpack(a: IntArray, b: IntArray, grids: tuple[QParams, QParams, QParams]) -> IntArray:
    """One sum of products with 21-bit multipliers, shifted right with ties towards +infinity."""
    ratios = np.array([grids[0].scale / grids[2].scale, grids[1].scale / grids[2].scale], np.float32)
    exponent = int(np.frexp(ratios.max())[1]) - 1
    shift = XNNPACK_ADD_MULTIPLIER_BITS - exponent
    multipliers = np.rint(np.ldexp(ratios, shift)).astype(np.int64)
    total: IntArray = a * multipliers[0] + b * multipliers[1] + (1 << (shift - 1))
    total >>= shift
    return total
