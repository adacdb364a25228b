"""AdaRound: weights round up or down so that their layer's output errs least, not they themselves (level 4).

A layer's squared error on the images is a quadratic form in its weights, whose matrix is the covariance of
its quantized inputs (Nagel et al. 2020, Up or Down?, section 3.2): one pass over the images says all there is
to say. An error counts by the squared slope of the activation behind the layer: else the many values far
below -3 of h-swish would decide. Moving weights beyond rounding, to make up for the inputs' errors, is left
to block reconstruction: the least-squares fit weakens every channel, and prediction gets worse.
"""

import torch
from torch import fx

from calibration.bias_correction import slope
from calibration.config import PtqConfig
from calibration.layer_inputs import LayerInputs, sample_inputs
from calibration.learned import set_integers
from calibration.paired import Paired
from calibration.progress import Progress, silent
from calibration.rounding import round_adaptively
from calibration.statistics import Need, Statistics
from qmnv3.ir import QParams
from qmnv3.quant.fake_quant import QuantWeight
from qmnv3.quant.sites import Site

# Share of the mean input variance added to each: what few images say about rare inputs is not trusted.
_RIDGE = 0.1
# Where the activation is flat at the float value it may not be at the quantized one.
_LEAST_WEIGHT = 0.02
# The covariance of more inputs would take gigabytes; such a layer keeps nearest rounding.
_MOST_INPUTS = 4096
_CHUNK_VALUES = 2**24


def needs(config: PtqConfig) -> frozenset[Need]:
    """Statistics of the float network."""
    return frozenset()


def apply(
    graph: fx.GraphModule, statistics: Statistics, config: PtqConfig, progress: Progress = silent
) -> fx.GraphModule:
    """Round every layer's weights, with all earlier ones rounded, and correct its bias for that."""
    nodes = list(graph.graph.nodes)
    with Paired(graph, statistics) as paired, progress("rounding weights", len(nodes)) as advance:
        for node in nodes:
            called = paired.layer(node)
            if called is not None and _to_round(called[0]):
                _round_layer(called[0], _inputs(paired, node, *called, config.seed))
            paired.execute(node, correct_biases=True)
            advance(1)
    return graph


def _to_round(module: QuantWeight) -> bool:
    """Whether a layer has weights off the grid, and few enough for each output."""
    steps = _steps(module)
    return steps.shape[1] <= _MOST_INPUTS and not torch.allclose(steps, steps.round(), rtol=0.0, atol=1e-3)


@torch.inference_mode()
def _steps(module: QuantWeight) -> torch.Tensor:
    """The layer's weights [O, I], float64, in steps of its grid."""
    weight = module.layer.weight
    scale = torch.from_numpy(module.weight_fake_quant.qparams(weight).scale.copy()).double()
    return (weight.double() / scale.reshape(-1, *[1] * (weight.dim() - 1))).flatten(1)


@torch.inference_mode()
def _inputs(paired: Paired, node: fx.Node, module: QuantWeight, site: Site, seed: int) -> LayerInputs:
    batches = (
        (stored.load(), slope(site, paired.sites, target).square().clamp(min=_LEAST_WEIGHT))
        for stored, target in zip(paired.quantized(node.args[0]), paired.targets(node), strict=True)  # type: ignore[arg-type]
    )
    return sample_inputs(module.layer, batches, paired.batches, seed)


@torch.inference_mode()
def _round_layer(module: QuantWeight, inputs: LayerInputs) -> None:
    weight = module.layer.weight
    module.weight_fake_quant.freeze(weight)
    grid = module.weight_fake_quant.qparams(weight)
    rows = _steps(module)
    if inputs.shared:
        steps = _rounded(rows[None], inputs.covariances(slice(1)), grid)[0]
    else:
        together = max(1, _CHUNK_VALUES // rows.shape[1] ** 2)
        parts = [slice(first, first + together) for first in range(0, len(rows), together)]
        steps = torch.cat([_rounded(rows[p][:, None], inputs.covariances(p), grid)[:, 0] for p in parts])
    set_integers(module, steps.reshape(weight.shape))


def _rounded(weight: torch.Tensor, covariances: torch.Tensor, grid: QParams) -> torch.Tensor:
    """Integers for `weight` [G, R, I], in steps of the grid, whose rows read inputs of these [G, I, I]."""
    spread = covariances.diagonal(dim1=1, dim2=2).mean(1).clamp(min=1e-9)
    ridge = _RIDGE * spread[:, None, None] * torch.eye(weight.shape[2], dtype=torch.float64)
    return round_adaptively(weight, covariances + ridge, grid.qmin, grid.qmax)
