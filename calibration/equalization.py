"""Equalization: every channel takes its fair share of a tensor's 256 levels, and nothing else changes.

A per-tensor grid serves the channel with the widest range; all others make do with a few levels. Scaling the
channels of a scale group (see scale_groups) evens them out. What it costs are the weights of layers that read
several of these channels: they are spread by the inverse factors. Factors are therefore chosen by what both
together do to the network's output: the predicted KL divergence (Fisher information times squared error) of
the activations' rounding in the group plus that of the rounding of the weights that read it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import fx

from calibration.config import EqualizationConfig, PtqConfig
from calibration.cost import gate_us, predicted_us
from calibration.observers import HARD_SWISH_FLOOR
from calibration.progress import Progress, silent
from calibration.range_search import (
    COARSE,
    only_hard_swish_reader,
    search_hard_swish,
    search_tensor,
)
from calibration.report import sqnr_db
from calibration.scale_groups import ScaleGroup, per_input, scale, scale_groups
from calibration.statistics import Need, Statistics
from qmnv3.quant.affine import fake_quantize
from qmnv3.quant.sites import Site, read_sites

REPORT = "equalization"
# A channel this much smaller than the largest counts as dead: more would blow up its bias.
_SMALLEST_SPAN = 1e-3
_EXPONENTS = (0.5, 0.75, 1.0)
# Share of a tensor's levels left for negative values; None: each channel's own span decides.
_NEGATIVE_SHARES = (None, 0.2, 0.35, 0.5)


@dataclass(frozen=True)
class EqualizedGroup:
    """What equalizing one group does: predicted KL divergence and SQNR of its worst tensor, and its cost.

    `cost_us` is the predicted time of depthwise gates beyond saturating ADDs; `taken` says whether the gain
    was worth it.
    """

    group: str
    tensors: tuple[str, ...]
    channels: int
    hard_swishes: int
    kl_before: float
    kl_after: float
    sqnr_before_db: float | None
    sqnr_after_db: float | None
    cost_us: float
    taken: bool


def needs(config: PtqConfig) -> frozenset[Need]:
    """Statistics of the float network."""
    return frozenset({"channels", "fisher"})


def apply(
    graph: fx.GraphModule, statistics: Statistics, config: PtqConfig, progress: Progress = silent
) -> fx.GraphModule:
    """Equalize every group that gains enough; `graph.meta["equalization"]` gets one row for each group."""
    groups = scale_groups(graph)
    sites = read_sites(graph)
    choices = []
    with progress("equalizing", len(groups)) as advance:
        for group in groups:
            choices.append(_choose(group, sites, statistics))
            advance(1)
    taken = _worthwhile(choices, sum(predicted_us(site) for site in sites), config.equalization)
    for group, choice, wanted in zip(groups, choices, taken, strict=True):
        if wanted:
            scale(group, choice.factors)
    graph.meta[REPORT] = [
        _row(group, choice, wanted) for group, choice, wanted in zip(groups, choices, taken, strict=True)
    ]
    return graph


@dataclass(frozen=True)
class _Choice:
    factors: torch.Tensor
    kl_before: float
    kl_after: float
    sqnr_before_db: float | None
    sqnr_after_db: float | None
    cost_us: float

    @property
    def gain(self) -> float:
        """Predicted KL divergence saved."""
        return self.kl_before - self.kl_after


def _worthwhile(choices: Sequence[_Choice], network_us: float, config: EqualizationConfig) -> list[bool]:
    """Which groups to take: every free one that gains, and the best value for time within the budget."""
    least = config.min_gain * sum(choice.kl_before for choice in choices)
    budget_us = config.max_slowdown * network_us
    taken = [False] * len(choices)
    by_value = sorted(range(len(choices)), key=lambda i: -choices[i].gain / max(choices[i].cost_us, 1e-9))
    for index in by_value:
        choice = choices[index]
        if choice.gain > least and choice.cost_us <= budget_us:
            taken[index] = True
            budget_us -= choice.cost_us
    return taken


def _choose(group: ScaleGroup, sites: tuple[Site, ...], statistics: Statistics) -> _Choice:
    """The candidate factors with the least predicted KL divergence."""
    ones = torch.ones(group.channels)
    before = _predicted(group, ones, sites, statistics)
    best, least = ones, before
    for factors in _candidates(group, sites, statistics):
        value = _predicted(group, factors, sites, statistics)
        if value < least:
            best, least = factors, value
    return _Choice(
        best,
        before,
        least,
        _worst_sqnr(group, ones, statistics),
        _worst_sqnr(group, best, statistics),
        sum(gate_us(site) for site in group.hard_swishes),
    )


def _candidates(group: ScaleGroup, sites: tuple[Site, ...], statistics: Statistics) -> Iterator[torch.Tensor]:
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
        span = span.clamp(min=_SMALLEST_SPAN * float(span.max()))
        relative = span / span.log().mean().exp()
        yield from (relative**-exponent for exponent in _EXPONENTS)


def _predicted(
    group: ScaleGroup, factors: torch.Tensor, sites: tuple[Site, ...], statistics: Statistics
) -> float:
    """Predicted KL divergence of all rounding in the group, were it scaled by `factors`."""
    total = 0.0
    searched: set[str] = set()
    for site in group.tensors:
        if site.name in searched:
            continue
        channels = statistics.channels(site).scaled(factors)
        reader = only_hard_swish_reader(site, sites)
        if reader is not None:
            fisher = statistics.fisher(reader) / factors.square()
            output = statistics.channels(reader).scaled(factors)
            found = search_hard_swish(channels, output, fisher, _gate_factors(reader, factors), COARSE)
            total += sum(f.predicted_kl for f in found)
            searched.add(reader.name)
        else:
            total += search_tensor(channels, statistics.fisher(site) / factors.square(), COARSE).predicted_kl
    return total + sum(weight_kl(site, factors, sites, statistics) for site in group.mixing_consumers)


def _gate_factors(reader: Site, factors: torch.Tensor) -> torch.Tensor:
    assert reader.hard_swish is not None
    known = reader.hard_swish.factors
    return factors if known is None else known * factors


def weight_kl(site: Site, factors: torch.Tensor, sites: tuple[Site, ...], statistics: Statistics) -> float:
    """Predicted KL divergence of rounding the weights of a layer whose input is scaled by `factors`.

    Kernels wider than 1x1 are taken as if the input were the same under every tap.
    """
    assert site.layer is not None and site.weight_fake_quant is not None
    spread = site.layer.weight.detach() / per_input(site, factors)
    grid = site.weight_fake_quant.qparams(spread)
    error = (fake_quantize(spread, grid) - spread) * per_input(site, factors)
    if error.dim() == 4:
        error = error.sum((2, 3))
    rows = statistics.channels(_source(site, sites)).rows
    if site.depthwise:
        output_error = rows * error[:, 0]
    else:
        # A flattened map repeats each channel; every position counts as the same value.
        output_error = rows @ error.reshape(len(error), rows.shape[1], -1).sum(2).T
    fisher = statistics.fisher(site) * _active_share(site, statistics)
    return float(output_error.square().mean(0) @ fisher) / 2.0


def _source(site: Site, sites: tuple[Site, ...]) -> Site:
    return next(other for other in sites if other.name == site.inputs[0])


def _active_share(site: Site, statistics: Statistics) -> torch.Tensor | float:
    """How much of a layer's squared error passes its fused activation [C]."""
    rows = statistics.channels(site).rows
    match site.activation:
        case "relu":
            return (rows > 0).float().mean(0)
        case "relu6":
            return ((rows > 0) & (rows < 6)).float().mean(0)
        case "hard_sigmoid":
            return ((rows > 0) & (rows < 1)).float().mean(0) / 36.0
    return 1.0


def _worst_sqnr(group: ScaleGroup, factors: torch.Tensor, statistics: Statistics) -> float | None:
    """SQNR in dB of the tensor that fares worst, each channel counted alike."""
    found = []
    for site in group.tensors:
        channels = statistics.channels(site).scaled(factors)
        grid = search_tensor(channels, 1.0 / channels.rows.square().mean(0).clamp(min=1e-12), COARSE).qparams
        noise = (fake_quantize(channels.rows, grid) - channels.rows).square().mean(0)
        power = channels.rows.square().mean(0)
        alive = power > 1e-12
        if alive.any():
            found.append(sqnr_db(1.0, float((noise[alive] / power[alive]).mean())))
    known = [value for value in found if value is not None]
    return min(known) if known else None


def _row(group: ScaleGroup, choice: _Choice, taken: bool) -> dict[str, Any]:
    return asdict(
        EqualizedGroup(
            group.name,
            tuple(site.name for site in group.tensors),
            group.channels,
            len(group.hard_swishes),
            choice.kl_before,
            choice.kl_after,
            choice.sqnr_before_db,
            choice.sqnr_after_db,
            choice.cost_us,
            taken,
        )
    )
