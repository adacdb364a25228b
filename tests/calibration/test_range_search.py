"""Range search against brute force over a fine grid of both ends, its objective written anew in numpy."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn

from calibration.observers import Channels
from calibration.range_search import (
    COARSE,
    FINE,
    Effort,
    only_swish_reader,
    search_hard_swish,
    search_ranges,
    search_swish,
    search_tensor,
    useful_floor,
)
from calibration.statistics import collect
from qmnv3.preprocessing import Preprocessing
from qmnv3.quant.affine import asymmetric_qparams
from qmnv3.quant.prepare import prepare
from qmnv3.quant.sites import read_sites

Array = npt.NDArray[np.float64]
# How much worse than the best of the fine grid the found objective may be.
NEAR = {FINE: 1.05, COARSE: 2.0}
SHARES = np.geomspace(0.05, 1.0, 50)


def rounded(x: Array, low: float, high: float) -> Array:
    """`x` on the int8 grid of a range."""
    grid = asymmetric_qparams(low, high)
    scale, zero_point = float(grid.scale), int(grid.zero_point)
    return (np.clip(np.rint(x / scale) + zero_point, -128, 127) - zero_point) * scale


def brute_force(objective: Callable[[float, float], float], low: float, high: float) -> float:
    """Least objective over shares of both observed ends."""
    lows = low * SHARES if low < 0 else [0.0]
    highs = high * SHARES if high > 0 else [0.0]
    return min(objective(a, b) for a in lows for b in highs)


def channels_of(rows: Array) -> Channels:
    values = torch.from_numpy(rows.astype(np.float32))
    return Channels(values.amin(0), values.amax(0), values)


def ends(rows: Array) -> tuple[float, float]:
    return min(float(rows.min()), 0.0), max(float(rows.max()), 0.0)


def samples(kind: str) -> Array:
    rng = np.random.default_rng(0)
    match kind:
        case "heavy tails":
            return rng.standard_t(3, (1500, 4)) * [3.0, 1.0, 0.7, 0.5]
        case "relu":
            return np.maximum(rng.standard_t(4, (1500, 4)), 0.0) * [3.0, 1.0, 0.7, 0.5]
        case "unequal channels":
            return rng.normal(size=(1500, 4)) * [8.0, 1.0, 0.5, 0.1]
        case "one sided outlier":
            return np.concatenate([rng.uniform(-1, 1, (1499, 4)), [[-9.0, 0.0, 0.0, 0.0]]])
    raise ValueError(kind)


@pytest.mark.parametrize("effort", [FINE, COARSE])
@pytest.mark.parametrize("kind", ["heavy tails", "relu", "unequal channels", "one sided outlier"])
def test_tensor_search_is_near_brute_force(kind: str, effort: Effort) -> None:
    rows = samples(kind)
    fisher = np.array([1e-3, 1.0, 3.0, 10.0])

    def objective(low: float, high: float) -> float:
        return float(np.square(rounded(rows, low, high) - rows).mean(0) @ fisher) / 2

    found = search_tensor(channels_of(rows), torch.from_numpy(fisher).float(), effort)
    assert found.predicted_kl == pytest.approx(objective(*found.range), rel=1e-3)
    assert found.predicted_kl <= NEAR[effort] * brute_force(objective, *ends(rows))
    assert found.predicted_kl < objective(*ends(rows))  # min-max is worse on all of these


def test_a_channel_that_does_not_matter_is_clipped() -> None:
    rows = samples("unequal channels")
    low, high = search_tensor(channels_of(rows), torch.tensor([0.0, 1.0, 1.0, 1.0])).range
    assert rows[:, 0].max() > 20 and high < 4.5 and low > -4.5
    low, high = search_tensor(channels_of(rows), torch.tensor([1.0, 0.0, 0.0, 0.0])).range
    assert high > 15 and low < -15


@pytest.mark.parametrize("values", [np.zeros((100, 2)), np.full((100, 2), 2.5), np.full((100, 2), -1e-30)])
def test_constant_tensors_have_a_range(values: Array) -> None:
    low, high = search_tensor(channels_of(values), torch.ones(2)).range
    assert low <= max(values.min(), 0.0) and high >= min(values.max(), 0.0)
    assert np.isfinite([low, high]).all()


def hard_swish(x: Array, factors: Array | float) -> Array:
    return x * np.clip(x / factors + 3, 0, 6) / 6


def rounded_hard_swish(x: Array, factors: Array) -> Array:
    """With its gate on the fixed grid of 255 steps from 0 to 6."""
    return x * np.rint(np.clip(x / factors + 3, 0, 6) * 255 / 6) * 6 / 255 / 6


PLAIN, EVENED, CHANGED = [1.0, 1.0, 1.0], [0.25, 1.0, 4.0], [0.9, 1.0, 1.15]


@pytest.mark.parametrize(
    ("inputs", "outputs", "gates"),
    [(PLAIN, PLAIN, PLAIN), (EVENED, EVENED, EVENED), ([0.8, 1.0, 1.25], CHANGED, PLAIN)],
    ids=["plain", "gate", "no gate"],
)
def test_hard_swish_pair_is_near_brute_force(
    inputs: list[float], outputs: list[float], gates: list[float]
) -> None:
    rng, read, made, divided = np.random.default_rng(2), *map(np.array, (inputs, outputs, gates))
    true = rng.normal(-2, 4, (1500, 3))
    rows, exact, fisher = true * read, hard_swish(true, 1.0) * made, np.array([1.0, 0.5, 2.0]) / made**2
    x, y = search_hard_swish(
        channels_of(rows),
        channels_of(exact),
        *(torch.from_numpy(v).float() for v in (fisher, read, made, divided)),
    )

    def input_objective(low: float, high: float) -> float:
        error = rounded_hard_swish(rounded(rows, low, high), divided) - exact
        return float(np.square(error).mean(0) @ fisher) / 2

    computed = rounded_hard_swish(rounded(rows, *x.range), divided)

    def both_objective(low: float, high: float) -> float:
        return float(np.square(rounded(computed, low, high) - exact).mean(0) @ fisher) / 2

    assert x.predicted_kl == pytest.approx(input_objective(*x.range), rel=1e-3)
    assert x.predicted_kl <= 1.05 * brute_force(input_objective, *ends(rows))
    assert x.predicted_kl + y.predicted_kl == pytest.approx(both_objective(*y.range), rel=1e-3)
    assert both_objective(*y.range) <= 1.05 * brute_force(both_objective, *ends(exact))
    assert x.range[0] >= -3.0 * divided.max()


def rounded_swish(x: Array) -> Array:
    """With its sigmoid on TFLite's grid: 256 steps to 1, of which it takes 255 at most."""
    return x * np.minimum(np.rint(256 / (1 + np.exp(-x))), 255) / 256


def test_swish_pair_is_near_brute_force() -> None:
    rows, fisher = np.random.default_rng(2).normal(-4, 5, (1500, 3)), np.array([1.0, 0.5, 2.0])
    exact = rows / (1 + np.exp(-rows))
    x, y = search_swish(channels_of(rows), channels_of(exact), torch.from_numpy(fisher).float())

    def input_objective(low: float, high: float) -> float:
        return float(np.square(rounded_swish(rounded(rows, low, high)) - exact).mean(0) @ fisher) / 2

    computed = rounded_swish(rounded(rows, *x.range))

    def both_objective(low: float, high: float) -> float:
        return float(np.square(rounded(computed, low, high) - exact).mean(0) @ fisher) / 2

    assert x.predicted_kl == pytest.approx(input_objective(*x.range), rel=1e-3)
    assert x.predicted_kl <= 1.05 * brute_force(input_objective, *ends(rows))
    assert x.predicted_kl + y.predicted_kl == pytest.approx(both_objective(*y.range), rel=1e-3)
    assert both_objective(*y.range) <= 1.05 * brute_force(both_objective, *ends(exact))
    assert -6.25 <= x.range[0] < 0.0


class Twice(nn.Module):
    """Swish of a tensor that a third operation reads too."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.a(x)
        return self.b(nn.functional.silu(x)) + x


def test_swish_is_found_where_it_alone_reads_and_not_in_other_products() -> None:
    swish = nn.Sequential(nn.Conv2d(3, 4, 1), nn.SiLU(), nn.Conv2d(4, 4, 1))
    for model, expected in ((swish, ["_1_swish"]), (Twice(), [])):
        sites = read_sites(prepare(model, Preprocessing(8, 8)))
        found = [only_swish_reader(site, sites) for site in sites]
        assert [site.name for site in found if site is not None] == expected
        floors = [floor.tolist() for site in sites if (floor := useful_floor(site, sites)) is not None]
        assert floors == [[-6.25] * 4] * len(expected)


def test_where_swish_ends_its_rounded_sigmoid_is_0() -> None:
    assert float(rounded_swish(np.array(-6.25))) == 0.0 != float(rounded_swish(np.array(-6.2)))


def test_below_minus_three_nothing_is_represented() -> None:
    """Equalized, the floor is each channel's own: -3 times its factor, where it reaches so far."""
    rows = np.random.default_rng(3).normal(-6, 3, (1500, 2))
    rows[:, 1] = np.abs(rows[:, 1])
    for factors, floor in (([1.0, 1.0], -3.0), ([0.5, 10.0], -1.5)):
        scale = np.array(factors)
        channels, output = channels_of(rows * scale), channels_of(hard_swish(rows * scale, scale))
        x, _ = search_hard_swish(channels, output, torch.ones(2), *3 * [torch.from_numpy(scale).float()])
        assert floor - 1e-6 <= x.range[0] < 0.0


def test_logits_are_judged_by_their_divergence() -> None:
    """One hopeless class reaches far down; the probabilities do not notice where it is clipped."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model.append(nn.Linear(16, 10))
    model[4].weight.data.mul_(4.0)
    model[4].bias.data[9] = -12.0
    graph = prepare(model.eval(), Preprocessing(8, 8)).requires_grad_(False)
    images = np.random.default_rng(0).normal(size=(300, 8, 8, 3)).astype(np.float32)
    found = search_ranges(graph, collect(graph, lambda: [images], frozenset({"channels", "fisher"})))["4"]
    with torch.inference_mode():
        logits = graph(torch.from_numpy(images).permute(0, 3, 1, 2)).double().numpy()

    def log_softmax(z: Array) -> Array:
        return z - z.max(1, keepdims=True) - np.log(np.exp(z - z.max(1, keepdims=True)).sum(1, keepdims=True))

    def objective(low: float, high: float) -> float:
        p, q = log_softmax(logits), log_softmax(rounded(logits, low, high))
        return float((np.exp(p) * (p - q)).sum(1).mean())

    assert objective(*found.range) <= 1.1 * brute_force(objective, *ends(logits))  # a bumpy objective
    assert found.range[0] > 0.9 * ends(logits)[0]
    assert found.predicted_kl == pytest.approx(objective(*found.range), rel=0.02)
