"""Weights in training against torch's learnable fake-quantization, and worked by hand."""

import torch

from qmnv3.qat.weights import WeightRange


def test_absmax_follows_each_channels_magnitude() -> None:
    weight = torch.tensor([[1.27, -0.634], [0.0, 0.0], [-2.54, 0.011]])
    rounded = WeightRange(torch.ones(3), "absmax", 127, 6)(weight)
    torch.testing.assert_close(rounded, torch.tensor([[1.27, -0.63], [0.0, 0.0], [-2.54, 0.02]]))


def test_a_learned_scale_has_the_gradient_of_lsq() -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(5, 8, 3, 3, generator=generator)
    scale = torch.rand(5, generator=generator) * 0.01 + 0.01
    steps = (weight / scale.reshape(-1, 1, 1, 1)).round().abs()
    weight = torch.where(steps == 127, 0.0, weight)  # an end's own bin: see test_codes
    upstream = torch.randn(weight.shape, generator=generator)

    theirs, their_scale = weight.clone().requires_grad_(), scale.clone().requires_grad_()
    zero_points = torch.zeros(5, requires_grad=True)
    expected = torch._fake_quantize_learnable_per_channel_affine(
        theirs, their_scale, zero_points, 0, -127, 127, 1.0
    )
    (expected * upstream).sum().backward()

    ours = weight.clone().requires_grad_()
    learned = WeightRange(scale, "learned", 127, 72)
    rounded = learned(ours)
    (rounded * upstream).sum().backward()

    torch.testing.assert_close(rounded, expected)
    torch.testing.assert_close(ours.grad, theirs.grad)
    # The parameter is the scale's logarithm, its gradient scaled by 1 / sqrt(size * 127).
    torch.testing.assert_close(
        learned.log_scale.grad, their_scale.grad * scale * (72 * 127) ** -0.5, rtol=1e-4, atol=1e-5
    )


def test_damping_draws_a_weight_to_the_middle_of_its_bin() -> None:
    """Scale 0.1: 0.53 lies 0.03 above its grid point, 1.27 * 10 ... the last at the end exactly."""
    weight = torch.tensor([[0.53, -0.18, 12.7]], requires_grad=True)
    damped = WeightRange(torch.ones(1), "absmax", 127, 3)
    damped.damping = 2.0
    damped(weight).sum().backward()
    torch.testing.assert_close(weight.grad, torch.tensor([[1.06, 1.04, 1.0]]))
