"""The moving average in closed form."""

import pytest
import torch
from torch import nn

from qmnv3.training.ema import Ema


def test_early_averages_are_short() -> None:
    """After update n the decay is (1 + n) / (10 + n): 2/11, then 3/12."""
    model = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(1.0)
    ema = Ema(model, 0.9999)
    for updates, value in ((1, 2.0), (2, 5.0)):
        with torch.no_grad():
            model.weight.fill_(value)
        ema.update(updates)
    first = 2 / 11 * 1.0 + 9 / 11 * 2.0
    assert float(ema.average["weight"]) == pytest.approx(3 / 12 * first + 9 / 12 * 5.0)


def test_late_averages_have_the_given_decay() -> None:
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    ema = Ema(model, 0.9)
    nn.init.ones_(model.weight)
    ema.update(10_000)
    assert float(ema.average["weight"]) == pytest.approx(0.1)


def test_statistics_are_averaged_and_the_model_comes_back_to_the_bit() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    ema = Ema(model, 0.5)
    model(torch.randn(2, 3, 4, 4))
    nn.init.ones_(model[0].weight)
    ema.update(1000)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with ema.applied():
        assert torch.equal(model[1].running_mean, before["1.running_mean"] / 2)
        assert not torch.equal(model[0].weight, before["0.weight"])
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
