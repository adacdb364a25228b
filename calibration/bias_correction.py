"""Empirical bias correction: each layer's bias takes back the mean error that quantization causes there.

Layers are corrected in order, each with all earlier corrections in effect (Nagel et al. 2019, section 4.2,
made sequential). The error is weighted by the squared slope of the activation behind the layer at the float
value, which makes the correction the least-squares one at the activation's output: where h-swish or ReLU is
flat an error does not count. An unweighted mean would be drawn by values far below -3, and weaken channels.

Processes that shared the pass over the images share this one too: all call `apply`, or the others `assist`
the first until it calls `dismiss`.
"""

import copy
from collections.abc import Callable, Iterable

import torch
from safetensors.torch import load, save
from torch import fx

from calibration.analytic_bias import expected_values
from calibration.config import PtqConfig
from calibration.frontier import Frontier
from calibration.progress import Progress, silent
from calibration.range_search import gate_factors, only_hard_swish_reader, only_swish_reader
from calibration.statistics import Need, Statistics
from qmnv3.quant.fake_quant import QuantWeight, fake_quant
from qmnv3.quant.sites import Site, read_sites
from qmnv3.quant.state import model_state, restore_model

# A channel of which less than this share is behind a slope is left alone: its mean error is chance.
_SMALLEST_SHARE = 1e-3


def needs(config: PtqConfig) -> frozenset[Need]:
    """Statistics of the float network."""
    return frozenset()


def apply(
    graph: fx.GraphModule, statistics: Statistics, config: PtqConfig, progress: Progress = silent
) -> fx.GraphModule:
    """Correct every layer's bias on the images; scales must be frozen. Layers without a bias get one.

    With the analytic method, those only that no BatchNorm tells enough of.
    """
    if statistics.share:
        # What the first process found is what all correct, should they differ in the last bits.
        restore_model(graph, load(statistics.share.gather(save(model_state(graph)))[0]))
    _correct(graph, statistics, config, progress)
    return graph


def assist(statistics: Statistics, config: PtqConfig) -> None:
    """Take this process's share in all corrections that the first process makes."""
    assert statistics.share
    while given := statistics.share.gather(b"")[0]:
        graph = copy.deepcopy(statistics.network)
        restore_model(graph, load(given))
        _correct(graph, statistics, config, silent)


def dismiss(statistics: Statistics) -> None:
    """Let the other processes go, which `assist`."""
    if statistics.share:
        statistics.share.gather(b"")


def _correct(graph: fx.GraphModule, statistics: Statistics, config: PtqConfig, progress: Progress) -> None:
    share = statistics.share
    images, total = (share.images, share.total) if share else (statistics.images, _same)
    sites = read_sites(graph)
    analytic = config.bias_correction.method == "analytic"
    told = expected_values(sites).keys() if analytic else frozenset[str]()
    layers = {id(site.layer): site for site in sites if site.layer is not None and site.inputs[0] not in told}
    nodes = list(graph.graph.nodes)
    with (
        Frontier(graph, images) as exact,
        Frontier(graph, images) as quantized,
        progress("correcting biases", len(nodes)) as advance,
    ):
        for node in nodes:
            exact.execute(node)
            module = graph.get_submodule(str(node.target)) if node.op == "call_module" else None
            with fake_quant(graph):
                if isinstance(module, QuantWeight) and id(module.layer) in layers:
                    targets = (stored.load() for stored in exact.values[node])
                    site, outputs = layers[id(module.layer)], quantized.compute(node)
                    correct_bias(module, site, sites, targets, outputs, total)
                quantized.execute(node)
            advance(1)


def _same(values: torch.Tensor) -> torch.Tensor:
    return values


@torch.inference_mode()
def correct_bias(
    module: QuantWeight,
    site: Site,
    sites: tuple[Site, ...],
    targets: Iterable[torch.Tensor],
    outputs: Iterable[torch.Tensor],
    total: Callable[[torch.Tensor], torch.Tensor] = _same,
) -> None:
    """Correct one layer's bias so that its `outputs` meet the float `targets`, batch by batch, on average.

    `total` sums over processes that have other batches.
    """
    channels = site.output_shape[1]
    error, weight, values = torch.zeros(3, channels, dtype=torch.float64)
    for target, computed in zip(targets, outputs, strict=True):
        squared_slope = slope(site, sites, target).square()
        over = (0, 2, 3) if target.dim() == 4 else (0,)
        error += (squared_slope * (computed - target)).double().sum(over)
        weight += squared_slope.double().sum(over)
        values += target.numel() // channels
    error, weight, values = total(torch.stack([error, weight, values]))
    mean_error = torch.where(weight > _SMALLEST_SHARE * values, error / weight.clamp(min=1e-30), 0.0)
    bias = module.layer.bias
    if bias is None:
        module.layer.bias = torch.nn.Parameter(-mean_error.float(), requires_grad=False)
    else:
        bias.sub_(mean_error.float())


def slope(site: Site, sites: tuple[Site, ...], x: torch.Tensor) -> torch.Tensor:
    """Derivative of what follows a layer at its output `x`; section 5.2 for the hard activations."""
    match site.activation:
        case "relu":
            return (x > 0).float()
        case "relu6":
            return ((x > 0) & (x < 6)).float()
        case "hard_sigmoid":
            return (x.abs() < 3).float()
    if only_swish_reader(site, sites) is not None:
        sigmoid = torch.sigmoid(x)
        return sigmoid * (1.0 + x * (1.0 - sigmoid))
    reader = only_hard_swish_reader(site, sites)
    if reader is None:
        return torch.ones_like(x)
    real = x / gate_factors(reader).reshape(-1, *[1] * (x.dim() - 2))
    return torch.where(real <= -3, 0.0, torch.where(real >= 3, 1.0, real / 3.0 + 0.5))
