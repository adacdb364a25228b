"""The ladder: what a rung is judged by, and where it stops."""

import math

import numpy as np
import pytest
import torch
from quant.nets import TinyNet, randomize
from torch import fx, nn

from calibration.config import PtqConfig
from calibration.ladder import Fidelity, climb, ladder, measure
from calibration.ptq import Observed, observe
from calibration.statistics import Images
from qmnv3.errors import CalibrationError
from qmnv3.preprocessing import Preprocessing
from qmnv3.quant.fake_quant import FakeQuantize
from qmnv3.quant.prepare import prepare

SPEC = Preprocessing(16, 16)
# Image, mean and weight are on int8 grids in the flipped network.
ROUNDING = 1e-2


def pictures(count: int, seed: int) -> list[Images]:
    generator = np.random.default_rng(seed)
    return [generator.uniform(-1, 1, (4, 16, 16, 3)).astype(np.float32) for _ in range(count // 4)]


class Brightness(nn.Module):
    """Two logits: twice the mean of the first colour, and its negative."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(3, 2, bias=False)
        self.head.weight.data = torch.tensor([[2.0, 0.0, 0.0], [-2.0, 0.0, 0.0]])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.flatten(self.pool(x), 1))


class Flip(FakeQuantize):
    """A rounding gone wrong: it swaps the two logits."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flip(1) if self.enabled else x


def flipped(parent: fx.GraphModule) -> fx.GraphModule:
    copy = prepare(Brightness(), SPEC)
    *_, last = [name for name, module in copy.named_modules() if isinstance(module, FakeQuantize)]
    copy.add_submodule(last, Flip("head"))
    return copy


def test_a_network_that_always_disagrees_is_judged_as_worked_out_by_hand() -> None:
    """Logits are ±2m but for rounding, so p = sigmoid(4m); the flip loses 2p - 1, with KL 4m (2p - 1)."""
    parent = prepare(Brightness(), SPEC)
    images = [np.full((1, 16, 16, 3), m, np.float32) for m in (0.25, 0.75)]
    found = measure(flipped(parent), parent, lambda: images, seed=0)
    p = [1 / (1 + math.exp(-4 * m)) for m in (0.25, 0.75)]
    assert found.images == 2
    assert found.agreement == 0.0
    assert found.drop == pytest.approx(100 * np.mean([2 * each - 1 for each in p]), rel=1e-5)
    kl = np.mean([4 * m * (2 * each - 1) for m, each in zip((0.25, 0.75), p, strict=True)])
    assert found.kl == pytest.approx(kl, rel=ROUNDING)
    ends = [100 * (2 * each - 1) for each in p]
    assert min(ends) - 1e-3 <= found.drop_low < found.drop < found.drop_high <= max(ends) + 1e-3


def test_the_float_network_itself_loses_nothing() -> None:
    parent = prepare(Brightness(), SPEC)
    found = measure(parent, parent, lambda: pictures(8, 0), seed=0)
    assert (found.agreement, found.kl, found.drop, found.drop_low, found.drop_high) == (1, 0, 0, 0, 0)


def test_no_images_to_judge_by_is_an_error() -> None:
    parent = prepare(Brightness(), SPEC)
    with pytest.raises(CalibrationError, match="no images held out"):
        measure(parent, parent, lambda: [], seed=0)


@pytest.fixture(scope="module")
def observed() -> Observed:
    model = randomize(TinyNet())
    return observe(model, SPEC, lambda: pictures(16, 0), ladder(PtqConfig(images=16)))


def test_it_stops_at_the_first_rung_that_is_good_enough(observed: Observed) -> None:
    found = climb(observed, lambda: pictures(16, 1), PtqConfig(images=16), target_drop=100.0)
    assert found.reached
    assert [rung.level for rung in found.rungs] == [0]
    assert found.config.level == 0


def test_without_such_a_rung_the_one_with_the_least_estimated_drop_is_kept(
    observed: Observed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not the one with the least KL divergence, which is only level 1's here."""
    drops = iter((5.0, 3.0, 2.0, 2.0, 4.0, 4.0))
    kls = iter((5.0, 0.1, 0.5, 0.4, 0.6, 0.6))

    def judged(*_: object) -> Fidelity:
        drop = next(drops)
        return Fidelity(16, 0.5, next(kls), drop, drop, drop)

    monkeypatch.setattr("calibration.ladder.measure", judged)
    config = PtqConfig(images=16)
    found = climb(observed, lambda: pictures(16, 1), config, target_drop=-1.0)
    assert not found.reached
    assert [rung.level for rung in found.rungs] == [attempt.level for attempt in ladder(config)]
    assert found.config.level == 3
