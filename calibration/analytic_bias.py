"""Analytic bias correction: what weight rounding does to a layer's mean output, from BatchNorm alone.

A BatchNorm promises its outputs' mean and standard deviation; taken as normal, the mean behind an activation
follows in closed form, and means pass through average pooling and residual sums. Rounding weights by
Wq - W then moves the layer's mean output by (Wq - W) * E[x], which its bias takes back. No image is needed.
Source: Nagel et al. 2019 (Data-Free Quantization), section 4.2.1; h-swish by the same integrals,
swish numerically.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import expit
from scipy.stats import norm
from torch import fx, nn
from torch.func import functional_call

from calibration.config import PtqConfig
from calibration.progress import Progress, silent
from calibration.range_search import only_swish_reader
from calibration.statistics import Need, Statistics
from qmnv3.quant.fake_quant import QuantWeight, fake_quant
from qmnv3.quant.fold import Normal
from qmnv3.quant.sites import FusedActivation, Site, read_sites

REPORT = "analytic_bias"
Array = npt.NDArray[np.float64]
_TINY_STD = 1e-12
# In standard deviations; sums over evenly spaced nodes converge fast for smooth functions.
_NODES = np.linspace(-8.0, 8.0, 257)


@dataclass(frozen=True)
class AnalyticBias:
    """Layers corrected, and those left to empirical correction: no BatchNorm tells their input's mean."""

    corrected: tuple[str, ...]
    empirical: tuple[str, ...]


def needs(config: PtqConfig) -> frozenset[Need]:
    """Statistics of the float network: none."""
    return frozenset()


def apply(
    graph: fx.GraphModule, statistics: Statistics, config: PtqConfig, progress: Progress = silent
) -> fx.GraphModule:
    """Correct every layer whose mean input is known; `graph.meta["analytic_bias"]` says which."""
    graph.meta[REPORT] = asdict(correct(graph))
    return graph


@torch.no_grad()
def correct(graph: fx.GraphModule) -> AnalyticBias:
    """Subtract the expected weight rounding error from biases, in place. Layers without a bias get one."""
    sites = read_sites(graph)
    by_name = {site.name: site for site in sites}
    means = expected_values(sites)
    layers = {id(module.layer): module for module in graph.modules() if isinstance(module, QuantWeight)}
    corrected, empirical = [], []
    for site in sites:
        if site.layer is None:
            continue
        mean = means.get(site.inputs[0])
        if mean is None:
            empirical.append(site.name)
            continue
        factors = by_name[site.inputs[0]].fake_quant.factors
        with fake_quant(graph):
            rounded = layers[id(site.layer)].weight_fake_quant(site.layer.weight)
        error = _mean_output_error(site, rounded, mean if factors is None else mean * factors.double())
        if site.layer.bias is None:
            site.layer.bias = nn.Parameter(-error, requires_grad=False)
        else:
            site.layer.bias.sub_(error)
        corrected.append(site.name)
    return AnalyticBias(tuple(corrected), tuple(empirical))


def expected_values(sites: tuple[Site, ...]) -> Mapping[str, torch.Tensor]:
    """Mean [C] of every tensor that BatchNorms tell it of, by site, float64, in the float model's units."""
    means: dict[str, torch.Tensor] = {}
    normals: dict[str, Normal] = {}
    for site in sites:
        known = [means[name] for name in site.inputs if name in means]
        if site.normal is not None:
            means[site.name] = torch.from_numpy(_activated(site.activation, site.normal))
            if site.activation == "none":
                normals[site.name] = site.normal
            swish = only_swish_reader(site, sites)
            if swish is not None:
                means[swish.name] = torch.from_numpy(swish_mean(*_arrays(site.normal)))
        elif site.kind == "hard_swish" and site.inputs[0] in normals:
            means[site.name] = torch.from_numpy(hard_swish_mean(*_arrays(normals[site.inputs[0]])))
        elif site.kind == "mean" and known:
            means[site.name] = known[0]
        elif site.kind == "add" and site.activation == "none" and len(known) == 2:
            means[site.name] = known[0] + known[1]
    return means


def clipped_mean(mean: Array, std: Array, low: float, high: float) -> Array:
    """E[min(max(x, low), high)] of normal x; `high` may be infinite."""
    inside = _moment0(mean, std, low, high)
    above = high * norm.sf(high, mean, std) if np.isfinite(high) else 0.0
    clipped: Array = low * norm.cdf(low, mean, std) + _moment1(mean, std, low, high, inside) + above
    return clipped


def hard_swish_mean(mean: Array, std: Array) -> Array:
    """E[x * relu6(x + 3) / 6] of normal x (MobileNetV3, section 5.2)."""
    inside = _moment0(mean, std, -3.0, 3.0)
    first = _moment1(mean, std, -3.0, 3.0, inside)
    # E[x^2; -3 < x < 3], by parts.
    ends = (3.0 + mean) * norm.pdf((3.0 - mean) / std) - (mean - 3.0) * norm.pdf((-3.0 - mean) / std)
    second = (mean**2 + std**2) * inside - std * ends
    linear = _moment1(mean, std, 3.0, np.inf, norm.sf(3.0, mean, std))
    expected: Array = (second + 3.0 * first) / 6.0 + linear
    return expected


def swish_mean(mean: Array, std: Array) -> Array:
    """E[x / (1 + exp(-x))] of normal x, by summation."""
    weights = np.exp(-np.square(_NODES) / 2.0)
    x = mean + std * _NODES[:, None]
    expected: Array = weights / weights.sum() @ (x * expit(x))
    return expected


def _moment0(mean: Array, std: Array, low: float, high: float) -> Array:
    """P(low < x < high)."""
    probability: Array = norm.cdf(high, mean, std) - norm.cdf(low, mean, std)
    return probability


def _moment1(mean: Array, std: Array, low: float, high: float, inside: Array) -> Array:
    """E[x; low < x < high], given the probability of lying inside."""
    moment: Array = mean * inside + std * (norm.pdf((low - mean) / std) - norm.pdf((high - mean) / std))
    return moment


def _activated(activation: FusedActivation, normal: Normal) -> Array:
    mean, std = _arrays(normal)
    match activation:
        case "relu":
            return clipped_mean(mean, std, 0.0, np.inf)
        case "relu6":
            return clipped_mean(mean, std, 0.0, 6.0)
        case "hard_sigmoid":
            return clipped_mean(mean + 3.0, std, 0.0, 6.0) / 6.0
    return mean


def _arrays(normal: Normal) -> tuple[Array, Array]:
    # A channel that never varies is a very narrow normal distribution.
    std = normal.std.double().numpy().clip(min=_TINY_STD)
    return normal.mean.double().numpy(), std


def _mean_output_error(site: Site, rounded: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
    """Mean over positions of what `rounded` in place of a layer's weight adds to its output [O], float32.

    `mean` [C] is the input's, taken to be the same at every position; padding holds 0, which a tap at the
    border sees.
    """
    assert site.layer is not None
    parameters = {"weight": rounded.double() - site.layer.weight.double()}
    if site.layer.bias is not None:
        parameters["bias"] = torch.zeros_like(site.layer.bias, dtype=torch.float64)
    shape = site.input_shape
    given = mean.reshape(1, -1, *[1] * (len(shape) - 2)).expand(shape)
    if isinstance(site.layer, nn.Linear):
        given = given.flatten(1)
    error: torch.Tensor = functional_call(site.layer, parameters, (given,))
    return (error.mean((2, 3)) if error.dim() == 4 else error)[0].float()
