"""Sampled inputs of a layer against torch's own convolutions, and numpy's weighted covariance."""

import numpy as np
import pytest
import torch
from torch import nn

from calibration.layer_inputs import sample_inputs
from qmnv3.models.padding import Conv2dSame


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(6, 4, 1),
        nn.Conv2d(6, 4, 1, stride=2),
        nn.Conv2d(6, 4, 3, 2, 1),
        nn.Conv2d(6, 4, (3, 5), dilation=2, padding=(2, 0)),
        nn.Conv2d(6, 4, 3, padding="same"),
        nn.Conv2d(6, 4, 3, padding="valid"),
        Conv2dSame(6, 4, 3, 2),
        nn.Conv2d(6, 6, 3, 2, 1, groups=6),
        Conv2dSame(6, 6, 5, 2, groups=6),
    ],
    ids=str,
)
def test_covariances_are_those_of_the_layers_output(layer: nn.Conv2d) -> None:
    """Without weights, and with some that differ by output and position."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, 6, 9, 11, generator=generator) + 3.0
    with torch.no_grad():
        computed = layer(x)
        for weights in (torch.ones(computed.shape), torch.rand(computed.shape, generator=generator)):
            batches = [(x[:1], weights[:1]), (x[1:], weights[1:])]
            inputs = sample_inputs(layer, batches, 2, 0)
            assert not inputs.shared or bool((weights == 1).all())
            forms = inputs.covariances(slice(4))
            for output, row in enumerate(layer.weight[:4].double().flatten(1)):
                values, by = (t[:, output].flatten().numpy() for t in (computed, weights))
                expected = np.cov(values, ddof=0, aweights=by)
                np.testing.assert_allclose(row @ forms[output] @ row, expected, rtol=1e-4)


def test_large_maps_are_sampled_evenly_and_alike() -> None:
    """Each position of 200 x 200 is as likely, and values and weights stay together."""
    x = torch.arange(40000.0).reshape(1, 1, 200, 200)
    layer = nn.Conv2d(1, 1, 1)
    batches = [(x + image, -(x + image)) for image in 40000.0 * torch.arange(50)]
    inputs = sample_inputs(layer, batches, 50, 0)
    drawn = inputs.values.flatten()
    assert len(drawn) == 50 * 128 and len(drawn.unique()) == len(drawn)
    assert torch.equal(drawn, -inputs.weights.flatten())
    quarters = np.histogram(drawn.numpy() % 40000, 4, (0, 40000))[0]
    np.testing.assert_allclose(quarters, len(drawn) / 4, rtol=0.1)  # five standard deviations are 0.11
