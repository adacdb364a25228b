"""The rate's course in closed form, and which parameters are decayed."""

import itertools
import math
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from qmnv3.training.config import OptimizerConfig, ScheduleConfig
from qmnv3.training.optimizer import make_optimizer, set_rate
from qmnv3.training.schedule import rate_factor


def factor(config: ScheduleConfig, step: int) -> float:
    return rate_factor(config, step, steps_per_epoch=10, epochs=20)


def test_the_papers_rate_falls_by_a_hundredth_every_three_epochs() -> None:
    paper = ScheduleConfig(kind="exponential", decay=0.99, every_epochs=3)
    assert [factor(paper, step) for step in (0, 29, 30, 60, 199)] == pytest.approx(
        [1, 1, 0.99, 0.99**2, 0.99**6]
    )
    smooth = paper.model_copy(update={"staircase": False})
    assert factor(smooth, 15) == pytest.approx(0.99**0.5)


def test_warm_up_rises_linearly_to_the_full_rate() -> None:
    warm = ScheduleConfig(kind="constant", warmup_epochs=2)
    rises = [factor(warm, step) for step in range(21)]
    assert rises[20] == 1.0 and rises[0] == pytest.approx(1 / 21)
    assert all(b - a == pytest.approx(1 / 21) for a, b in itertools.pairwise(rises))


def test_a_cosine_ends_at_its_share() -> None:
    cosine = ScheduleConfig(kind="cosine", warmup_epochs=2, final=0.1)
    assert factor(cosine, 20) == pytest.approx(1.0)
    assert factor(cosine, 110) == pytest.approx(0.1 + 0.9 * (1 + math.cos(math.pi / 2)) / 2)
    assert factor(cosine, 200) == pytest.approx(0.1)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 1)
        self.norm = nn.BatchNorm2d(4)
        self.scale = nn.Parameter(torch.zeros(()))
        self.scale.quant_range = True


def test_biases_norms_and_ranges_are_not_decayed() -> None:
    net = Net()
    rates = {"rate": 0.1, "bias_rate": 2.0, "range_rate": 0.5}
    config = OptimizerConfig(kind="sgd", reference_batch=256, weight_decay=0.01, **rates)
    optimizer = make_optimizer(net, config, effective_batch=64)
    groups = [
        ({id(p) for p in group["params"]}, group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
    ]
    rest = {id(net.layer.bias), id(net.norm.weight), id(net.norm.bias)}
    assert groups == [
        ({id(net.layer.weight)}, pytest.approx(0.025), 0.01),
        (rest, pytest.approx(0.05), 0.0),
        ({id(net.scale)}, pytest.approx(0.0125), 0.0),
    ]
    set_rate(optimizer, 0.1)
    set_rate(optimizer, 0.1)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.0025, 0.005, 0.00125])


@pytest.mark.parametrize(
    ("kind", "theirs"),
    [("sgd", torch.optim.SGD), ("adamw", torch.optim.AdamW), ("rmsprop", None)],
)
def test_each_kind_is_made(kind: str, theirs: type | None) -> None:
    optimizer = make_optimizer(Net(), OptimizerConfig(kind=kind), effective_batch=256)
    assert theirs is None or type(optimizer) is theirs
    assert optimizer.param_groups[0]["initial_lr"] == 0.1


@pytest.mark.parametrize("options", [{"momentum": 0.0}, {"kind": "adamw"}])
def test_nesterov_without_momentum_to_look_ahead_with_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="nesterov: needs kind sgd and a momentum above 0"):
        OptimizerConfig(nesterov=True, **options)
