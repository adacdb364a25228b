"""Bias correction: a worked example, the least-squares solution at the activation, one after another."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from quant.nets import TinyNet, randomize
from torch import fx, nn

from calibration import bias_correction, ranges
from calibration.config import PtqConfig
from calibration.ptq import Calibration, observe, quantize
from calibration.scale_groups import scale, scale_groups
from calibration.statistics import to_nchw
from qmnv3.preprocessing import Preprocessing
from qmnv3.quant.fake_quant import QuantWeight, fake_quant
from qmnv3.quant.sites import read_sites

PLAIN = PtqConfig(level=1)


def calibrated(model: nn.Module, images: np.ndarray, equalize: bool = False) -> Calibration:
    """Quantized without bias correction; every group scaled by something if `equalize`."""
    observed = observe(model.eval(), Preprocessing(images.shape[1], 36), lambda: [images], (PLAIN,))
    if not equalize:
        return quantize(observed, PLAIN)
    graph = copy.deepcopy(observed.parent)
    for group in scale_groups(graph):
        scale(group, torch.exp2(torch.linspace(-1.0, 1.5, group.channels)))
    ranges.apply(graph, observed.statistics, PLAIN)
    return Calibration(graph, observed.parent, observed.statistics, [], (), {}, (), ())


def corrected(result: Calibration) -> fx.GraphModule:
    return bias_correction.apply(copy.deepcopy(result.model), result.statistics, PtqConfig())


def layer_outputs(graph: fx.GraphModule, images: np.ndarray, rounded: bool) -> dict[str, torch.Tensor]:
    """What every layer gives before its activation, by the name of its site, in float64."""
    seen: dict[str, torch.Tensor] = {}
    by_layer = {id(site.layer): site.name for site in read_sites(graph) if site.layer is not None}

    def keep(module: QuantWeight, _: object, output: torch.Tensor) -> None:
        seen[by_layer[id(module.layer)]] = output.double()

    hooks = [m.register_forward_hook(keep) for m in graph.modules() if isinstance(m, QuantWeight)]
    with torch.inference_mode(), fake_quant(graph, rounded):
        graph(to_nchw(images))
    for hook in hooks:
        hook.remove()
    return seen


def biases(graph: fx.GraphModule) -> dict[str, torch.Tensor]:
    return {
        site.name: torch.zeros(site.output_shape[1]) if site.layer.bias is None else site.layer.bias.detach()
        for site in read_sites(graph)
        if site.layer is not None
    }


def test_worked_example() -> None:
    """Weights 1 and 0.6/127 on the grid 1/127: the second becomes 1/127, 0.4/127 times its input too much."""
    model = nn.Sequential(nn.Conv2d(3, 1, 1, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model[0].weight.data = torch.tensor([1.0, 0.6 / 127, 0.0]).reshape(1, 3, 1, 1)
    images = np.zeros((2, 4, 4, 3), np.float32)
    grid = calibrated(model, images).model.get_submodule("fake_quant_input_1").qparams
    value = float(grid.dequantize(np.array(100)))  # a value the input's grid holds
    images[1, :, :, 1] = value  # in one image of two
    graph = corrected(calibrated(model, images))
    bias = graph.get_submodule("0").layer.bias
    assert float(bias) == pytest.approx(-0.4 / 127 * value / 2, rel=1e-4)


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).uniform(-2, 2, (16, 32, 32, 3)).astype(np.float32)


def chain() -> nn.Module:
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 6, 1), nn.AdaptiveAvgPool2d(1))
    return nn.Sequential(*layers, nn.Flatten())


def test_mean_errors_are_gone_one_layer_after_another(images: np.ndarray) -> None:
    """In a chain without activations every layer's mean is float's again, to its bias's rounding."""
    result = calibrated(chain(), images)
    graph = corrected(result)
    exact = layer_outputs(result.model, images, rounded=False)
    before, after = (layer_outputs(g, images, rounded=True) for g in (result.model, graph))
    for name in ("0", "1", "2"):
        errors = [(values[name] - exact[name]).mean((0, 2, 3)).abs() for values in (before, after)]
        site = next(site for site in read_sites(graph) if site.name == name)
        source = next(other for other in read_sites(graph) if other.name == site.inputs[0])
        step = float(source.fake_quant.qparams.scale) * site.layer.weight.abs().flatten(1).amax(1) / 127
        assert (errors[1] <= 1.02 * step + 1e-6).all(), name
        assert errors[1].max() < 0.3 * errors[0].max(), name


def test_each_correction_knows_those_before_it(images: np.ndarray) -> None:
    """The second layer's differs from what it would be were the first one left alone."""
    result = calibrated(chain(), images)
    exact = layer_outputs(result.model, images, rounded=False)
    alone = layer_outputs(result.model, images, rounded=True)["1"] - exact["1"]
    together = biases(corrected(result))["1"] - biases(result.model)["1"]
    assert (together + alone.mean((0, 2, 3))).abs().max() > 0.1 * together.abs().max()


ACTIVATIONS = {
    "none": lambda x: x,
    "relu": F.relu,
    "relu6": F.relu6,
    "hard_sigmoid": F.hardsigmoid,
    "hard_swish": F.hardswish,
    "swish": F.silu,
}
MODULES = {
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "hard_sigmoid": nn.Hardsigmoid,
    "hard_swish": nn.Hardswish,
    "swish": nn.SiLU,
}


def slope(kind: str, x: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    """Derivative by autograd of what follows, in real units."""
    real = (x / factors.reshape(1, -1, 1, 1)).requires_grad_()
    return torch.autograd.grad(ACTIVATIONS[kind](real).sum(), real)[0]


@pytest.mark.parametrize("equalize", [False, True])
@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_correction_is_least_squares_behind_the_activation(
    kind: str, equalize: bool, images: np.ndarray
) -> None:
    torch.manual_seed(1)
    layers = [nn.Conv2d(3, 8, 3, 2), *([MODULES[kind]()] if kind in MODULES else [])]
    model = nn.Sequential(*layers, nn.Conv2d(8, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model[0].weight.data.mul_(6.0)
    model[0].bias.data = torch.linspace(-4.0, 3.0, 8)  # some channels nearly flat, some nearly linear
    result = calibrated(model, images, equalize)
    exact, computed = (layer_outputs(result.model, images, r)["0"] for r in (False, True))
    factors = next(s for s in read_sites(result.model) if s.name == "0").fake_quant.factors
    if factors is None:
        factors = torch.ones(8)
    slopes = slope(kind, exact.clone(), factors.double())
    change = (biases(corrected(result))["0"] - biases(result.model)["0"]).numpy()
    for channel in range(8):
        of_channel = [v[:, channel].reshape(-1, 1).numpy() for v in (slopes, computed - exact)]
        solution, *_ = np.linalg.lstsq(of_channel[0], of_channel[0] * of_channel[1], rcond=None)
        assert change[channel] == pytest.approx(-solution.item(), rel=1e-3, abs=1e-6)


def test_a_channel_that_is_flat_everywhere_stays(images: np.ndarray) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Hardswish(), nn.Conv2d(4, 4, 1), nn.AdaptiveAvgPool2d(1))
    model[0].bias.data = torch.tensor([-50.0, 0.0, 0.0, -50.0])
    result = calibrated(nn.Sequential(*model, nn.Flatten()), images)
    change = biases(corrected(result))["0"] - biases(result.model)["0"]
    assert change[0] == 0 and change[3] == 0 and change[1] != 0


def test_a_whole_network_comes_nearer_to_float(images: np.ndarray) -> None:
    result = calibrated(randomize(TinyNet()), images)
    unseen = to_nchw(np.random.default_rng(9).uniform(-2, 2, (32, 32, 32, 3)).astype(np.float32))
    with torch.inference_mode():
        exact = result.parent(unseen)
    errors = []
    for graph in (result.model, corrected(result)):
        with torch.inference_mode(), fake_quant(graph):
            errors.append(float((graph(unseen) - exact).square().mean()))
    assert errors[1] < errors[0]
