"""The loss at the logits, against torch's own divergence and its limit."""

import pytest
import torch
import torch.nn.functional as F

from qmnv3.qat.distillation import logits_loss


def test_the_loss_is_the_divergence_of_the_softened_outputs() -> None:
    ours, theirs = torch.randn(2, 6, 5, generator=torch.Generator().manual_seed(0))
    target = (theirs / 2).softmax(1)
    expected = 4 * F.kl_div((ours / 2).log_softmax(1), target, reduction="batchmean")
    torch.testing.assert_close(logits_loss(ours, theirs, 2.0), expected)
    assert float(logits_loss(ours, ours, 3.0)) == pytest.approx(0.0, abs=1e-6)


def test_a_temperature_keeps_the_gradients_size() -> None:
    """At a high temperature the loss is half the squared difference of centred logits over the classes."""
    ours, theirs = torch.tensor([[1.0, 0.0, -1.0]]), torch.tensor([[0.0, 0.0, 0.0]])
    assert float(logits_loss(ours, theirs, 30.0)) == pytest.approx(1 / 3, rel=1e-2)
