from fractions import Fraction
from math import floor

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from qmnv3.reference.fixed_point import (
    multiply_by_quantized_multiplier,
    quantize_multiplier,
    rounding_divide_by_pot,
    rounding_doubling_high_mul,
)

INT32 = st.integers(-(2**31), 2**31 - 1)
Q31 = st.integers(2**30, 2**31 - 1)


def half_away(value: Fraction) -> int:
    magnitude = floor(abs(value) + Fraction(1, 2))
    return magnitude if value >= 0 else -magnitude


def array(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


@given(INT32, Q31)
@example(1, 2**30)  # exactly one half
@example(-1, 2**30)
def test_high_mul_is_the_nearest_integer_with_ties_up(a: int, b: int) -> None:
    expected = floor(Fraction(a * b, 2**31) + Fraction(1, 2))
    assert rounding_doubling_high_mul(array(a), b).item() == expected


@given(INT32, st.integers(0, 31))
@example(-3, 1)
@example(3, 1)
@example(-7, 0)
def test_divide_by_power_of_two_is_nearest_with_ties_away_from_zero(x: int, exponent: int) -> None:
    assert rounding_divide_by_pot(array(x), exponent).item() == half_away(Fraction(x, 2**exponent))


@given(st.floats(2.0**-31, 2.0**20))
@example(1 - 2.0**-40)  # rounds up to 2^31, which must become 2^30 and one more shift
def test_multiplier_is_normalised_and_within_half_a_unit(real: float) -> None:
    multiplier_q31, shift = quantize_multiplier(real)
    assert 2**30 <= multiplier_q31 < 2**31
    unit = Fraction(2) ** (int(shift) - 31)
    assert abs(int(multiplier_q31) * unit - Fraction(real)) <= unit / 2


def test_multipliers_too_small_for_the_shift_are_zero() -> None:
    multiplier_q31, shift = quantize_multiplier([2.0**-40, 0.0])
    assert multiplier_q31.tolist() == [0, 0] and shift.tolist() == [0, 0]


@given(st.integers(-(2**22), 2**22), st.floats(2.0**-20, 200.0))
def test_product_is_within_one_of_the_real_product(x: int, real: float) -> None:
    """Two roundings of at most half a unit each, and the multiplier's own 2^-31."""
    result = multiply_by_quantized_multiplier(array(x), *quantize_multiplier(real)).item()
    assert abs(result - Fraction(real) * x) <= Fraction(1) + abs(x) * Fraction(real) / 2**30


def test_left_shift_wraps_around_in_int32_as_in_litert() -> None:
    multiplier_q31, shift = quantize_multiplier(128.0)
    assert multiply_by_quantized_multiplier(array(2**25), multiplier_q31, shift).item() == 0


def test_per_channel_multipliers_follow_the_last_axis() -> None:
    reals = [0.5, 3.0, 2.0**-10]
    x = array(-1001, 7, 1 << 20) * np.ones((2, 1), np.int64)
    together = multiply_by_quantized_multiplier(x, *quantize_multiplier(reals))
    apart = [multiply_by_quantized_multiplier(x[:, i], *quantize_multiplier(r)) for i, r in enumerate(reals)]
    np.testing.assert_array_equal(together, np.stack(apart, axis=1))
