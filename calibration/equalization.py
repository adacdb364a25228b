"""Equalization: every channel takes its fair share of a tensor's 256 levels.

A per-tensor grid serves the channel with the widest range; all others make do with a few levels. Scaling the
channels of a scale group (see scale_groups) evens them out. What it costs are the weights of layers that read
several of these channels: they are spread by the inverse factors. Factors are therefore chosen by what all
together do to the network's output: the predicted KL divergence (Fisher information times squared error) of
the activations' rounding in the group plus that of the rounding of the weights that read it.

Through h-swish there are two ways. With a gate that divides by each channel's factor nothing else changes,
but such a gate takes time. Without one, h-swish(a x) / b stands for h-swish(x): the same where h-swish is
linear, nearly the same for factors near 1. What is left is an error at the output, and is weighed as one.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import fx

from calibration.config import PtqConfig
from calibration.cost import gate_us, predicted_us
from calibration.equalization_candidates import Factors, change_kl, even, without_gate
from calibration.progress import Progress, silent
from calibration.range_search import (
    COARSE,
    gate_factors,
    only_hard_swish_reader,
    search_hard_swish,
    search_tensor,
    tensor_factors,
    useful_floor,
)
from calibration.report import sqnr_db
from calibration.scale_groups import ScaleGroup, per_input, scale, scale_groups
from calibration.statistics import Need, Statistics
from qmnv3.quant.affine import fake_quantize
from qmnv3.quant.sites import Site, read_sites

REPORT, COST = "equalization", "equalization_cost"

Form = Literal["none", "exact", "approximate", "gate"]


@dataclass(frozen=True)
class EqualizedGroup:
    """What equalizing one group does: predicted KL divergence and SQNR of its worst tensor, and its cost.

    `form` says what was done: through h-swish "approximate" or with a "gate" (exact too), else "exact".
    `kl_after` and `sqnr_after_db` are with it. `kl_gate` is the divergence with gates and `gate_us` their
    predicted time beyond an h-swish without, where there are h-swishes.
    """

    group: str
    tensors: tuple[str, ...]
    channels: int
    hard_swishes: int
    form: Form
    kl_before: float
    kl_after: float
    sqnr_before_db: float | None
    sqnr_after_db: float | None
    kl_gate: float | None
    gate_us: float


def needs(config: PtqConfig) -> frozenset[Need]:
    """Statistics of the float network."""
    return frozenset({"channels", "fisher"})


def apply(
    graph: fx.GraphModule, statistics: Statistics, config: PtqConfig, progress: Progress = silent
) -> fx.GraphModule:
    """Equalize every group that gains enough; `graph.meta["equalization"]` gets one row for each group.

    `graph.meta["equalization_cost"]` says what the gates take of the predicted time, and what they may.
    """
    groups = scale_groups(graph)
    sites = read_sites(graph)
    corrected = config.level >= 3 or config.equalization.always  # by bias correction or by training
    choices = []
    with progress("equalizing", len(groups)) as advance:
        for group in groups:
            choices.append(_choose(group, sites, statistics, corrected=corrected))
            advance(1)
    least = config.equalization.min_gain * sum(choice.kl_before for choice in choices)
    network_us = sum(predicted_us(site) for site in sites)
    gates = _worthwhile_gates(choices, least, config.equalization.max_slowdown * network_us)
    rows = []
    for group, choice, gate in zip(groups, choices, gates, strict=True):
        taken = choice.gate if gate and choice.gate else choice.free
        if choice.kl_before - taken.kl <= least:
            taken = _unscaled(group, choice.kl_before)
        rows.append(_row(group, choice, taken, sites, statistics))
        if taken.form != "none":
            scale(group, taken.factors.outputs, taken.factors.inputs)
    graph.meta[REPORT] = rows
    gates_us = sum(row["gate_us"] for row in rows if row["form"] == "gate")
    slowdown = config.equalization.max_slowdown
    graph.meta[COST] = {"network_us": network_us, "gates_us": gates_us, "max_slowdown": slowdown}
    return graph


@dataclass(frozen=True)
class _Scaling:
    form: Form
    factors: Factors
    kl: float


def _unscaled(group: ScaleGroup, kl: float) -> _Scaling:
    return _Scaling("none", Factors(torch.ones(group.channels)), kl)


@dataclass(frozen=True)
class _Choice:
    """The best scalings of a group: one that takes no time and, if it has h-swishes, one with gates."""

    kl_before: float
    free: _Scaling
    gate: _Scaling | None
    gate_us: float


def _worthwhile_gates(choices: Sequence[_Choice], least: float, budget_us: float) -> list[bool]:
    """Which groups to give gates: the best value for time within the budget."""
    gain = [choice.free.kl - choice.gate.kl if choice.gate else 0.0 for choice in choices]
    taken = [False] * len(choices)
    for index in sorted(range(len(choices)), key=lambda i: -gain[i] / max(choices[i].gate_us, 1e-9)):
        if gain[index] > least and choices[index].gate_us <= budget_us:
            taken[index] = True
            budget_us -= choices[index].gate_us
    return taken


def _choose(group: ScaleGroup, sites: tuple[Site, ...], statistics: Statistics, corrected: bool) -> _Choice:
    """The candidates with the least predicted KL divergence; `corrected` says that biases will be."""
    before = _predicted(group, Factors(torch.ones(group.channels)), sites, statistics, corrected)

    def best(form: Form, candidates: Iterable[Factors]) -> _Scaling:
        found = _unscaled(group, before)
        for candidate in candidates:
            kl = _predicted(group, candidate, sites, statistics, corrected)
            if kl < found.kl:
                found = _Scaling(form, candidate, kl)
        return found

    evened = even(group, sites, statistics)
    if not group.hard_swishes:
        return _Choice(before, best("exact", evened), None, 0.0)
    return _Choice(
        before,
        best("approximate", without_gate(group, sites, statistics)),
        best("gate", evened),
        sum(gate_us(site) for site in group.hard_swishes),
    )


def _predicted(
    group: ScaleGroup, scaling: Factors, sites: tuple[Site, ...], statistics: Statistics, corrected: bool
) -> float:
    """Predicted KL divergence of all that `scale` and the rounding after it do."""
    made, read = scaling.outputs, scaling.outputs if scaling.inputs is None else scaling.inputs
    total = 0.0
    searched: set[str] = set()
    for site in group.tensors:
        if site.name in searched:
            continue
        reader = only_hard_swish_reader(site, sites)
        if reader is not None:
            gates = gate_factors(reader) if scaling.inputs is not None else gate_factors(reader) * made
            pair = search_hard_swish(
                statistics.channels(site).scaled(read),
                statistics.channels(reader).scaled(made),
                statistics.fisher(reader) / made.square(),
                tensor_factors(site) * read,
                tensor_factors(reader) * made,
                gates,
                COARSE,
            )
            total += sum(found.predicted_kl for found in pair)
            total += change_kl(site, reader, scaling, statistics)
            searched.add(reader.name)
        else:
            channels, fisher = statistics.channels(site).scaled(made), statistics.fisher(site) / made.square()
            total += search_tensor(channels, fisher, COARSE).predicted_kl
    readers = group.mixing_consumers
    return total + sum(weight_kl(site, made, sites, statistics, corrected) for site in readers)


def weight_kl(
    site: Site, factors: torch.Tensor, sites: tuple[Site, ...], statistics: Statistics, corrected: bool
) -> float:
    """Predicted KL divergence of rounding the weights of a layer whose input is scaled by `factors`.

    Where the bias will be `corrected` it takes back the error's mean, which is most of it after ReLU. Kernels
    wider than 1x1 are taken as if the input were the same under every tap.
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
    if corrected:
        output_error = output_error - output_error.mean(0)
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


def _worst_sqnr(
    group: ScaleGroup, scaling: Factors, sites: tuple[Site, ...], statistics: Statistics
) -> float | None:
    """SQNR in dB of the tensor that fares worst, each channel counted alike, and as far as it is of use."""
    found = []
    for site in group.tensors:
        applied = scaling.outputs
        if scaling.inputs is not None and site in group.hard_swish_inputs:
            applied = scaling.inputs
        channels = statistics.channels(site).scaled(applied)
        floor = useful_floor(site, sites)
        if floor is not None:
            channels = channels.above(floor if scaling.inputs is not None else floor * applied)
        grid = search_tensor(channels, 1.0 / channels.rows.square().mean(0).clamp(min=1e-12), COARSE).qparams
        noise = (fake_quantize(channels.rows, grid) - channels.rows).square().mean(0)
        power = channels.rows.square().mean(0)
        alive = power > 1e-12
        if alive.any():
            found.append(sqnr_db(1.0, float((noise[alive] / power[alive]).mean())))
    known = [value for value in found if value is not None]
    return min(known) if known else None


def _row(
    group: ScaleGroup, choice: _Choice, taken: _Scaling, sites: tuple[Site, ...], statistics: Statistics
) -> dict[str, Any]:
    return asdict(
        EqualizedGroup(
            group.name,
            tuple(site.name for site in group.tensors),
            group.channels,
            len(group.hard_swishes),
            taken.form,
            choice.kl_before,
            taken.kl,
            _worst_sqnr(group, _unscaled(group, 0.0).factors, sites, statistics),
            _worst_sqnr(group, taken.factors, sites, statistics),
            choice.gate.kl if choice.gate else None,
            choice.gate_us,
        )
    )
