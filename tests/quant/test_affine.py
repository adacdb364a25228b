"""Scale and zero-point choice, worked by hand, and fake-quantize against torch and numpy."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qmnv3.ir import QParams
from qmnv3.quant.affine import asymmetric_qparams, fake_quantize, int16_qparams, symmetric_qparams


@pytest.mark.parametrize(
    ("low", "high", "scale", "zero_point"),
    [
        (0.0, 255.0, 1.0, -128),  # ReLU: all levels above zero
        (-128.0, 127.0, 1.0, 0),
        (2.0, 5.1, 5.1 / 255, -128),  # 0 must be on the grid
        (-1.0, 1.0, 1 / 127, 0),  # zero point 127.5 rounds to 128; the scale widens to reach +1
        (-3.0, -1.0, 3 / 255, 127),
    ],
)
def test_asymmetric_by_hand(low: float, high: float, scale: float, zero_point: int) -> None:
    q = asymmetric_qparams(low, high)
    assert float(q.scale) == pytest.approx(scale, rel=1e-6)
    assert int(q.zero_point) == zero_point


@given(st.floats(-1e4, 1e4, width=32), st.floats(-1e4, 1e4, width=32))
def test_asymmetric_covers_the_range_and_holds_zero(a: float, b: float) -> None:
    low, high = min(a, b, 0.0), max(a, b, 0.0)
    q = asymmetric_qparams(low, high)
    ends = q.dequantize(np.array([q.qmin, q.qmax])).astype(np.float64)
    slack = 1e-5 * (high - low) + 1e-30
    # An end within half a step of 0 may coincide with it; any other end is covered.
    half_step = 0.5 * float(q.scale)
    assert ends[0] <= low + slack + half_step * (q.zero_point == q.qmin)
    assert ends[1] >= high - slack - half_step * (q.zero_point == q.qmax)
    assert q.dequantize(q.quantize(0.0)) == 0.0


def test_floor_keeps_a_dead_tensor_alive() -> None:
    assert float(asymmetric_qparams(0.0, 0.0, floor=0.01).scale) == pytest.approx(0.01)


def test_symmetric_weights_by_hand() -> None:
    q = symmetric_qparams(np.array([127.0, 1.27, 0.0]), axis=0)
    np.testing.assert_allclose(q.scale, [1.0, 0.01, 1.0], rtol=1e-6)  # dead channel: the others' largest
    assert (q.qmin, q.qmax) == (-127, 127)


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf")])
def test_bad_scale_is_refused(scale: float) -> None:
    with pytest.raises(ValueError, match="scale"):
        QParams.per_tensor(scale, 0)


def test_zero_point_must_be_on_the_grid() -> None:
    with pytest.raises(ValueError, match="zero_point"):
        QParams.per_tensor(1.0, 200)


def test_fake_quantize_rounds_half_to_even_and_saturates() -> None:
    x = torch.tensor([-1000.0, -1.5, -0.5, 0.5, 1.5, 2.4, 1000.0])
    q = QParams.per_tensor(1.0, 0)
    assert fake_quantize(x, q).tolist() == [-128.0, -2.0, 0.0, 0.0, 2.0, 2.0, 127.0]


def test_fake_quantize_per_channel_equals_quantize_then_dequantize() -> None:
    weight = torch.randn(6, 3, 3, 3)
    q = symmetric_qparams(weight.abs().flatten(1).amax(1).numpy(), axis=0)
    expected = q.dequantize(q.quantize(weight.numpy()))
    np.testing.assert_allclose(fake_quantize(weight, q).numpy(), expected, atol=1e-7)


@pytest.mark.parametrize(
    "grid",
    [QParams.per_tensor(0.0237163, -3), QParams.per_tensor(6 / 255, -128), int16_qparams(-1.0, 3.0)],
)
def test_fake_quantize_is_torchs_bit_for_bit(grid: QParams) -> None:
    """Ties, where one float32 operation more or less would show, and values far outside."""
    step = float(grid.scale)
    ties = (torch.arange(-400, 400) + 0.5) * step
    x = torch.cat([ties, torch.randn(10_000, generator=torch.Generator().manual_seed(0)) * 100 * step])
    x = torch.cat([x, torch.tensor([0.0, -0.0, 1e30, -1e30, torch.inf, -torch.inf])])
    expected = torch.fake_quantize_per_tensor_affine(x, step, int(grid.zero_point), grid.qmin, grid.qmax)
    before = x.clone()
    assert torch.equal(fake_quantize(x, grid), expected)
    assert torch.equal(x, before)
    assert torch.equal(fake_quantize(x.requires_grad_(), grid), expected)
