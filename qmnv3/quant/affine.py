"""Affine quantization arithmetic: choosing scale and zero point, and fake-quantizing tensors."""

import numpy as np
import numpy.typing as npt
import torch

from qmnv3.ir import QParams

INT8_MIN, INT8_MAX = -128, 127
INT16_MIN, INT16_MAX = -32768, 32767
# 4-bit weights: 15 symmetric levels, stored as int8.
INT4_MAX = 7
_TINY = float(np.finfo(np.float32).tiny)

# Sigmoid and hard-sigmoid live in [0, 1): scale 1/256 as TFLite fixes for LOGISTIC; no range is needed.
SIGMOID_QPARAMS = QParams.per_tensor(1 / 256, -128)
# The gate relu6(x + 3) of h-swish must reach 6 exactly (the identity for x >= 3), hence 255 steps.
HARD_SWISH_GATE_QPARAMS = QParams.per_tensor(6 / 255, -128)
# Hard-sigmoid and the gate where the tensor is int16, whose zero point is always 0.
HARD_SIGMOID_INT16_QPARAMS = QParams.per_tensor(1 / 32768, 0, INT16_MIN, INT16_MAX)
HARD_SWISH_GATE_INT16_QPARAMS = QParams.per_tensor(6 / 32767, 0, INT16_MIN, INT16_MAX)


def asymmetric_qparams(
    low: float, high: float, *, floor: float = 0.0, qmin: int = INT8_MIN, qmax: int = INT8_MAX
) -> QParams:
    """Per-tensor parameters whose grid covers [low, high] and holds 0 exactly.

    The zero point is rounded first and the scale then widened to cover both ends, so that rounding the zero
    point never clips (an end within half a step of 0 may coincide with 0). `floor` is the smallest scale
    allowed (a dead tensor must not get a dead scale).
    """
    low, high = min(float(low), 0.0), max(float(high), 0.0)
    scale = max((high - low) / (qmax - qmin), floor, _TINY)
    zero_point = int(np.clip(np.rint(qmin - low / scale), qmin, qmax))
    if zero_point < qmax:
        scale = max(scale, high / (qmax - zero_point))
    if zero_point > qmin:
        scale = max(scale, low / (qmin - zero_point))
    return QParams.per_tensor(scale, zero_point, qmin, qmax)


def int16_qparams(low: float, high: float, *, floor: float = 0.0) -> QParams:
    """Per-tensor parameters of an int16 activation that cover [low, high]: zero point 0, as TFLite requires.

    Given to a FakeQuantize, they make `convert` run what touches its tensor in 16 bits. The larger of |low|
    and |high| falls on 32767. `floor` is the smallest scale allowed.
    """
    scale = max(abs(float(low)) / INT16_MAX, abs(float(high)) / INT16_MAX, floor, _TINY)
    return QParams.per_tensor(scale, 0, INT16_MIN, INT16_MAX)


def is_int16(qparams: QParams | None) -> bool:
    """Whether `qparams` are those of an int16 activation: symmetric, per tensor, up to 32767."""
    return (
        qparams is not None
        and qparams.axis is None
        and qparams.qmax == INT16_MAX
        and qparams.qmin in (INT16_MIN, -INT16_MAX)
        and int(qparams.zero_point) == 0
    )


def symmetric_qparams(
    absmax: npt.ArrayLike, *, axis: int | None, floor: npt.ArrayLike = 0.0, qmax: int = INT8_MAX
) -> QParams:
    """Weight parameters: zero point 0, integers in [-qmax, qmax], largest magnitude `absmax` per channel.

    `absmax` is a scalar (`axis` None) or has one value per channel. An
    all-zero channel takes the largest scale of the others (any scale holds zeros; a tiny one would make the
    requantization ratio absurd).
    """
    scale = np.maximum(np.asarray(absmax, np.float64) / qmax, floor)
    largest = scale.max()
    scale = np.where(scale > _TINY, scale, largest if largest > _TINY else 1.0).astype(np.float32)
    return QParams(scale, np.zeros(scale.shape, np.int32), -qmax, qmax, axis)


def least_squares_qparams(weight: torch.Tensor, *, axis: int | None, qmax: int) -> QParams:
    """Weight parameters as `symmetric_qparams` gives, with the scale whose squared rounding error is least.

    `weight` is [O, ...], `axis` 0 or None. Candidates clip at 30 % to 100 % of the largest magnitude: with
    few levels, finer steps for the many small weights are worth clipping the few large ones.
    """
    rows = weight.detach().flatten(1) if axis is not None else weight.detach().reshape(1, -1)
    largest = rows.abs().amax(1, keepdim=True)
    best, least = largest, torch.full_like(largest, torch.inf)
    for share in np.linspace(0.3, 1.0, 36):
        scale = (largest * float(share) / qmax).clamp(min=_TINY)
        error = (
            (rows / scale).round().clamp_(-qmax, qmax).mul_(scale).sub_(rows).square_().sum(1, keepdim=True)
        )
        best, least = torch.where(error < least, scale * qmax, best), torch.minimum(error, least)
    absmax = best[:, 0] if axis is not None else best[0, 0]
    # A channel of zeros keeps 0, so that it takes another's scale.
    alive = largest[:, 0] > 0 if axis is not None else largest[0, 0] > 0
    return symmetric_qparams(torch.where(alive, absmax, 0.0).numpy(force=True), axis=axis, qmax=qmax)


def fake_quantize(x: torch.Tensor, qparams: QParams) -> torch.Tensor:
    """`x` rounded onto the grid of `qparams` (half to even, saturating), still float; same shape."""
    if qparams.axis is None:
        scale, zero_point = float(qparams.scale), int(qparams.zero_point)
        if x.requires_grad and torch.is_grad_enabled():
            return torch.fake_quantize_per_tensor_affine(x, scale, zero_point, qparams.qmin, qparams.qmax)
        # The same float32 operations as torch's kernel, which is 6 times slower: it is not vectorized.
        steps = x.mul(float(np.float32(1.0) / np.float32(scale))).round_()
        return steps.clamp_(qparams.qmin - zero_point, qparams.qmax - zero_point).mul_(scale)
    return torch.fake_quantize_per_channel_affine(
        x,
        torch.from_numpy(qparams.scale.copy()).to(x.device),
        torch.from_numpy(qparams.zero_point.copy()).to(x.device),
        qparams.axis,
        qparams.qmin,
        qparams.qmax,
    )
