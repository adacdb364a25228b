"""Factors worth a try for a scale group: channels evened out, or as far as h-swish without a gate allows."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from calibration.observers import HARD_SWISH_FLOOR
from calibration.range_search import gate_factors, hard_swish, only_hard_swish_reader
from calibration.scale_groups import ScaleGroup
from calibration.statistics import Statistics
from qmnv3.quant.affine import asymmetric_qparams, fake_quantize
from qmnv3.quant.sites import Site

# A channel this much smaller than the largest counts as dead: made larger, it would blow up its bias and its
# weights' scale for nothing. It takes the widest channel's factor, as if nothing but the tensor were scaled.
_SMALLEST_SPAN = 1e-3
_EXPONENTS = (0.5, 0.75, 1.0)
# Share of a tensor's levels left for negative values; None: each channel's own span decides.
_NEGATIVE_SHARES = (None, 0.2, 0.35, 0.5)

# Without a gate: factors of a channel, and ends of the grid as shares of the tensor's largest value.
_INPUT_FACTORS = torch.from_numpy(np.geomspace(0.125, 4.0, 21)).float()
_ENDS = tuple(np.geomspace(0.125, 1.0, 7).tolist())
_ROWS = 256
# An error of one sign over whole images moves the prediction further than Fisher information, which takes
# errors for independent, says. Chosen for the least KL divergence on MobileNetV3-Small.
_CHANGE_WEIGHT = 8.0


@dataclass(frozen=True)
class Factors:
    """What the channels of a group are multiplied by [C]; `inputs`: what an h-swish without a gate reads."""

    outputs: torch.Tensor
    inputs: torch.Tensor | None = None


def even(group: ScaleGroup, sites: tuple[Site, ...], statistics: Statistics) -> Iterator[Factors]:
    """Factors that make every channel's span more alike."""
    for share in _NEGATIVE_SHARES:
        span = torch.zeros(group.channels)
        for site in group.tensors:
            channels = statistics.channels(site)
            low, high = (-channels.low).clamp(min=0.0), channels.high.clamp(min=0.0)
            if only_hard_swish_reader(site, sites):
                low = low.clamp(max=-HARD_SWISH_FLOOR)
            need = low + high if share is None else torch.maximum(low / share, high / (1.0 - share))
            span = torch.maximum(span, need)
        if not span.max() > 0.0:
            return
        span = torch.where(span > _SMALLEST_SPAN * span.max(), span, span.max())
        relative = span / span.log().mean().exp()
        yield from (Factors(relative**-exponent) for exponent in _EXPONENTS)


def without_gate(group: ScaleGroup, sites: tuple[Site, ...], statistics: Statistics) -> Iterator[Factors]:
    """Factors for a group whose one h-swish gets no gate: it makes h-swish(a x) where b h-swish(x) is meant.

    b is the least-squares fit for a. For a given grid every channel takes the a with the least error at the
    output, rounding and change of the function together: a channel that stays above 3, where h-swish is
    linear, shrinks for nothing, one that matters little for little, and the rest get a finer grid.
    """
    if len(group.hard_swishes) != 1:
        return
    (site,), (source,) = group.hard_swishes, group.hard_swish_inputs
    if source.kind != "layer" or only_hard_swish_reader(source, sites) is None:
        return
    channels, gates = statistics.channels(source), gate_factors(site)
    low = max(float(channels.low.min()), HARD_SWISH_FLOOR * float(gates.max()))
    high = float(channels.high.max())
    if not high > max(low, 0.0):
        return
    rows = channels.rows[:_ROWS]
    exact, scaled = hard_swish(rows, gates), rows * _INPUT_FACTORS[:, None, None]
    back = _fit(hard_swish(scaled, gates), exact)  # 1 / b [factors, 1, C]
    change = (hard_swish(scaled, gates) * back - exact).square().mean(1)
    for end in _ENDS:
        read = fake_quantize(scaled, asymmetric_qparams(min(low, 0.0), end * high))
        grid = asymmetric_qparams(float(exact.min()), end * high)
        made = fake_quantize(hard_swish(read, gates, rounded=True), grid)
        error = (made * back - exact).square().mean(1) + (_CHANGE_WEIGHT - 1.0) * change
        best = error.argmin(0)
        yield Factors(1.0 / back[best, 0, torch.arange(group.channels)], _INPUT_FACTORS[best])


def change_kl(source: Site, reader: Site, factors: Factors, statistics: Statistics) -> float:
    """Predicted KL divergence of a change of the function, beyond that of independent errors of its size."""
    if factors.inputs is None:
        return 0.0
    rows, gates = statistics.channels(source).rows, gate_factors(reader)
    changed = hard_swish(rows * factors.inputs, gates) / factors.outputs - hard_swish(rows, gates)
    return (_CHANGE_WEIGHT - 1.0) * float(changed.square().mean(0) @ statistics.fisher(reader)) / 2.0


def _fit(made: torch.Tensor, exact: torch.Tensor) -> torch.Tensor:
    """What takes `made` [factors, n, C] nearest to `exact` [n, C] when multiplied; 1 / factor if all is 0."""
    fit = (made * exact).sum(1, keepdim=True) / made.square().sum(1, keepdim=True).clamp(min=1e-12)
    return torch.where(fit > _SMALLEST_SPAN, fit, 1.0 / _INPUT_FACTORS[:, None, None])
