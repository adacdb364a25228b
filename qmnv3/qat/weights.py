"""Weights in training: rounded to their grid in the forward pass, whole in the backward pass."""

from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable

from qmnv3.qat.config import WeightForm

_TINY = 1e-12


class WeightRange(nn.Module):
    """Grid of a weight [O, ...]: symmetric, integers in [-qmax, qmax], one scale per output channel or one.

    "absmax" follows the largest magnitude; "learned" is LSQ, with `size` weights to a scale. With `damping`
    the gradient also draws each weight to the middle of its bin (Nagel et al. 2022, which stops the
    oscillation of depthwise weights).
    """

    def __init__(self, scale: torch.Tensor, form: WeightForm, qmax: int, size: int) -> None:
        super().__init__()
        self.form, self.qmax = form, qmax
        self.damping = 0.0
        self._slowness = (size * qmax) ** -0.5
        self.per_channel = scale.dim() == 1
        if form == "learned":
            self.log_scale = nn.Parameter(scale.clamp(min=_TINY).log())
            self.log_scale.quant_range = True  # type: ignore[attr-defined]  # a parameter group of its own

    def scale(self, weight: torch.Tensor) -> torch.Tensor:
        """[O] or scalar, with gradient if learned."""
        if self.form == "learned":
            slowed = self.log_scale * self._slowness + self.log_scale.detach() * (1.0 - self._slowness)
            scale: torch.Tensor = slowed.exp()
            return scale
        weight = weight.detach()
        absmax: torch.Tensor = torch.linalg.vector_norm(
            weight.flatten(1), torch.inf, dim=1 if self.per_channel else None
        )
        return (absmax / self.qmax).clamp(min=_TINY)

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """`weight` on its grid."""
        scale = self.scale(weight)
        if self.per_channel:
            scale = scale.reshape(-1, *[1] * (weight.dim() - 1))
        return _RoundWeight.apply(weight, scale, float(self.qmax), self.damping)  # type: ignore[no-untyped-call,no-any-return]

    def freeze(self) -> None:
        """A learned scale stays as it is from now on."""
        self.requires_grad_(False)


class _RoundWeight(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, weight: torch.Tensor, scale: torch.Tensor, qmax: float, damping: float
    ) -> torch.Tensor:
        rounded = (weight / scale).round_().clamp_(-qmax, qmax).mul_(scale)
        ctx.save_for_backward(weight, scale, rounded)
        ctx.qmax, ctx.damping = qmax, damping
        return rounded

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        weight, scale, rounded = ctx.saved_tensors
        scale_gradient = None
        passed = gradient
        if ctx.needs_input_grad[1]:
            inside = weight.abs() <= scale * (ctx.qmax + 0.5)
            passed = gradient * inside
            moved = (gradient * rounded - passed * weight) / scale
            scale_gradient = moved.flatten(1).sum(1).reshape(scale.shape) if scale.dim() else moved.sum()
        if ctx.damping:
            passed = passed + ctx.damping * (weight - rounded)
        return passed, scale_gradient, None, None
