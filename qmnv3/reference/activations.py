"""Hard-sigmoid and h-swish from int8 to int8 with integer arithmetic only, and the sigmoid as a table.

MobileNetV3, section 5.2, replaces the sigmoid by `relu6(x + 3) / 6` so that quantized networks need none:
`hard_sigmoid(x) = relu6(x + 3) / 6` and `hard_swish(x) = x * relu6(x + 3) / 6`. An int8 input has 256 values,
so each function is computed once for all of them and looked up. The runtimes do so with the sigmoid too.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from qmnv3.errors import GraphError
from qmnv3.ir import QParams
from qmnv3.reference.fixed_point import (
    Q15_BITS,
    IntArray,
    multiply_by_quantized_multiplier,
    quantize_multiplier,
    rounding_divide_by_pot,
    rounding_doubling_high_mul,
)
from qmnv3.reference.requantize import Semantics, to_grid

Int8Array = npt.NDArray[np.int8]

SIGMOID_QPARAMS = QParams.per_tensor(1 / 256, -128)
# A 9-bit input shifted by this fits int32, and the first of the two roundings happens far below one step.
HARD_SIGMOID_LEFT_SHIFT = 20
INT16_MIN, INT16_MAX = -(2**15), 2**15 - 1


def hard_sigmoid_i8(q: Int8Array, input_qparams: QParams) -> Int8Array:
    """relu6(x + 3) / 6 on the fixed output grid: scale 1/256, zero point -128.

    On that grid the offset 3 / 6 is 128 steps and cancels the zero point, so all that is left is
    `(q - zero_point) * 256 * scale / 6`, one Q31 multiplier and shift, saturated to int8.
    """
    step = np.float64(input_qparams.scale) * (256 / 6)
    multiplier_q31, shift = quantize_multiplier(step / (1 << HARD_SIGMOID_LEFT_SHIFT))

    def function(x: IntArray) -> Int8Array:
        rescaled = multiply_by_quantized_multiplier(x << HARD_SIGMOID_LEFT_SHIFT, multiplier_q31, shift)
        return np.clip(rescaled, -128, 127).astype(np.int8)

    return _lookup(q, input_qparams, function)


def hard_swish_i8(q: Int8Array, input_qparams: QParams, output_qparams: QParams) -> Int8Array:
    """x * relu6(x + 3) / 6, equal to LiteRT's reference HARD_SWISH byte for byte.

    16-bit fixed point: x with 7 fractional bits, the gate relu6(x + 3) / 6 as a 15-bit fraction, their
    product shifted to the output grid. Raises GraphError where LiteRT refuses: an output scale of 1/128 of
    the input's or less.
    """
    hires_scale = np.float32(1 / 128) * input_qparams.scale
    output_multiplier_q15, output_shift = _q15_multiplier(hires_scale / output_qparams.scale)
    gate_multiplier_q15, gate_shift = _q15_multiplier(hires_scale / np.float32(3 / 32768))
    if output_shift > 0:
        raise GraphError(
            f"h-swish: output scale {output_qparams.scale:.6g} must be above 1/128 of the input scale "
            f"{input_qparams.scale:.6g}; widen the output range"
        )

    def function(x: IntArray) -> Int8Array:
        hires = x << 7
        linear = rounding_doubling_high_mul(hires, output_multiplier_q15, Q15_BITS)
        gate = _gate_q15(hires, gate_multiplier_q15, gate_shift)
        product = gate * linear
        # LiteRT truncates towards zero here, to cancel the upward bias of the roundings before.
        preshift = np.sign(product) * (np.abs(product) >> Q15_BITS)
        rescaled = rounding_divide_by_pot(preshift, -output_shift)
        return to_grid(rescaled, output_qparams, -128, 127)

    return _lookup(q, input_qparams, function)


def logistic_i8(q: Int8Array, input_qparams: QParams, how: Semantics) -> Int8Array:
    """1 / (1 + exp(-x)) on the fixed output grid: scale 1/256, zero point -128.

    The runtimes fill their tables in float32. This is LiteRT's byte for byte; XNNPACK has an exp of its own
    and differs by one step in about two of a million entries, those that lie on a tie.
    """

    def function(x: IntArray) -> Int8Array:
        real = x.astype(np.float32) * input_qparams.scale
        with np.errstate(over="ignore"):  # to infinity, whose sigmoid is 0
            exponential = np.exp(-real.astype(np.float64)).astype(np.float32)
        sigmoid = np.float32(1) / (np.float32(1) + exponential)
        return how.quantize(sigmoid, SIGMOID_QPARAMS).astype(np.int8)

    return _lookup(q, input_qparams, function)


def _gate_q15(hires: IntArray, multiplier_q15: int, shift: int) -> IntArray:
    """relu6(x + 3) / 6 as a 15-bit fraction: x mapped from [-3, 3] to all of int16, saturating; then halved.

    `shift` belongs to the multiplier that does the mapping.
    """
    # The last bit of a left shift comes after the multiplication: only there may saturation show.
    early = _saturate_int16(hires << max(0, shift - 1))
    scaled = rounding_doubling_high_mul(early, multiplier_q15, Q15_BITS)
    if shift > 0:
        scaled = _saturate_int16(scaled << 1)
    if shift < 0:
        scaled = rounding_divide_by_pot(scaled, -shift)
    gate: IntArray = (scaled + 2**Q15_BITS) >> 1
    return gate


def _q15_multiplier(real: npt.NDArray[np.float32]) -> tuple[int, int]:
    """`real` as a 15-bit multiplier and a shift: the Q31 multiplier's upper half, rounded and saturated."""
    multiplier_q31, shift = quantize_multiplier(real)
    return min((int(multiplier_q31) + 2**15) >> 16, INT16_MAX), int(shift)


def _saturate_int16(x: IntArray) -> IntArray:
    clamped: IntArray = np.clip(x, INT16_MIN, INT16_MAX)
    return clamped


def _lookup(q: Int8Array, input_qparams: QParams, function: Callable[[IntArray], Int8Array]) -> Int8Array:
    every_input = np.arange(-128, 128, dtype=np.int64)
    table = function(every_input - np.int64(input_qparams.zero_point))
    return table[q.astype(np.int16) + 128]
