"""A prepared model made trainable, and what was learned written back into it."""

import math
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from typing import cast

import torch
from torch import fx, nn

from calibration.range_search import useful_floor
from qmnv3.errors import PrepareError
from qmnv3.qat import steps
from qmnv3.qat.codes import Codes
from qmnv3.qat.config import FormsConfig
from qmnv3.qat.ranges import (
    ActivationRange,
    FixedRange,
    LearnedRange,
    LearnedRanges,
    MovingAverageRange,
    make_range,
)
from qmnv3.qat.steps import LayerStep, Output, Step
from qmnv3.qat.weights import WeightRange
from qmnv3.quant.affine import INT4_MAX, INT8_MAX
from qmnv3.quant.fold import Norm
from qmnv3.quant.sites import Site, output_site, read_sites
from qmnv3.training.distributed import largest
from qmnv3.training.task import Diverged


class QatModel(nn.Module):
    """The deployed graph with trainable weights, BatchNorms and ranges; made from a frozen prepared model.

    With quantization off it computes what the float model does, in training and in eval mode. Call `settle`
    after every optimizer step.
    """

    def __init__(self, prepared: fx.GraphModule, forms: FormsConfig, fixed: Collection[str] = ()) -> None:
        """`fixed` names sites whose grids must not change. PrepareError for a site without a grid."""
        super().__init__()
        sites = read_sites(prepared)
        self._inputs = {site.name: site.inputs for site in sites}
        self._last_use = {name: site.name for site in sites for name in site.inputs}
        self._output = output_site(prepared)
        self._factors = {site.name: site.fake_quant.factors for site in sites}
        self.steps = nn.ModuleDict()
        self._keys = {site.name: site.name.replace(".", "_") for site in sites}
        for site in sites:
            if site.fake_quant.qparams is None:
                raise PrepareError(f"{site.name}: has no scale yet; calibrate before training")
            output = _output(site, sites, forms, site.fake_quant.fixed or site.name in fixed)
            self.steps[self._keys[site.name]] = _step(site, output, forms)
        grids = [output.grid for output in self.outputs()]
        self._learned = LearnedRanges([grid for grid in grids if isinstance(grid, LearnedRange)])
        self.settle()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """[N, 3, H, W], normalised, to logits [N, classes]."""
        return self.features(images)[0]

    def features(
        self, images: torch.Tensor, sites: Collection[str] = ()
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Logits, and the tensors at `sites` in the float model's units."""
        self._learned.evaluate()
        kept: dict[str, torch.Tensor] = {}
        values: dict[str, Codes] = {}
        for name, step in self.named_steps():
            inputs = self._inputs[name]
            values[name] = step(*(values[given] for given in inputs)) if inputs else step(images)
            if name in sites:
                kept[name] = self._in_float_units(name, values[name].real)
            for given in set(inputs):
                if self._last_use[given] == name:
                    del values[given]
        return values[self._output].real.flatten(1), kept

    def _in_float_units(self, name: str, value: torch.Tensor) -> torch.Tensor:
        factors = self._factors[name]
        if factors is None:
            return value
        return value / factors.to(value.device).reshape(-1, *[1] * (value.dim() - 2))

    def quantize(self, enabled: bool) -> None:
        """Switch rounding on or off."""
        for output in self.outputs():
            output.quantizes = enabled

    def freeze_batch_norm(self) -> None:
        """Use running statistics from now on: each layer becomes a single convolution."""
        for layer in self.layers():
            layer.folds = True

    def freeze_ranges(self) -> None:
        """No scale and zero point changes any more, but those that follow a weight's magnitudes."""
        for output in self.outputs():
            output.grid.freeze()
        for layer in self.layers():
            layer.weight_range.freeze()

    def damp(self, strength: float) -> None:
        """How strongly weights are drawn to the middle of their bins."""
        for layer in self.layers():
            layer.weight_range.damping = strength

    def settle(self) -> None:
        """Bring grids up to date with their parameters and what they observed, in all processes alike.

        Diverged naming the first site whose range has become none.
        """
        sites = {name: step.output.grid for name, step in self.named_steps()}
        grids = list(sites.values())
        with torch.no_grad():
            self._learned.evaluate()
        self._share_observations([grid for grid in grids if isinstance(grid, MovingAverageRange)])
        parts = [grid.numbers() for grid in grids]
        numbers = iter(torch.cat(parts).tolist())
        for (name, grid), part in zip(sites.items(), parts, strict=True):
            found = [next(numbers) for _ in range(len(part))]
            try:
                grid.settle(found)
            except (ValueError, ArithmeticError) as error:  # a scale of 0, infinity or NaN
                ends = ", ".join(f"{number:g}" for number in found)
                raise Diverged(f"the range of {name} is no longer one ({ends})") from error

    @torch.no_grad()
    def _share_observations(self, grids: list[MovingAverageRange]) -> None:
        seen = {grid: grid.seen for grid in grids if grid.seen is not None}
        if not seen:
            return
        ends = torch.stack(list(seen.values()))
        lowest, highest = -largest(-ends[:, 0]), largest(ends[:, 1].clone())
        for grid, low, high in zip(seen, lowest, highest, strict=True):
            grid.take(torch.stack([low, high]))

    @torch.no_grad()
    def write(self, prepared: fx.GraphModule) -> dict[str, tuple[float, float]]:
        """Give `prepared` the trained weights, folded, and their grids; returns every free site's range."""
        trained = dict(self.named_steps())
        ranges = {}
        for site in read_sites(prepared):
            step = trained[site.name]
            if isinstance(step, LayerStep):
                _write_layer(site, step)
            grid: ActivationRange = step.output.grid
            if not site.fake_quant.fixed:
                low, high = grid.qparams.dequantize([grid.qparams.qmin, grid.qparams.qmax])
                ranges[site.name] = (float(low), float(high))
        return ranges

    def outputs(self) -> Iterator[Output]:
        """The end of every step."""
        return (module for module in self.modules() if isinstance(module, Output))

    def layers(self) -> Iterator[LayerStep]:
        """Every convolution and linear layer."""
        return (module for module in self.modules() if isinstance(module, LayerStep))

    def named_steps(self) -> Iterator[tuple[str, Step]]:
        """Sites and their steps in execution order."""
        return ((name, cast(Step, self.steps[key])) for name, key in self._keys.items())


def _output(site: Site, sites: tuple[Site, ...], forms: FormsConfig, fixed: bool) -> Output:
    start = site.fake_quant.qparams
    assert start is not None
    floor = useful_floor(site, sites)
    activation = site.kind if site.kind in ("relu", "relu6", "hard_sigmoid") else site.activation
    grid: nn.Module
    if fixed:
        grid = FixedRange(start)
    else:
        grid = make_range(
            forms.activations,
            start,
            size=math.prod(site.output_shape),
            one_sided=activation in ("relu", "relu6"),
            floored=floor is not None,
            momentum=forms.momentum,
        )
    return Output(grid, activation, floor)  # type: ignore[arg-type]


def _step(site: Site, output: Output, forms: FormsConfig) -> Step:
    if site.kind == "layer":
        return _layer_step(site, output, forms)
    if site.hard_swish is not None:
        return steps.HardSwishStep(output, site.hard_swish.factors)
    kinds: dict[str, Callable[[Output], Step]] = {
        "input": steps.InputStep,
        "add": steps.AddStep,
        "mul": steps.MulStep,
        "mean": steps.MeanStep,
        "relu": steps.ActivationStep,
        "relu6": steps.ActivationStep,
        "hard_sigmoid": steps.ActivationStep,
        "logistic": steps.LogisticStep,
    }
    return kinds[site.kind](output)


def _layer_step(site: Site, output: Output, forms: FormsConfig) -> LayerStep:
    layer, quantizer = site.layer, site.weight_fake_quant
    assert layer is not None and quantizer is not None
    qmax = INT8_MAX if quantizer.bits == 8 else INT4_MAX
    weight, bias = layer.weight.detach().clone(), layer.bias
    scale = torch.from_numpy(quantizer.qparams(layer.weight).scale.copy())
    norm = None
    if site.norm is not None and bias is not None:
        norm, factor = _unfold(site.norm, bias.detach(), site.fake_quant.factors)
        safe = torch.where(factor == 0, 1.0, factor)
        weight = weight / safe.reshape(-1, *[1] * (weight.dim() - 1))
        if scale.dim():
            scale = scale / safe.abs()
    grid = WeightRange(scale, forms.weights, qmax, weight.numel() // scale.numel())
    own_bias = None if norm is not None or bias is None else bias.detach().clone()
    return LayerStep(layer, weight, norm, own_bias, grid, output)


def _unfold(norm: Norm, bias: torch.Tensor, equalized: torch.Tensor | None) -> tuple[Norm, torch.Tensor]:
    """The BatchNorm as trainable again, and what its folding multiplies the weight by [O].

    Equalization multiplies its output, and what bias correction added to `bias` goes into the running mean.
    """
    assert norm.running_mean is not None and norm.running_var is not None
    fresh = type(norm)(norm.num_features, norm.eps, norm.momentum)
    gain = torch.ones(norm.num_features) if norm.weight is None else norm.weight.detach()
    shift = torch.zeros(norm.num_features) if norm.bias is None else norm.bias.detach()
    if equalized is not None:
        gain, shift = gain * equalized, shift * equalized
    factor = gain * torch.rsqrt(norm.running_var + norm.eps)
    mean = torch.where(factor == 0, norm.running_mean, (shift - bias) / factor)
    with torch.no_grad():
        fresh.weight.copy_(gain)
        fresh.bias.copy_(shift)
        assert fresh.running_mean is not None and fresh.running_var is not None
        fresh.running_mean.copy_(mean)
        fresh.running_var.copy_(norm.running_var)
    return fresh, factor


def _write_layer(site: Site, step: LayerStep) -> None:
    layer, quantizer = site.layer, site.weight_fake_quant
    assert layer is not None and quantizer is not None
    was, step.output.quantizes = step.output.quantizes, True
    weight, bias = step.folded()
    step.output.quantizes = was
    scale = step.folded_scale().cpu().numpy()
    layer.weight.copy_(weight.cpu())
    if bias is not None:
        assert layer.bias is not None
        layer.bias.copy_(bias.cpu())
    qmax = step.weight_range.qmax
    start = quantizer.qparams(layer.weight)
    quantizer.frozen = replace(start, scale=scale, qmin=-qmax, qmax=qmax)
