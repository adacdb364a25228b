"""Operations without arithmetic of their own: onto the grid, off it, and padding."""

import numpy as np

from qmnv3.ir import Padding, QParams
from qmnv3.reference.fixed_point import IntArray, multiply_by_quantized_multiplier, quantize_multiplier
from qmnv3.reference.requantize import Array, Semantics, centred, storage_dtype


def quantize(x: Array, source: QParams | None, output: QParams, how: Semantics) -> Array:
    """float32 (`source` None) onto the output's grid, or integers from one grid to another."""
    if source is None:
        return how.quantize(x, output)
    # XNNPACK does not take a change between int8 and uint8: LiteRT's own kernel runs.
    delegated = how.name == "xnnpack" and storage_dtype(source) == storage_dtype(output)
    rescale = _rescale_q8 if delegated else _rescale_q31
    return how.finish(rescale(centred(x, source), source, output), "none", output)


def _rescale_q31(x: IntArray, source: QParams, output: QParams) -> IntArray:
    multiplier = quantize_multiplier(np.float64(source.scale) / np.float64(output.scale))
    return multiply_by_quantized_multiplier(x, *multiplier)


def _rescale_q8(x: IntArray, source: QParams, output: QParams) -> IntArray:
    """XNNPACK's qs8 convert: a multiplier with 8 fractional bits, ties towards +infinity."""
    multiplier_q8 = np.int64(np.rint(256 * (source.scale / output.scale)))
    return (x * multiplier_q8 + 128) >> 8


def dequantize(x: Array, source: QParams) -> Array:
    """Real values, float32."""
    return source.dequantize(x)


def pad(x: Array, grid: QParams, padding: Padding) -> Array:
    """A border of zero points around height and width."""
    p = padding
    widths = ((0, 0), (p.top, p.bottom), (p.left, p.right), (0, 0))
    return np.pad(x, widths, constant_values=int(grid.zero_point))
