"""Integer multiplication by a real number: a 31-bit multiplier and a power of two, rounded as LiteRT rounds.

All functions take and return int64 arrays that hold int32 (or int16) values, so no product can overflow.
Source: Jacob et al. 2018, section 2.2, and gemmlowp's fixedpoint.h; LiteRT builds use its two roundings.
"""

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]

Q31_BITS = 31
Q15_BITS = 15


def quantize_multiplier(real: npt.ArrayLike) -> tuple[IntArray, IntArray]:
    """Write `real` >= 0 as `multiplier_q31 * 2**(shift - 31)`, multiplier in [2^30, 2^31) or 0.

    `shift` may have either sign. Reals below 2^-32 become 0, as in LiteRT.
    """
    fraction, exponent = np.frexp(np.asarray(real, np.float64))
    # Adding a half and flooring is exact here: fraction * 2^31 has 22 bits to spare in a double.
    multiplier_q31 = np.floor(fraction * 2.0**Q31_BITS + 0.5).astype(np.int64)
    carry = multiplier_q31 == 2**Q31_BITS
    multiplier_q31 = np.where(carry, multiplier_q31 >> 1, multiplier_q31)
    shift = exponent.astype(np.int64) + carry
    vanished = shift < -Q31_BITS
    return np.where(vanished, 0, multiplier_q31), np.where(vanished, 0, shift)


def rounding_doubling_high_mul(a: IntArray, b: npt.ArrayLike, bits: int = Q31_BITS) -> IntArray:
    """`a * b / 2**bits` rounded to nearest, ties towards +infinity (gemmlowp's doubling high multiply).

    Both factors are `bits` + 1 wide; `b` >= 0, so gemmlowp's saturation of (-1) * (-1) cannot occur.
    """
    product: IntArray = a * np.asarray(b, np.int64)
    product += 1 << (bits - 1)
    product >>= bits
    return product


def rounding_divide_by_pot(x: IntArray, exponent: npt.ArrayLike) -> IntArray:
    """`x / 2**exponent` rounded to nearest, ties away from zero; `exponent` >= 0."""
    exponent = np.asarray(exponent, np.int64)
    half = (np.int64(1) << exponent) >> 1
    # One less for negative values moves their ties from up to away from zero; exponent 0 has no ties.
    result: IntArray = x + half - ((x < 0) & (exponent > 0))
    result >>= exponent
    return result


def multiply_by_quantized_multiplier(
    x: IntArray, multiplier_q31: npt.ArrayLike, shift: npt.ArrayLike
) -> IntArray:
    """`x * multiplier_q31 * 2**(shift - 31)` with LiteRT's two roundings: high multiply, then right shift."""
    shift = np.asarray(shift, np.int64)
    left = np.maximum(shift, 0)
    # LiteRT shifts left in int32: a large accumulator wraps around there, and so it must here.
    shifted = wrap_int32(x << left) if np.any(left) else x
    return rounding_divide_by_pot(rounding_doubling_high_mul(shifted, multiplier_q31), left - shift)


def multiply_by_reduced_multiplier(
    x: IntArray, multiplier_q31: npt.ArrayLike, shift: npt.ArrayLike
) -> IntArray:
    """`x * multiplier_q31 * 2**(shift - 31)` as LiteRT does it for 64-bit `x`: one rounding, ties up.

    The multiplier is rounded and saturated to its upper 15 bits first; `x` lies in [-2^47, 2^47) and `shift`
    below 15. The result wraps to int32.
    """
    multiplier_q15 = np.minimum((np.asarray(multiplier_q31, np.int64) + (1 << 15)) >> 16, 2**Q15_BITS - 1)
    total_shift = Q15_BITS - np.asarray(shift, np.int64)
    return wrap_int32((x * multiplier_q15 + (np.int64(1) << (total_shift - 1))) >> total_shift)


def wrap_int32(x: IntArray) -> IntArray:
    """The int32 that the low 32 bits of `x` spell."""
    return x.astype(np.int32).astype(np.int64)
