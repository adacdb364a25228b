"""Activations as they travel through a model in training: whole numbers of steps, and the step.

A layer takes its input's scale into its weights and its own output's into its BatchNorm, both small. What is
left to do for a large tensor is to clamp and to round, in place; the gradients of scales come out of autograd
as those of LSQ (Esser et al. 2020), without another pass over the activations.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

# Gradients of ranges sum over millions of values: a share of the batch's images tells them well enough.
_SAMPLE = 8
# In training a clipped value lies this many steps beyond the grid's end, unlike one that was merely rounded
# to the end: many values lie at a minimum of h-swish.
_BEYOND = 2.0**-14


class Codes(NamedTuple):
    """`values` times `scale` is the tensor; on a grid, values are the integers q - zero_point.

    `values`: [N, C, H, W] (or [N, C]) in the model's dtype; `scale`: a scalar tensor.
    """

    values: torch.Tensor
    scale: torch.Tensor

    @property
    def real(self) -> torch.Tensor:
        """The tensor itself."""
        return self.values * self.scale


class Bounds(NamedTuple):
    """Ends of a grid as q - zero_point: numbers, and scalar tensors through which gradients reach ranges.

    `shift` (of value 0) moves both ends, `stretch` (of value `high`) the upper one.
    """

    low: float
    high: float
    shift: torch.Tensor | None = None
    stretch: torch.Tensor | None = None


def round_to_grid(steps: torch.Tensor, bounds: Bounds) -> torch.Tensor:
    """`steps` rounded half to even and clamped to `bounds`, in place where autograd allows it.

    The gradient passes where nothing was clamped (bfloat16, int16: where the result lies between the ends).
    That of an end is the sum over the values clamped to it, estimated on the first images of the batch.
    """
    return _RoundToGrid.apply(steps, *bounds)  # type: ignore[no-untyped-call,no-any-return]


class _RoundToGrid(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        steps: torch.Tensor,
        low: float,
        high: float,
        shift: torch.Tensor | None,
        stretch: torch.Tensor | None,
    ) -> torch.Tensor:
        beyond = _beyond(steps.dtype, low, high) if any(ctx.needs_input_grad) else 0.0
        codes = steps.round_().clamp_(low - beyond, high + beyond)
        ctx.mark_dirty(steps)
        ctx.save_for_backward(codes)
        ctx.ends = low - beyond / 2, high + beyond / 2
        return codes

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (codes,) = ctx.saved_tensors
        low, high = ctx.ends
        passed = torch.ops.aten.hardtanh_backward(gradient, codes, low, high)
        ends = _end_gradients(gradient, passed, codes, high, ctx.needs_input_grad[3:5])
        return passed, None, None, *ends


def _beyond(dtype: torch.dtype, low: float, high: float) -> float:
    """How far beyond an end a clipped value lies; 0 where `dtype` has no such number (bfloat16, or int16)."""
    return _BEYOND if torch.finfo(dtype).eps * max(-low, high) < _BEYOND else 0.0


def _end_gradients(
    gradient: torch.Tensor, passed: torch.Tensor, codes: torch.Tensor, high: float, wanted: tuple[bool, ...]
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Gradients of `Bounds.shift` and `.stretch`, where wanted."""
    first = _sample_size(codes)
    given, weight = gradient[:first], len(codes) / first
    shift = (given - passed[:first]).sum() * weight if wanted[0] else None
    stretch = given[codes[:first] >= high].sum() * weight if wanted[1] else None
    return shift, stretch


def _dot(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Sum of the products of two tensors of the same shape and memory order."""
    if x.dim() == 4 and x.stride() == y.stride() and x.is_contiguous(memory_format=torch.channels_last):
        x, y = x.permute(0, 2, 3, 1), y.permute(0, 2, 3, 1)
    if x.dtype == torch.float32:
        return torch.dot(x.reshape(-1), y.reshape(-1))
    return (x * y).sum(dtype=torch.float32)


def _sample_size(values: torch.Tensor) -> int:
    return -(-len(values) // _SAMPLE)


def hard_swish(x: Codes, bounds: Bounds, scale: torch.Tensor, factors: torch.Tensor | None) -> torch.Tensor:
    """Codes of h-swish(x) on the grid of `bounds` and `scale`.

    With `factors` [C, 1, 1] it is a * h-swish(x / a), as equalized (`fake_quant.QuantHardswish`). The gate's
    own rounding, finer than that of the output, is left to the frozen model.

    The whole gradient of `scale`, the reader's share too, is estimated on the first images of the batch: give
    the reader a detached scale. Both shares are large and nearly cancel, so they must be of the same images;
    for the same reason that of `x.scale`, whose other share comes from the layer before, is of all images.
    """
    return _HardSwish.apply(x.values, x.scale, scale, factors, *bounds)  # type: ignore[no-untyped-call,no-any-return]


class _HardSwish(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        codes: torch.Tensor,
        scale: torch.Tensor,
        out_scale: torch.Tensor,
        factors: torch.Tensor | None,
        low: float,
        high: float,
        shift: torch.Tensor | None,
        stretch: torch.Tensor | None,
    ) -> torch.Tensor:
        inner, outer = (scale, 1.0 / out_scale) if factors is None else (scale / factors, factors / out_scale)
        inner, outer = inner.to(codes.dtype), outer.to(codes.dtype)
        beyond = _beyond(codes.dtype, low, high)
        result = F.hardswish(codes * inner, inplace=True).mul_(outer)
        result.round_().clamp_(low - beyond, high + beyond)
        ctx.save_for_backward(codes, result, inner, outer, scale, out_scale)
        ctx.bounds, ctx.beyond = (low, high), beyond
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        codes, result, inner, outer, scale, out_scale = ctx.saved_tensors
        (low, high), margin = ctx.bounds, ctx.beyond / 2
        x = codes * inner
        clipped = result
        if not margin:  # then the result does not tell what was clipped
            clipped, margin = F.hardswish(x).mul_(outer), 0.5
        passed = torch.ops.aten.hardtanh_backward(gradient, clipped, low - margin, high + margin)
        ends = _end_gradients(gradient, passed, clipped, high + margin, ctx.needs_input_grad[6:8])
        out_scale_gradient = scale_gradient = None
        if ctx.needs_input_grad[2]:
            first = _sample_size(codes)
            steps = F.hardswish(x[:first]).mul_(outer)
            reader, own = _dot(gradient[:first], result[:first]), _dot(passed[:first], steps)
            out_scale_gradient = (reader - own) * (len(codes) / first) / out_scale
        moved = torch.ops.aten.hardswish_backward(passed, x).mul_((scale / out_scale).to(codes.dtype))
        if ctx.needs_input_grad[1]:
            scale_gradient = _dot(moved, codes) / scale
        return moved, scale_gradient, out_scale_gradient, None, None, None, *ends
