"""The two arithmetics that bring an int32 accumulator back to int8: LiteRT's Q31 and XNNPACK's float32.

A `Semantics` holds what differs between runtimes at every operation; the kernels take it as an argument.
Sources: LiteRT kernels/internal/{common,quantization_util}.cc and reference/quantize.h; XNNPACK
src/qs8-requantization and the fp32 microkernels of x86.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from qmnv3.ir import Activation, QParams
from qmnv3.reference.fixed_point import (
    IntArray,
    multiply_by_quantized_multiplier,
    multiply_by_reduced_multiplier,
    quantize_multiplier,
    rounding_doubling_high_mul,
    wrap_int32,
)

Array = npt.NDArray[Any]
SemanticsName = Literal["tflite", "xnnpack"]
UINT8_MAX = 255


@dataclass(frozen=True)
class Semantics:
    """How one runtime rounds.

    `requantize(accumulator, multiplier)` gives the nearest integers of their product, before zero point and
    clamping; `multiplier` broadcasts against the last axis. `conv_multiplier` combines input, weight and
    output scales in the runtime's precision. `quantize` puts float32 values on a grid, `bound` the limit of a
    fused activation. `optimized_int16` marks LiteRT's optimized kernels for int16, where they differ from its
    reference: CONV_2D with an int32 bias, and ADD of two tensors of one shape.
    """

    name: SemanticsName
    requantize: Callable[[Array, Array], Array]
    conv_multiplier: Callable[[QParams, QParams, QParams], Array]
    quantize: Callable[[Array, QParams], Array]
    bound: Callable[[float, QParams], int]
    optimized_int16: bool = False

    def limits(self, activation: Activation, output: QParams) -> tuple[int, int]:
        """Smallest and largest integer an output may take under a fused activation."""
        low, high = output.qmin, output.qmax
        if activation != "none":
            low = max(low, int(output.zero_point))
        if activation == "relu6":
            high = min(high, self.bound(6.0, output))
        return low, high

    def finish(self, real_integers: Array, activation: Activation, output: QParams) -> Array:
        """Add the zero point and saturate to the output's type."""
        low, high = self.limits(activation, output)
        return to_grid(real_integers, output, low, high)


def to_grid(real_integers: Array, output: QParams, low: int, high: int) -> Array:
    """`real_integers` + zero point, clamped to [low, high], as int8, uint8 or int16."""
    zero_point = int(output.zero_point)
    clamped = np.clip(real_integers, low - zero_point, high - zero_point)
    # Only after clamping does a float32 hold the sum exactly.
    clamped += zero_point
    return clamped.astype(storage_dtype(output))


def storage_dtype(qparams: QParams) -> type[np.generic]:
    """int8, uint8 or int16, whichever holds the grid's range."""
    if qparams.qmax > UINT8_MAX:
        return np.int16
    return np.uint8 if qparams.qmin >= 0 else np.int8


def centred(q: Array, qparams: QParams) -> IntArray:
    """Stored integers less their zero point, int64."""
    return q.astype(np.int64) - np.int64(qparams.zero_point)


def _q31_requantize(accumulator: Array, multiplier: Array) -> IntArray:
    multiplier_q31, shift = quantize_multiplier(multiplier)
    return multiply_by_quantized_multiplier(accumulator.astype(np.int64), multiplier_q31, shift)


def optimized_int16_requantize(accumulator: Array, multiplier: Array) -> IntArray:
    """LiteRT's optimized int16 CONV_2D: a rounded high multiply, then a right shift with ties up."""
    multiplier_q31, shift = quantize_multiplier(multiplier)
    left = np.maximum(shift, 0)
    product = rounding_doubling_high_mul(wrap_int32(accumulator.astype(np.int64) << left), multiplier_q31)
    right = left - shift
    return (product + ((np.int64(1) << right) >> 1)) >> right


def wide_requantize(accumulator: Array, multiplier: Array) -> IntArray:
    """LiteRT's int16 convolutions with an int64 bias, all kernels: a 15-bit multiplier, one rounding."""
    return multiply_by_reduced_multiplier(accumulator.astype(np.int64), *quantize_multiplier(multiplier))


def _double_conv_multiplier(x: QParams, weight: QParams, output: QParams) -> Array:
    return x.scale.astype(np.float64) * weight.scale.astype(np.float64) / output.scale.astype(np.float64)


def _round_half_away(real: Array) -> Array:
    # floor(|x| + 0.5) in double: the sum is exact, so 0.49999997 does not become 1.
    wide = np.abs(np.asarray(real, np.float64))
    return np.copysign(np.floor(wide + 0.5), real)


def _tflite_quantize(real: Array, output: QParams) -> Array:
    return to_grid(_round_half_away(real / output.scale), output, output.qmin, output.qmax)


def _tflite_bound(real: float, output: QParams) -> int:
    return int(_round_half_away(np.float32(real) / output.scale)) + int(output.zero_point)


def _float32_requantize(accumulator: Array, multiplier: Array) -> Array:
    return np.rint(accumulator.astype(np.float32) * multiplier.astype(np.float32))


def _single_conv_multiplier(x: QParams, weight: QParams, output: QParams) -> Array:
    return np.asarray(x.scale * weight.scale / output.scale, np.float32)


def _xnnpack_quantize(real: Array, output: QParams) -> Array:
    # XNNPACK multiplies by the float32 reciprocal; the quotient may round to the other neighbour.
    inverse_scale = np.float32(1) / output.scale
    return to_grid(np.rint(real * inverse_scale), output, output.qmin, output.qmax)


def _xnnpack_bound(real: float, output: QParams) -> int:
    # The zero point goes in before rounding: a tie at 6 / scale depends on whether it is odd.
    return int(np.rint(np.float32(real) / output.scale + np.float32(output.zero_point)))


SEMANTICS: dict[SemanticsName, Semantics] = {
    "tflite": Semantics("tflite", _q31_requantize, _double_conv_multiplier, _tflite_quantize, _tflite_bound),
    "xnnpack": Semantics(
        "xnnpack", _float32_requantize, _single_conv_multiplier, _xnnpack_quantize, _xnnpack_bound
    ),
}
# XNNPACK leaves what touches int16 to LiteRT's optimized kernels.
INT16_SEMANTICS: dict[SemanticsName, Semantics] = {
    "tflite": SEMANTICS["tflite"],
    "xnnpack": replace(SEMANTICS["tflite"], optimized_int16=True),
}
