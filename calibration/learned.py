"""Grids and layers whose parameters can be learned: rounding passes its gradient straight through.

Ranges follow LSQ+ (Bhalgat et al. 2020): the gradient of a value on the grid with respect to the scale is its
own rounding error, of a clipped one the grid's end. Weights are learned in steps of their frozen grid.
"""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch.autograd.function import once_differentiable

from qmnv3.ir import QParams
from qmnv3.quant.affine import is_int16
from qmnv3.quant.fake_quant import FakeQuantize, QuantWeight

# Freezing keeps scales a factor 2 inside what XNNPACK accepts in an ADD; two scales take half of it each.
_SCALE_BOUND = math.log(2.0) / 2.0


class LearnedGrid:
    """The grid of an activation site, with log of the scale and zero point as parameters.

    Where the tensor has no negative (or no positive) values the zero point is the grid's end and stays there.
    With probability `drop` a value passes unrounded (QDrop, Wei et al. 2022) while `generator` is given.
    """

    def __init__(self, site: FakeQuantize) -> None:
        assert site.qparams is not None
        self.site = site
        self._start = site.qparams
        self.log_scale = torch.tensor(math.log(float(site.qparams.scale)), requires_grad=True)
        self.zero_point = torch.tensor(float(site.qparams.zero_point), requires_grad=True)
        inside = site.qparams.qmin < int(site.qparams.zero_point) < site.qparams.qmax
        self.shifts = inside and not is_int16(site.qparams)

    @property
    def qparams(self) -> QParams:
        """The grid as it is now."""
        zero_point = round(self.zero_point.item()) if self.shifts else int(self._start.zero_point)
        scale = np.asarray(math.exp(self.log_scale.item()), np.float32)
        return replace(self._start, scale=scale, zero_point=np.asarray(zero_point, np.int32))

    def __call__(
        self, x: torch.Tensor, drop: float = 0.0, generator: torch.Generator | None = None
    ) -> torch.Tensor:
        """`x` on the grid."""
        rounded: torch.Tensor = _Round.apply(x, self.log_scale, self.zero_point, self.qparams)  # type: ignore[no-untyped-call]
        if generator is None or drop == 0.0:
            return rounded
        return torch.where(random_mask(x, drop, generator), x, rounded)

    @torch.no_grad()
    def project(self) -> None:
        """Keep the scale where integer runtimes accept it, the zero point in the grid."""
        start = math.log(float(self._start.scale))
        self.log_scale.clamp_(start - _SCALE_BOUND, start + _SCALE_BOUND)
        self.zero_point.clamp_(self._start.qmin, self._start.qmax)


def random_mask(like: torch.Tensor, share: float, generator: torch.Generator) -> torch.Tensor:
    """True for the share of values, to 1/256, in the shape and memory order of a dense tensor."""
    words = torch.empty(-(-like.numel() // 8), dtype=torch.int64)
    random_bytes = words.random_(-(2**63), None, generator=generator).view(torch.uint8)
    return (random_bytes[: like.numel()] < 256 * share).as_strided(like.shape, like.stride())


class _Round(torch.autograd.Function):
    """`affine.fake_quantize` with gradients for log scale and zero point."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, log_scale: torch.Tensor, zero_point: torch.Tensor, qparams: QParams
    ) -> torch.Tensor:
        scale, shift = float(qparams.scale), int(qparams.zero_point)
        steps = x.mul(float(np.float32(1.0) / np.float32(scale)))
        low, high = qparams.qmin - shift, qparams.qmax - shift
        inside = (steps >= low - 0.5) & (steps <= high + 0.5)
        rounded = steps.round_().clamp_(low, high).mul_(scale)
        ctx.save_for_backward(x, rounded, inside)
        ctx.scale = scale
        return rounded

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, rounded, inside = ctx.saved_tensors
        passed = gradient * inside
        # d rounded / d log scale: rounding error inside, the grid's end outside.
        log_scale = (gradient * rounded).sum() - (passed * x).sum()
        zero_point = -ctx.scale * (gradient.sum() - passed.sum())
        return passed, log_scale, zero_point, None


class LearnedLayer:
    """A layer's weight, in steps of its grid, and bias as parameters.

    A weight moves at most `most_steps` from where it starts.
    """

    def __init__(self, module: QuantWeight, most_steps: float) -> None:
        module.weight_fake_quant.freeze(module.layer.weight)
        self.module = module
        self.grid = module.weight_fake_quant.qparams(module.layer.weight)
        scale = torch.from_numpy(self.grid.scale.copy())
        self._scale = scale.reshape(-1, *[1] * (module.layer.weight.dim() - 1)) if scale.dim() else scale
        self._start = module.layer.weight.detach() / self._scale
        self._most = most_steps
        self.steps = self._start.clone().requires_grad_()
        bias = module.layer.bias
        self.bias = None if bias is None else bias.detach().clone().requires_grad_()

    @property
    def weight(self) -> torch.Tensor:
        """The weight on its grid; the gradient passes to `steps`."""
        rounded = self.steps + (self.steps.detach().round() - self.steps.detach())
        return rounded.clamp(self.grid.qmin, self.grid.qmax) * self._scale

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """The layer's output for `x`."""
        parameters = {"weight": self.weight}
        if self.bias is not None:
            parameters["bias"] = self.bias
        return self.module.call(x, parameters)

    @torch.no_grad()
    def project(self) -> None:
        """Keep each weight near its start."""
        self.steps.copy_(self.steps.clamp(self._start - self._most, self._start + self._most))

    @torch.no_grad()
    def write(self) -> None:
        """Give the layer what was learned; its weights lie on the grid exactly."""
        set_integers(self.module, self.steps.detach())
        if self.bias is not None:
            self.module.layer.bias.copy_(self.bias)  # type: ignore[union-attr]


@torch.no_grad()
def set_integers(module: QuantWeight, steps: torch.Tensor) -> None:
    """Give a layer the weights nearest to `steps` of its frozen grid; conversion finds these integers."""
    grid = module.weight_fake_quant.frozen
    assert grid is not None
    integers = steps.round().clamp(grid.qmin, grid.qmax).numpy()
    module.layer.weight.copy_(torch.from_numpy(grid.dequantize(integers)))
