"""One module per tensor of the deployed graph: takes and gives `Codes`."""

import torch
import torch.nn.functional as F
from torch import nn

from qmnv3.models.padding import Conv2dSame, conv2d_same
from qmnv3.qat.codes import Bounds, Codes, hard_swish, round_to_grid
from qmnv3.qat.ranges import ActivationRange, MovingAverageRange
from qmnv3.qat.weights import WeightRange
from qmnv3.quant.affine import HARD_SWISH_GATE_QPARAMS
from qmnv3.quant.sites import FusedActivation
from qmnv3.training.synchronised import batch_norm


class Output(nn.Module):
    """What every step does last: the activation, then rounding to the tensor's grid, if quantizing.

    `floor` [C] is the least value of each channel that matters to the reader: ranges that are observed do not
    reach below it.
    """

    one: torch.Tensor
    floor: torch.Tensor | None

    def __init__(
        self, grid: ActivationRange, activation: FusedActivation, floor: torch.Tensor | None = None
    ) -> None:
        super().__init__()
        self.grid = grid
        self.activation = activation
        self.register_buffer("floor", floor, persistent=False)
        self.quantizes = False
        self.register_buffer("one", torch.ones(()), persistent=False)

    @property
    def scale(self) -> torch.Tensor:
        """In what steps `finish` wants its input: the grid's, or 1."""
        return self.grid.scale if self.quantizes else self.one

    def finish(self, steps: torch.Tensor, scale: torch.Tensor) -> Codes:
        """`steps` times `scale` (of this output) is the value before the activation."""
        if self.observes:
            self._observe(steps, scale)
        if not self.quantizes:
            return Codes(self._activate(steps), scale)
        return Codes(round_to_grid(steps, self.bounds()), scale)

    @property
    def observes(self) -> bool:
        """Whether the range wants to see the tensor's ends."""
        return self.training and isinstance(self.grid, MovingAverageRange) and self.grid.observes

    def observe(self, low: torch.Tensor, high: torch.Tensor) -> None:
        """Show them to it."""
        assert isinstance(self.grid, MovingAverageRange)
        self.grid.observe(low, high)

    def bounds(self) -> Bounds:
        """The grid's ends, as far as the activation reaches."""
        bounds = self.grid.bounds
        if self.activation in ("relu", "relu6", "hard_sigmoid"):
            bounds = Bounds(max(bounds.low, 0.0), bounds.high, None, bounds.stretch)
        if self.activation == "relu6":
            six = float(round(6.0 / float(self.grid.qparams.scale)))
            if six < bounds.high:
                bounds = Bounds(bounds.low, six)
        return bounds

    @torch.no_grad()
    def _observe(self, steps: torch.Tensor, scale: torch.Tensor) -> None:
        low, high = (end * scale for end in torch.aminmax(steps))
        if self.activation in ("relu", "relu6"):
            low = low.clamp(min=0.0)
        elif self.floor is not None:
            lowest = steps.amin((0, *range(2, steps.dim()))) * scale
            low = torch.maximum(lowest, self.floor).amin()
        if self.activation == "relu6":
            high = high.clamp(max=6.0)
        self.observe(low, high)

    def _activate(self, real: torch.Tensor) -> torch.Tensor:
        if self.activation == "relu":
            return F.relu(real, inplace=True)
        if self.activation == "relu6":
            return F.relu6(real, inplace=True)
        # hard-sigmoid arrives as x/6 + 1/2
        return real.clamp_(0.0, 1.0) if self.activation == "hard_sigmoid" else real


class InputStep(nn.Module):
    """The image."""

    def __init__(self, output: Output) -> None:
        super().__init__()
        self.output = output

    def forward(self, image: torch.Tensor) -> Codes:
        """[N, 3, H, W], normalised."""
        scale = self.output.scale
        return self.output.finish(image / scale, scale)


class LayerStep(nn.Module):
    """A convolution or linear layer with its BatchNorm and activation.

    While BatchNorm takes its statistics from the batch, the weight is rounded as it is: a scale per output
    channel commutes with folding. One scale for all does not, so then the weight is rounded as folded with
    the running statistics (Krishnamoorthi 2018, section 3.2.2). With running statistics it is folded.
    """

    def __init__(
        self,
        layer: nn.Conv2d | nn.Linear,
        weight: torch.Tensor,
        norm: nn.modules.batchnorm._BatchNorm | None,
        bias: torch.Tensor | None,
        weight_range: WeightRange,
        output: Output,
    ) -> None:
        super().__init__()
        # In a tuple: only its geometry is used.
        self._layer = (layer,)
        self.weight = nn.Parameter(weight)
        self.bias = None if bias is None else nn.Parameter(bias)
        self.norm = norm
        self.weight_range = weight_range
        self.output = output
        self.folds = False

    def forward(self, x: Codes) -> Codes:
        """The input's scale and the output's both end up in weight and bias."""
        scale = self.output.scale
        gain, offset = 1.0 / scale, None
        if self.output.activation == "hard_sigmoid":
            gain, offset = gain / 6.0, 0.5 / scale
        if self.norm is None or self.folds or not self.training:
            weight, factor, bias = self._parts()
            rows = x.scale * gain if factor is None else _rows(factor * (x.scale * gain), weight)
            bias = None if bias is None else bias * gain
            return self.output.finish(self._convolve(x.values, weight * rows, _sum(bias, offset)), scale)
        factor = None if self.weight_range.per_channel else self._factor().detach()
        weight = self._rounded(self.weight, factor)
        raw = self._convolve(x.values, weight * x.scale, None)
        steps = batch_norm(raw, self.norm, self.norm.weight * gain, _sum(self.norm.bias * gain, offset))
        return self.output.finish(steps, scale)

    def folded(self) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Weight, on its grid when quantizing, and bias with BatchNorm's running statistics folded in."""
        weight, factor, bias = self._parts()
        return weight if factor is None else weight * _rows(factor, weight), bias

    def folded_scale(self) -> torch.Tensor:
        """Scale of the folded weight [O], or scalar; positive whatever sign BatchNorm's weight has."""
        if self.norm is None:
            return self.weight_range.scale(self.weight)
        factor = self._factor()
        if not self.weight_range.per_channel:
            return self.weight_range.scale(self.weight * _rows(factor, self.weight))
        # A channel that BatchNorm multiplies by 0 has weights 0 on any grid.
        return self.weight_range.scale(self.weight) * torch.where(factor == 0, 1.0, factor.abs())

    def _parts(self) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        """Weight before folding, on its grid when quantizing; what folding multiplies it by; folded bias."""
        if self.norm is None:
            return self._rounded(self.weight, None), None, self.bias
        factor = self._factor()
        assert self.norm.running_mean is not None
        return self._rounded(self.weight, factor), factor, self.norm.bias - self.norm.running_mean * factor

    def _factor(self) -> torch.Tensor:
        """What folding multiplies the weight by [O]."""
        assert self.norm is not None and self.norm.running_var is not None
        return self.norm.weight * torch.rsqrt(self.norm.running_var + self.norm.eps)

    def _rounded(self, weight: torch.Tensor, factor: torch.Tensor | None) -> torch.Tensor:
        if not self.output.quantizes:
            return weight
        if factor is None or self.weight_range.per_channel:
            rounded: torch.Tensor = self.weight_range(weight)
            return rounded
        rows = _rows(torch.where(factor == 0, 1.0, factor), weight)
        folded: torch.Tensor = self.weight_range(weight * rows)
        return folded / rows

    def _convolve(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        (layer,) = self._layer
        if isinstance(layer, nn.Linear):
            return F.linear(x.flatten(1), weight, bias)
        if isinstance(layer, Conv2dSame):
            return conv2d_same(x, weight, bias, layer.stride, layer.dilation, layer.groups)
        return F.conv2d(x, weight, bias, layer.stride, layer.padding, layer.dilation, layer.groups)


class HardSwishStep(nn.Module):
    """h-swish, through an equalized gate where there are `factors` [C]."""

    factors: torch.Tensor | None

    def __init__(self, output: Output, factors: torch.Tensor | None) -> None:
        super().__init__()
        self.output = output
        self.register_buffer("factors", factors)

    def forward(self, x: Codes) -> Codes:
        """[N, C, H, W] or [N, C]. In training the gate is not rounded, see `hard_swish`."""
        factors = self.factors
        if factors is not None:
            factors = factors.reshape(-1, *[1] * (x.values.dim() - 2))
        scale = self.output.scale
        if self.output.observes:
            self.output.observe(*torch.aminmax(_hard_swish(x.real.detach(), factors)))
        if not self.output.quantizes:
            return Codes(_hard_swish(x.real, factors), scale)
        if self.training:
            return Codes(hard_swish(x, self.output.bounds(), scale, factors), scale.detach())
        return self.output.finish(_rounded_hard_swish(x.real, factors) / scale, scale)


class AddStep(nn.Module):
    """Residual addition."""

    def __init__(self, output: Output) -> None:
        super().__init__()
        self.output = output

    def forward(self, x: Codes, y: Codes) -> Codes:
        """The same shapes."""
        scale = self.output.scale
        return self.output.finish(x.values * (x.scale / scale) + y.values * (y.scale / scale), scale)


class MulStep(nn.Module):
    """Multiplication, as of features with squeeze-and-excite's gate."""

    def __init__(self, output: Output) -> None:
        super().__init__()
        self.output = output

    def forward(self, x: Codes, y: Codes) -> Codes:
        """Broadcastable shapes."""
        scale = self.output.scale
        small, large = sorted((x.values, y.values), key=torch.Tensor.numel)
        return self.output.finish(large * (small * (x.scale * y.scale / scale)), scale)


class MeanStep(nn.Module):
    """Global average pooling."""

    def __init__(self, output: Output) -> None:
        super().__init__()
        self.output = output

    def forward(self, x: Codes) -> Codes:
        """[N, C, H, W] to [N, C, 1, 1]."""
        scale = self.output.scale
        return self.output.finish(x.values.mean((2, 3), keepdim=True) * (x.scale / scale), scale)


class ActivationStep(nn.Module):
    """An activation that no layer's requantization absorbs."""

    def __init__(self, output: Output) -> None:
        super().__init__()
        self.output = output

    def forward(self, x: Codes) -> Codes:
        """Any shape."""
        scale = self.output.scale
        steps = x.values * (x.scale / scale)
        if self.output.activation == "hard_sigmoid":
            steps = steps / 6.0 + 0.5 / scale
        return self.output.finish(steps, scale)


class LogisticStep(nn.Module):
    """The sigmoid."""

    def __init__(self, output: Output) -> None:
        super().__init__()
        self.output = output

    def forward(self, x: Codes) -> Codes:
        """Any shape."""
        scale = self.output.scale
        return self.output.finish(torch.sigmoid(x.real) / scale, scale)


def _hard_swish(x: torch.Tensor, factors: torch.Tensor | None) -> torch.Tensor:
    return F.hardswish(x) if factors is None else F.hardswish(x / factors) * factors


def _rounded_hard_swish(x: torch.Tensor, factors: torch.Tensor | None) -> torch.Tensor:
    """h-swish with its gate on the grid 6/255, ties taken up as in `fake_quant.QuantHardswish`."""
    step = float(HARD_SWISH_GATE_QPARAMS.scale)
    gate = F.relu6((x if factors is None else x / factors) + 3.0)
    return x * torch.round(gate / step + 1e-4) * (step / 6.0)


def _rows(values: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """`values` [O] shaped to multiply the rows of `weight` [O, ...]."""
    return values.reshape(-1, *[1] * (weight.dim() - 1))


def _sum(bias: torch.Tensor | None, offset: torch.Tensor | None) -> torch.Tensor | None:
    if bias is None or offset is None:
        return bias if offset is None else offset
    return bias + offset


Step = InputStep | LayerStep | HardSwishStep | AddStep | MulStep | MeanStep | ActivationStep | LogisticStep
