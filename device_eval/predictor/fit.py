"""Latency as a sum of costs, fitted to published latencies by non-negative least squares."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from math import exp, log

import numpy as np
import numpy.typing as npt
from scipy.optimize import nnls

from device_eval.paper.statements import STATEMENTS
from device_eval.predictor.costs import COMPOSED, Cost
from device_eval.predictor.published import Network, Pixel, Precision, Published, network_costs, published

Array = npt.NDArray[np.float64]
# Four published latencies in 8 bits are too few to tell what constants cost.
FEATURES: dict[Precision, tuple[str, ...]] = {
    "float32": ("macs", "activations", "constants"),
    "int8": ("macs", "activations"),
}
MILLION = 1e6
SWISH = "swish instead of h-swish, quantized"
FAMILIES: dict[str, Callable[[Published], bool]] = {
    "multipliers": lambda row: row.network.width != 1,
    "resolutions": lambda row: row.network.resolution != 224,
    "V3-Large": lambda row: row.network.model == "large",
    "V3-Small": lambda row: row.network.model == "small",
    "V2": lambda row: row.network.model == "v2",
}


@dataclass(frozen=True)
class Errors:
    """Relative errors of predictions for networks left out of the fit, predicted over published minus 1."""

    relative: tuple[float, ...]

    @property
    def median(self) -> float:
        """Median size."""
        return float(np.median(np.abs(self.relative)))

    @property
    def worst(self) -> float:
        """Largest size."""
        return max(abs(error) for error in self.relative)


@dataclass(frozen=True)
class Fit:
    """Milliseconds for a million of each feature, and how well networks that were left out are predicted."""

    rows: tuple[Published, ...]
    ms_per_million: dict[str, float]
    leave_one_out: Errors
    families: dict[str, Errors]

    def ms(self, cost: Cost) -> float:
        """Predicted latency."""
        return _ms(self.ms_per_million, cost)

    def interval_ms(self, cost: Cost) -> tuple[float, float]:
        """`ms` divided and multiplied by the largest ratio to a published latency that was left out."""
        ratio = exp(max(abs(log(1 + error)) for error in self.leave_one_out.relative))
        return self.ms(cost) / ratio, self.ms(cost) * ratio

    @property
    def coverage(self) -> float:
        """About how often the interval holds for a network as like the fitted as they are like each other.

        n / (n + 1): its ratio is as likely to be the largest as any of the n before it.
        """
        return len(self.rows) / (len(self.rows) + 1)


@cache
def fitted(pixel: Pixel, precision: Precision) -> Fit:
    """The fit to what the paper published for one phone and precision; in 8 bits with a price of sigmoids."""
    found = fit(published(pixel, precision), FEATURES[precision])
    if precision == "float32":
        return found
    return replace(found, ms_per_million={**found.ms_per_million, "sigmoids": _sigmoid_ms(found)})


def _sigmoid_ms(found: Fit) -> float:
    """What a million sigmoids in 8 bits cost besides moving their elements, from the paper's words.

    Swish instead of h-swish takes so much longer (5.2), here of V3-Large, whose h-swishes are counted. In
    float "memory access dominates", which is counted.
    """
    (statement,) = [each for each in STATEMENTS if each.thing == SWISH and each.unit == "%"]
    paper, relu = (network_costs()[Network("large", nonlinearity=name)] for name in ("paper", "relu"))
    # ReLU is fused and moves nothing.
    sites = (paper.activations - relu.activations) / COMPOSED["HardSwish"]
    return statement.change / 100 * found.ms(paper) / (sites / MILLION)


def fit(rows: tuple[Published, ...], features: Sequence[str]) -> Fit:
    """Fit `features`, attributes of Cost, so that the squares of relative errors are least."""
    families = {
        name: _left_out(rows, features, [holds(row) for row in rows])
        for name, holds in FAMILIES.items()
        if any(map(holds, rows)) and sum(not holds(row) for row in rows) >= len(features)
    }
    singles = [_left_out(rows, features, [row is other for other in rows]).relative[0] for row in rows]
    return Fit(rows, _solve(rows, features), Errors(tuple(singles)), families)


def _left_out(rows: Sequence[Published], features: Sequence[str], out: Sequence[bool]) -> Errors:
    kept = _solve([row for row, left in zip(rows, out, strict=True) if not left], features)
    left_out = [row for row, left in zip(rows, out, strict=True) if left]
    return Errors(tuple(_ms(kept, row.cost) / row.ms - 1 for row in left_out))


def _ms(ms_per_million: dict[str, float], cost: Cost) -> float:
    return sum(ms * int(getattr(cost, name)) / MILLION for name, ms in ms_per_million.items())


def _solve(rows: Sequence[Published], features: Sequence[str]) -> dict[str, float]:
    costs: Array = np.array([[getattr(row.cost, name) / MILLION for name in features] for row in rows])
    # Divided by the latency, so that 10 % of a small network weighs as much as 10 % of a large one.
    relative = costs / np.array([[row.ms] for row in rows])
    ms_per_million, _ = nnls(relative, np.ones(len(rows)))
    return dict(zip(features, map(float, ms_per_million), strict=True))
