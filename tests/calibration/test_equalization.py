"""Equalization: what is taken pays in the quantized network as it runs, not only as predicted."""

import copy
import json

import numpy as np
import pytest
import torch
from quant.nets import TinyNet, randomize
from torch import fx, nn

from calibration import equalization, ranges
from calibration.config import EqualizationConfig, PtqConfig
from calibration.equalization import weight_kl
from calibration.equalization_candidates import without_gate
from calibration.ptq import Observed, calibrate, observe
from calibration.scale_groups import scale, scale_groups
from calibration.statistics import to_nchw
from qmnv3.preprocessing import Preprocessing
from qmnv3.quant.fake_quant import activation_sites, fake_quant
from qmnv3.quant.sites import read_sites

SPEC = Preprocessing(16, 16)
SPREAD = torch.exp2(torch.tensor([0.0, -6.0, -5.0, -6.0, -4.0, -5.0, -6.0, -5.0]))


def network(depthwise: bool, balanced: bool) -> nn.Module:
    """Eight channels of widths `SPREAD`, read by a layer whose weights make up for that or do not."""
    torch.manual_seed(0)
    reader = nn.Conv2d(8, 8, 1, groups=8 if depthwise else 1)
    model = nn.Sequential(nn.Conv2d(3, 8, 3, 4), nn.ReLU(), reader, nn.ReLU(), nn.AdaptiveAvgPool2d(1))
    model[0].weight.data.mul_(SPREAD.reshape(8, 1, 1, 1))
    model[0].bias.data.mul_(SPREAD)
    if balanced:
        shape = (8, 1, 1, 1) if depthwise else (1, 8, 1, 1)
        reader.weight.data.div_(SPREAD.reshape(shape))
    else:
        reader.weight.data.mul_(8.0)
    head = nn.Linear(8, 10)
    head.weight.data.mul_(8.0)
    return nn.Sequential(*model, nn.Flatten(), head).eval()


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).uniform(-2, 2, (64, 16, 16, 3)).astype(np.float32)


def observed(model: nn.Module, images: np.ndarray) -> Observed:
    return observe(model, SPEC, lambda: [images], (PtqConfig(level=2),))


def divergence(graph: fx.GraphModule, parent: fx.GraphModule, images: np.ndarray) -> float:
    """KL divergence of the quantized network's prediction from float's."""
    with torch.inference_mode():
        exact = parent(to_nchw(images)).double().log_softmax(1)
        with fake_quant(graph):
            quantized = graph(to_nchw(images)).double().log_softmax(1)
    return float((exact.exp() * (exact - quantized)).sum(1).mean())


def frozen(seen: Observed, factors: torch.Tensor | None, group: int = 0) -> fx.GraphModule:
    """Range search after scaling one group by `factors`."""
    graph = copy.deepcopy(seen.parent)
    if factors is not None:
        scale(scale_groups(graph)[group], factors)
    return ranges.apply(graph, seen.statistics, PtqConfig(level=2))


def equalized(seen: Observed, config: EqualizationConfig | None = None) -> fx.GraphModule:
    recipe = PtqConfig(level=2, equalization=config or EqualizationConfig())
    return equalization.apply(copy.deepcopy(seen.parent), seen.statistics, recipe)


def factors_of(graph: fx.GraphModule) -> dict[str, torch.Tensor | None]:
    return {name: module.factors for name, module in activation_sites(graph).items()}


@pytest.mark.parametrize("depthwise", [True, False])
def test_unequal_channels_are_evened_out_and_it_pays(depthwise: bool, images: np.ndarray) -> None:
    seen = observed(network(depthwise, balanced=True), images)
    graph = equalized(seen)
    row = graph.meta[equalization.REPORT][0]
    assert row["group"] == "0" and row["form"] == "exact" and row["kl_after"] < 0.5 * row["kl_before"]
    factors = factors_of(graph)["0"]
    assert np.corrcoef(factors.log(), -SPREAD.log())[0, 1] > 0.9
    ranges.apply(graph, seen.statistics, PtqConfig(level=2))
    before = divergence(frozen(seen, None), seen.parent, images)
    after = divergence(graph, seen.parent, images)
    assert after < 0.7 * before


def test_dense_consumers_trade_against_the_spread_of_their_weights(images: np.ndarray) -> None:
    """Small channels that are hardly read: made full, they would cost the weights more than they gain.

    Brute force over exponents of the full factors, measured; the chosen ones are about as good as the best.
    """
    seen = observed(network(depthwise=False, balanced=False), images)
    span = seen.statistics.channels(scale_groups(seen.parent)[0].tensors[0]).high
    full = span.log().mean().exp() / span
    measured = {
        exponent: divergence(frozen(seen, full**exponent), seen.parent, images)
        for exponent in (0.0, 0.25, 0.5, 0.75, 1.0)
    }
    graph = equalized(seen)
    ranges.apply(graph, seen.statistics, PtqConfig(level=2))
    chosen = divergence(graph, seen.parent, images)
    assert measured[1.0] > 1.2 * min(measured.values())  # else this would show nothing
    assert chosen <= 1.1 * min(measured.values())


def test_nothing_is_taken_that_gains_too_little(images: np.ndarray) -> None:
    seen = observed(network(depthwise=True, balanced=True), images)
    graph = equalized(seen, EqualizationConfig(min_gain=0.999))
    assert {row["form"] for row in graph.meta[equalization.REPORT]} == {"none"}
    assert set(factors_of(graph).values()) == {None}
    for name, value in seen.parent.state_dict().items():
        assert torch.equal(graph.state_dict()[name], value), name


@pytest.fixture(scope="module")
def tiny() -> Observed:
    pixels = np.random.default_rng(0).uniform(-2, 2, (16, 32, 32, 3)).astype(np.float32)
    return observe(randomize(TinyNet()), Preprocessing(32, 36), lambda: [pixels], (PtqConfig(level=2),))


def test_gates_are_taken_within_the_time_allowed(tiny: Observed) -> None:
    forms, cost = {}, {}
    for slowdown in (0.0, 0.02, 10.0):
        config = EqualizationConfig(min_gain=0.0, max_slowdown=slowdown)
        rows = equalized(tiny, config).meta[equalization.REPORT]
        forms[slowdown] = {row["form"] for row in rows}
        cost[slowdown] = sum(row["gate_us"] for row in rows if row["form"] == "gate")
    assert "gate" not in forms[0.0] and {"exact", "approximate"} <= forms[0.0]  # these cost nothing
    assert "gate" in forms[10.0]
    assert 0.0 == cost[0.0] <= cost[0.02] < cost[10.0]


def test_with_gates_the_float_network_is_what_it_was(tiny: Observed) -> None:
    graph = equalized(tiny, EqualizationConfig(min_gain=0.0, max_slowdown=10.0))
    assert {row["form"] for row in graph.meta[equalization.REPORT]} <= {"none", "exact", "gate"}
    x = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(graph(x), tiny.parent(x), rtol=1e-4, atol=1e-5)


def linear_channel(second_reader: bool = False) -> nn.Module:
    """h-swish over a channel around 20, where it is linear, and seven small ones around -1.5."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.act = nn.Conv2d(3, 8, 3, 4), nn.Hardswish()
            self.reader, self.head = nn.Conv2d(8, 8, 3, groups=8), nn.Linear(8, 10)
            self.other, self.pool = nn.Conv2d(8, 8, 3), nn.AdaptiveAvgPool2d(1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.first(x)
            y = self.reader(self.act(x))
            if second_reader:
                y = y + self.other(x)
            return self.head(self.pool(y).flatten(1))

    torch.manual_seed(0)
    model = Net()
    model.first.weight.data.mul_(0.3)
    model.first.bias.data.copy_(torch.tensor([20.0, *7 * [-1.5]]))
    model.reader.weight.data[0].mul_(0.02)
    model.reader.weight.data[1:].mul_(8.0)
    model.head.weight.data.mul_(8.0)
    return model.eval()


def test_without_gates_a_linear_channel_makes_room_for_the_others(images: np.ndarray) -> None:
    seen = observed(linear_channel(), images)
    graph = equalized(seen, EqualizationConfig(max_slowdown=0.0))
    row = graph.meta[equalization.REPORT][0]
    assert row["form"] == "approximate" and row["kl_after"] < 0.2 * row["kl_before"]
    factors = factors_of(graph)["first"]
    assert float(factors[0]) < 0.3 and float(factors[1:].min()) > 0.8
    with torch.inference_mode():
        torch.testing.assert_close(graph(to_nchw(images)), seen.parent(to_nchw(images)), rtol=0.02, atol=0.02)
    ranges.apply(graph, seen.statistics, PtqConfig(level=2))
    before = divergence(frozen(seen, None), seen.parent, images)
    assert divergence(graph, seen.parent, images) < 0.3 * before


def test_what_is_made_without_a_gate_is_undone_by_least_squares(images: np.ndarray) -> None:
    seen = observed(linear_channel(), images)
    group = scale_groups(seen.parent)[0]
    rows = seen.statistics.channels(group.hard_swish_inputs[0]).rows[:256].double().numpy()

    def hard_swish(x: np.ndarray) -> np.ndarray:
        return x * np.clip(x + 3, 0, 6) / 6

    changed = 0
    for candidate in without_gate(group, read_sites(seen.parent), seen.statistics):
        for channel, (read, made) in enumerate(zip(candidate.inputs, candidate.outputs, strict=True)):
            x = rows[:, channel]
            (fit,), *_ = np.linalg.lstsq(hard_swish(float(read) * x)[:, None], hard_swish(x), rcond=None)
            assert float(made) == pytest.approx(1 / fit, rel=1e-3)
            changed += abs(float(made / read) - 1) > 0.01
    assert changed  # else 1 / read would do as well


def test_a_corrected_bias_takes_back_the_mean_of_weight_rounding(images: np.ndarray) -> None:
    """On a constant input the error is all mean; on one that varies some of it is left."""
    for constant in (True, False):
        pixels = np.full_like(images, 0.7) if constant else images
        seen = observed(network(depthwise=False, balanced=True), pixels)
        (reader,) = scale_groups(seen.parent)[0].mixing_consumers
        plain, corrected = (
            weight_kl(reader, torch.ones(8), read_sites(seen.parent), seen.statistics, corrected=flag)
            for flag in (False, True)
        )
        assert plain > 0
        assert corrected < 1e-6 * plain if constant else 0 < corrected < plain


def test_a_second_reader_forbids_to_do_without_a_gate(images: np.ndarray) -> None:
    seen = observed(linear_channel(second_reader=True), images)
    rows = equalized(seen, EqualizationConfig(max_slowdown=0.0)).meta[equalization.REPORT]
    assert [row["form"] for row in rows if row["hard_swishes"]] == ["none"]


def test_one_row_a_group(tiny: Observed) -> None:
    rows = equalized(tiny).meta[equalization.REPORT]
    groups = scale_groups(tiny.parent)
    assert [row["group"] for row in rows] == [group.name for group in groups]
    assert [row["channels"] for row in rows] == [group.channels for group in groups]
    assert [row["hard_swishes"] for row in rows] == [1, 1, 0, 0, 1]
    assert all(row["kl_after"] <= row["kl_before"] for row in rows)
    assert all((row["gate_us"] > 0) == (row["hard_swishes"] > 0) for row in rows)
    assert all((row["kl_gate"] is not None) == (row["hard_swishes"] > 0) for row in rows)
    json.dumps(rows, allow_nan=False)


def test_dead_channels_stay_harmless(images: np.ndarray) -> None:
    """A channel that is always 0 gets a factor its bias survives; a group of them is left alone."""
    model = network(depthwise=True, balanced=True)
    model[0].bias.data[3] = -100.0
    seen = observed(model, images)
    factors = factors_of(equalized(seen))["0"]
    assert torch.isfinite(factors).all() and float(factors.max() / factors.min()) <= 1001.0
    model[0].bias.data[:] = -100.0
    dead = equalized(observed(model, images))
    row = dead.meta[equalization.REPORT][0]
    assert row["form"] == "none" and row["sqnr_before_db"] is None
    assert calibrate(model, SPEC, lambda: [images], PtqConfig(level=2)).model is not None


def test_min_max_ranges_of_equalized_tensors(images: np.ndarray) -> None:
    """`always` equalizes at level 0 too; ranges still reach from the smallest to the largest value."""
    config = PtqConfig(level=0, equalization=EqualizationConfig(always=True))
    model = network(depthwise=True, balanced=True)
    result = calibrate(model, SPEC, lambda: [images], config)
    first = next(site for site in read_sites(result.model) if site.fake_quant.factors is not None)
    with torch.inference_mode():
        scaled = model[:2](to_nchw(images)) * first.fake_quant.factors.reshape(1, -1, 1, 1)
    widest = scaled.amax((0, 2, 3))
    assert widest.max() < 2 * widest.min()  # 64 times, before
    assert float(first.fake_quant.qparams.scale) * 255 == pytest.approx(float(scaled.max()), rel=1e-5)


def test_a_dead_channel_takes_the_widest_ones_factor(images: np.ndarray) -> None:
    """It has nothing to gain from more levels, and its weights, made larger, would set a floor."""
    model = network(depthwise=True, balanced=True)
    model[0].bias.data[7] = -1e4
    factors = factors_of(equalized(observed(model, images)))["0"]
    assert factors is not None and factors[7] == factors[0] == factors.min()
