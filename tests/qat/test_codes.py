"""Rounding and its gradients against torch's own fake-quantization operators."""

import pytest
import torch
import torch.nn.functional as F

from qmnv3.ir import QParams
from qmnv3.qat.codes import Bounds, Codes, hard_swish, round_to_grid
from qmnv3.qat.ranges import FixedRange
from qmnv3.qat.steps import LogisticStep, MulStep, Output
from qmnv3.quant.affine import SIGMOID_QPARAMS

# Positive: torch rounds a negative zero point -20.0 of its learnable operator to -19.
SCALE, ZERO_POINT = 0.05, 20
LOW, HIGH = -128 - ZERO_POINT, 127 - ZERO_POINT


def steps() -> torch.Tensor:
    """Values inside, outside, and in the bins of the ends."""
    x = torch.randn(1, 6, 5, 5, generator=torch.Generator().manual_seed(0)) * 90.0
    x[0, 0] = torch.linspace(LOW - 0.45, LOW + 0.45, 25).reshape(5, 5)
    return x


def test_rounding_and_its_gradient_are_torchs() -> None:
    """What is rounded to an end is not clipped."""
    real = (steps() * SCALE).requires_grad_()
    weight = torch.randn_like(real)
    expected = torch.fake_quantize_per_tensor_affine(real, SCALE, ZERO_POINT, -128, 127)
    (expected * weight).sum().backward()

    ours = steps().requires_grad_()
    codes = round_to_grid(ours * 1.0, Bounds(LOW, HIGH))
    (codes * weight).sum().backward()

    torch.testing.assert_close(codes * SCALE, expected, rtol=0, atol=1e-5)
    assert ours.grad is not None and real.grad is not None
    assert torch.equal(ours.grad, real.grad)
    assert 0 < int((ours.grad == 0).sum()) < ours.numel()


def test_gradients_of_scale_and_zero_point_are_those_of_lsq_plus() -> None:
    x = steps()
    x = (
        torch.where((x.round() == LOW) | (x.round() == HIGH), x + 1.7, x) * SCALE
    )  # torch differs in these bins
    weight = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    scale, zero_point = (
        torch.tensor([SCALE]).requires_grad_(),
        torch.tensor([float(ZERO_POINT)]).requires_grad_(),
    )
    expected = torch._fake_quantize_learnable_per_tensor_affine(x, scale, zero_point, -128, 127, 1.0)
    (expected * weight).sum().backward()

    ours, shift = torch.tensor(SCALE).requires_grad_(), torch.tensor(float(ZERO_POINT)).requires_grad_()
    codes = Codes(round_to_grid(x / ours, Bounds(LOW, HIGH, shift.detach() - shift)), ours)
    (codes.real * weight).sum().backward()

    torch.testing.assert_close(ours.grad, scale.grad[0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(shift.grad, zero_point.grad[0], rtol=1e-4, atol=1e-4)


def test_an_end_counts_its_clipped_values_on_a_share_of_the_images() -> None:
    """16 images, the first 2 are looked at: 3 values above in each, so 48 are expected in all."""
    x = torch.zeros(16, 1, 2, 2)
    x[:, 0, 0, :] = 300.0
    x[:, 0, 1, 0] = 300.0
    high = torch.tensor(255.0, requires_grad=True)
    round_to_grid(x.clone(), Bounds(0.0, 255.0, None, high)).sum().backward()
    assert float(high.grad) == 48.0


def hard_swish_and_gradients(ours: bool, equalized: bool, dtype: torch.dtype) -> list[torch.Tensor | None]:
    """The value; gradients of the input, its scale, the output's scale and zero point. Torch's if not ours.

    Straight through the rounding, then clamped: the low end is h-swish's minimum, the high one clips.
    """
    generator = torch.Generator().manual_seed(2)
    codes = torch.randint(-60, 190, (1, 4, 7, 7), generator=generator).float()
    weight = torch.randn(codes.shape, generator=generator)
    factors = torch.tensor([0.5, 1.0, 2.0, 3.0]).reshape(-1, 1, 1) if equalized else None
    x, scale, out, zero_point = (
        codes.to(dtype),
        torch.tensor(0.0503),
        torch.tensor(0.031),
        torch.tensor(-116.0),
    )
    for leaf in (x, scale, out, zero_point):
        leaf.requires_grad_()
    if ours:
        bounds = Bounds(-12.0, 243.0, zero_point.detach() - zero_point)
        y = hard_swish(Codes(x, scale), bounds, out, factors) * out.detach()
    else:
        a = 1.0 if factors is None else factors
        real = F.hardswish(x * scale / a) * a
        steps = real / out
        whole = steps + (steps.round() - steps).detach()
        y = torch.clamp(whole, -128.0 - zero_point, 127.0 - zero_point) * out
    (y * weight).sum().backward()
    return [y.detach(), x.grad, scale.grad, out.grad, zero_point.grad]


@pytest.mark.parametrize("equalized", [False, True])
def test_hard_swish_has_the_value_and_gradients_of_its_parts(equalized: bool) -> None:
    results = [hard_swish_and_gradients(ours, equalized, torch.float32) for ours in (True, False)]
    for mine, expected in zip(*results, strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("equalized", [False, True])
def test_the_range_of_hard_swish_learns_in_bfloat16_too(equalized: bool) -> None:
    """Its 8 bits round the 196 values, hardly the sums over them."""
    mine = hard_swish_and_gradients(True, equalized, torch.bfloat16)
    expected = hard_swish_and_gradients(False, equalized, torch.float32)
    for gradient, other in zip(mine[3:], expected[3:], strict=True):
        torch.testing.assert_close(gradient, other, rtol=0.05, atol=0)


def test_swish_has_the_value_and_gradients_of_torchs_fake_quantization() -> None:
    generator = torch.Generator().manual_seed(3)
    codes = torch.randint(-128, 128, (1, 4, 9, 9), generator=generator).float()
    weight = torch.randn(codes.shape, generator=generator)
    results = []
    for ours in (True, False):
        x, scale = codes.clone().requires_grad_(), torch.tensor(0.0703, requires_grad=True)
        if ours:
            steps = [
                step(Output(FixedRange(grid), "none"))
                for step, grid in (
                    (LogisticStep, SIGMOID_QPARAMS),
                    (MulStep, QParams.per_tensor(0.0297, -118)),
                )
            ]
            for step in steps:
                step.output.quantizes = True
            given = Codes(x, scale)
            y = steps[1](given, steps[0](given)).real
        else:
            real = x * scale
            gate = torch.fake_quantize_per_tensor_affine(torch.sigmoid(real), 1 / 256, -128, -128, 127)
            y = torch.fake_quantize_per_tensor_affine(real * gate, 0.0297, -118, -128, 127)
        (y * weight).sum().backward()
        results.append((y.detach(), x.grad, scale.grad))
    for mine, expected in zip(*results, strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-4, atol=1e-4)
    assert float(results[0][0].max()) < float(codes.max()) * 0.0703  # some values are clipped
