"""Mixed precision, the last resort: a few activation tensors in int16, still integer only.

Runs between range search and bias correction, whose corrections then fit the final grids. Which tensors gain
is measured one at a time in a float network: in a fully rounded one a change at one tensor also redraws all
rounding behind it, and that noise drowns what is looked for (an interval three times wider on V3-Small).
"""

import difflib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from torch import fx

from calibration.config import Int16Config, PtqConfig
from calibration.cost import predicted_us
from calibration.freeze import widen
from calibration.logit_errors import KL, Interval, compare, mean_interval
from calibration.observed_ranges import observed_ranges
from calibration.progress import Progress, silent
from calibration.sensitivity import measure_alone
from calibration.statistics import Need, Statistics, to_nchw
from calibration.sweep import Sweep
from qmnv3.errors import CalibrationError
from qmnv3.quant.affine import HARD_SIGMOID_INT16_QPARAMS, INT16_MAX
from qmnv3.quant.sites import Site, output_site, read_sites

REPORT = "int16"
# LiteRT's built-in int16 kernels against XNNPACK's int8 ones: V3-Small's stem and its h-swish on x86.
_TIMES_SLOWER = 30.0
_INT32_MAX = 2**31 - 1


@dataclass(frozen=True)
class Int16Site:
    """A tensor made int16: the KL divergence its int8 rounding alone added, and the predicted cost."""

    site: str
    kl_added: Interval
    cost_us: float


def needs(config: PtqConfig) -> frozenset[Need]:
    """Statistics of the float network."""
    return frozenset({"channels"} if wanted(config.int16) else ())


def wanted(config: Int16Config) -> bool:
    """Whether any tensor is to be int16."""
    return bool(config.sites or config.count)


def check(prepared: fx.GraphModule, config: PtqConfig) -> None:
    """CalibrationError for a named site that does not exist or cannot be int16; call it before the work."""
    sites = {site.name: site for site in read_sites(prepared)}
    for name in config.int16.sites:
        if name not in sites:
            near = difflib.get_close_matches(name, sites, n=1)
            hint = f"did you mean {near[0]!r}?" if near else "`qmnv3 sensitivity` lists them"
            raise CalibrationError(f"int16: {name!r} is no tensor of this network; {hint}")
        reason = _refusal(sites[name], tuple(sites.values()), output_site(prepared))
        if reason:
            raise CalibrationError(f"int16: {name} {reason}; leave it int8")


def apply(
    graph: fx.GraphModule, statistics: Statistics, config: PtqConfig, progress: Progress = silent
) -> fx.GraphModule:
    """Give the chosen sites int16 grids; scales must be frozen, biases not yet corrected.

    `graph.meta["int16"]` says which, what each gains and costs, and the network's KL divergence before and
    after.
    """
    if not wanted(config.int16):
        return graph
    check(graph, config)
    sites = read_sites(graph)
    output = output_site(graph)
    possible = [site.name for site in sites if not _refusal(site, sites, output)]
    tried = config.int16.sites or tuple(possible)
    added = measure_alone(graph, statistics, tried, progress)
    before = measure_kl(graph, statistics)
    names = config.int16.sites or choose(sites, added, before.estimate, config.int16)
    _widen(graph, statistics, names)
    chosen = [Int16Site(name, added[name], _cost(name, sites, names[:i])) for i, name in enumerate(names)]
    graph.meta[REPORT] = _report(chosen, before, measure_kl(graph, statistics))
    return graph


def choose(
    sites: Sequence[Site], added: dict[str, Interval], network_kl: float, config: Int16Config
) -> tuple[str, ...]:
    """The best sites by gain per microsecond, each with the earlier ones' operations already in 16 bits.

    A gain counts when it is more than `config.min_gain` of `network_kl` and its interval is above 0.
    """
    budget_us = config.max_slowdown * sum(predicted_us(site) for site in sites)
    left = {
        name: gain.estimate
        for name, gain in added.items()
        if gain.estimate > config.min_gain * network_kl and (gain.low is None or gain.low > 0.0)
    }
    chosen: list[str] = []
    while left and len(chosen) < config.count:
        costs = {name: _cost(name, sites, chosen) for name in left}
        best = max(left, key=lambda name: left[name] / max(costs[name], 1e-9))
        if costs[best] <= budget_us:
            chosen.append(best)
            budget_us -= costs[best]
        del left[best]
    return tuple(chosen)


def measure_kl(graph: fx.GraphModule, statistics: Statistics) -> Interval:
    """KL divergence of the fully rounded network to the same network without rounding."""
    sweep = Sweep(graph)
    parts = []
    for batch in statistics.images():
        images = to_nchw(batch)
        parts.append(compare(sweep.run(images, False, ())[0], sweep.run(images, True, ())[0])[:, KL])
    return mean_interval(np.concatenate(parts))


def _widen(graph: fx.GraphModule, statistics: Statistics, names: Sequence[str]) -> None:
    ranges = observed_ranges(graph, statistics, {})
    for site in read_sites(graph):
        if site.name not in names:
            continue
        if "hard_sigmoid" in (site.kind, site.activation):
            site.fake_quant.qparams = HARD_SIGMOID_INT16_QPARAMS
        else:
            widen(site, ranges[site.name])


def _refusal(site: Site, sites: Sequence[Site], output: str) -> str | None:
    """Why a site cannot be int16, if it cannot."""
    if site.kind == "input":
        return "is the network's input, which is int8"
    if site.name == output:
        return "is the network's output, which is int8"
    for other in sites:
        height, width = (other.input_shape[2:] or (1, 1)) if other.kind == "mean" else (1, 1)
        touches = other.name == site.name or site.name in other.inputs
        if touches and other.kind == "logistic":
            return "touches a sigmoid, which runs in 8 bits only"
        if touches and height * width * (INT16_MAX + 1) > _INT32_MAX:
            return f"touches an average over {height}x{width} pixels, which overflows LiteRT's 32-bit sum"
    return None


def _operations(name: str, sites: Sequence[Site]) -> set[str]:
    """Operations (named by their output) that read or write a tensor."""
    return {site.name for site in sites if site.name == name or name in site.inputs}


def _cost(name: str, sites: Sequence[Site], taken: Sequence[str]) -> float:
    """Predicted microseconds more when `name` is int16 too: operations at shared borders are paid once."""
    already = set[str]().union(*(_operations(other, sites) for other in taken))
    new = _operations(name, sites) - already
    return (_TIMES_SLOWER - 1.0) * sum(predicted_us(site) for site in sites if site.name in new)


def _report(chosen: Sequence[Int16Site], before: Interval, after: Interval) -> dict[str, Any]:
    return {
        "sites": [asdict(site) for site in chosen],
        "kl_before": asdict(before),
        "kl_after": asdict(after),
    }
