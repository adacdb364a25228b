"""Ranges of activations in training: fixed, or in one of three forms that follow the training."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import nn

from qmnv3.ir import QParams
from qmnv3.qat.codes import Bounds
from qmnv3.qat.config import RangeForm
from qmnv3.quant.affine import asymmetric_qparams, int16_qparams, is_int16


class ActivationRange(Protocol):
    """The grid of one activation tensor.

    `scale` and `bounds` are what a step works with; gradients reach the range through them. `numbers` are
    what `settle` needs as Python floats: those of all ranges cross from the device at once, between steps.
    `freeze` ends all change.
    """

    @property
    def scale(self) -> torch.Tensor: ...  # noqa: D102
    @property
    def bounds(self) -> Bounds: ...  # noqa: D102
    @property
    def qparams(self) -> QParams: ...  # noqa: D102
    def numbers(self) -> torch.Tensor: ...  # noqa: D102
    def settle(self, numbers: list[float]) -> None: ...  # noqa: D102
    def freeze(self) -> None: ...  # noqa: D102


def make_range(
    form: RangeForm, start: QParams, *, size: int, one_sided: bool, floored: bool, momentum: float
) -> nn.Module:
    """A range of `form` that starts as `start`; `size` is how many values the tensor has per image.

    PACT's clip is for tensors without negative values (`one_sided`) in 8 bits: others get a moving average. A
    tensor without positive values has no upper end to learn and keeps its grid.
    """
    if form == "learned":
        never_positive = int(start.zero_point) == start.qmax
        return FixedRange(start) if never_positive else LearnedRange(start, size, floored)
    if form == "clip" and one_sided and not is_int16(start):
        return ClipRange(start)
    return MovingAverageRange(start, momentum)


class FixedRange(nn.Module):
    """A grid that training leaves alone: the image's, hard-sigmoid's, a floored one."""

    def __init__(self, start: QParams) -> None:
        super().__init__()
        self.qparams = start
        self.bounds = _bounds(start)
        self.scale: torch.Tensor
        self.register_buffer("scale", torch.from_numpy(start.scale.copy()), persistent=False)

    def numbers(self) -> torch.Tensor:
        """None needed."""
        return self.scale.new_empty(0)

    def settle(self, numbers: list[float]) -> None:
        """Nothing changes."""

    def freeze(self) -> None:
        """Nothing changes."""


class LearnedRange(nn.Module):
    """LSQ+ (Bhalgat et al. 2020): scale and zero point are learned, by way of the logs of both ends.

    In LSQ+ the low end stays when the scale changes; here each end stays when the other changes, so that a
    range shrinks at one end without clipping the other. Gradients are scaled by 1 / sqrt(size * Q_P) (LSQ,
    section 2.2), `size` being the values per image, Q_P 127 where values have both signs and 255 where not.
    A tensor without negative values keeps its zero point at the grid's end, an int16 one at 0: they have one
    end. With `floored` the low end stays: below it the reader (h-swish) sees no difference, at it its slope
    jumps. `LearnedRanges` evaluates it.
    """

    def __init__(self, start: QParams, size: int, floored: bool = False) -> None:
        super().__init__()
        self._start = start
        zero_point, scale = int(start.zero_point), float(start.scale)
        self.two_sided = start.qmin < zero_point < start.qmax and start.qmax < 2**15 - 1
        self.log_high = _range_parameter(math.log((start.qmax - zero_point) * scale))
        if self.two_sided:
            self.log_low = _range_parameter(math.log((zero_point - start.qmin) * scale))
            self.log_low.requires_grad_(not floored)
        self._settled = start
        self.divisor = start.qmax - (start.qmin if self.two_sided else zero_point)
        self.slowness = 1.0 / math.sqrt(size * (start.qmax if self.two_sided else self.divisor))
        self._now: Evaluated

    @property
    def scale(self) -> torch.Tensor:
        """Scalar, with gradient, as last evaluated."""
        return self._now.scale

    @property
    def bounds(self) -> Bounds:
        """Ends of the grid; where the zero point is learned, its gradient passes through them."""
        plain = _bounds(self._settled)
        learns = self.two_sided and self.log_high.requires_grad
        return plain._replace(shift=self._now.shift) if learns else plain

    @property
    def qparams(self) -> QParams:
        """The grid as it is now."""
        return self._settled

    def __getstate__(self) -> dict[str, Any]:
        """Without what was evaluated: tensors with gradients cannot be copied."""
        return {name: value for name, value in self.__dict__.items() if name != "_now"}

    def take(self, now: "Evaluated") -> None:
        """What `LearnedRanges` found."""
        self._now = now

    def numbers(self) -> torch.Tensor:
        """Scale and distance of the low end from 0, as last evaluated."""
        return self._now.numbers

    def settle(self, numbers: list[float]) -> None:
        """Round the zero point."""
        scale, low = numbers
        start = self._start
        zero_point = int(start.zero_point)
        if self.two_sided:
            zero_point = min(max(round(start.qmin + low / scale), start.qmin), start.qmax)
        self._settled = QParams.per_tensor(scale, zero_point, start.qmin, start.qmax)

    def freeze(self) -> None:
        """No gradients from now on."""
        self.requires_grad_(False)


class Evaluated(NamedTuple):
    """Of a learned range: scale; minus the zero point, but for a constant that makes it 0; see `numbers`."""

    scale: torch.Tensor
    shift: torch.Tensor
    numbers: torch.Tensor


class LearnedRanges(nn.Module):
    """The learned ranges of a model, evaluated together.

    One by one their operations on single numbers are thousands, and what a step on a GPU mostly waits for.
    """

    def __init__(self, ranges: Sequence[LearnedRange]) -> None:
        super().__init__()
        self._ranges = (*ranges,)  # not modules of this one: they have their place in the model
        self._slowness: torch.Tensor
        self._divisor: torch.Tensor
        self._nothing: torch.Tensor
        constants = {
            "_slowness": [grid.slowness for grid in ranges],
            "_divisor": [float(grid.divisor) for grid in ranges],
            "_nothing": -math.inf,  # log of the low end of a range without one
        }
        for name, value in constants.items():
            self.register_buffer(name, torch.tensor(value), persistent=False)

    def evaluate(self) -> None:
        """Bring `scale`, `bounds` and `numbers` of all up to date with their parameters."""
        if not self._ranges:
            return
        logs = torch.stack(
            [
                torch.stack([grid.log_high for grid in self._ranges]),
                torch.stack([grid.log_low if grid.two_sided else self._nothing for grid in self._ranges]),
            ]
        )
        # `logs` itself, its gradient times the slowness.
        high, low = (logs * self._slowness + logs.detach() * (1.0 - self._slowness)).exp()
        scale = (high + low) / self._divisor
        zero_point = low / scale
        numbers = torch.stack([scale, low], 1).detach()
        parts = (scale, zero_point.detach() - zero_point, numbers)
        for grid, *now in zip(self._ranges, *(part.unbind() for part in parts), strict=True):
            grid.take(Evaluated(*now))


class MovingAverageRange(nn.Module):
    """Jacob et al. 2018, section 3: smallest and largest value, averaged exponentially over the batches.

    `observe` notes those of a batch; between steps `take` gets those of all processes.
    """

    def __init__(self, start: QParams, momentum: float) -> None:
        super().__init__()
        self._wide, self._momentum = is_int16(start), momentum
        low, high = start.dequantize([start.qmin, start.qmax])
        self.low: torch.Tensor
        self.high: torch.Tensor
        self.scale: torch.Tensor
        self.register_buffer("low", torch.tensor(float(low)))
        self.register_buffer("high", torch.tensor(float(high)))
        self.register_buffer("scale", torch.from_numpy(start.scale.copy()), persistent=False)
        self.observes = True
        self.seen: torch.Tensor | None = None
        self._settled = start

    @property
    def bounds(self) -> Bounds:
        """Ends of the grid."""
        return _bounds(self._settled)

    @property
    def qparams(self) -> QParams:
        """The grid as it is now."""
        return self._settled

    @torch.no_grad()
    def observe(self, low: torch.Tensor, high: torch.Tensor) -> None:
        """Note a batch's smallest and largest value; several batches of a step count as one."""
        seen = torch.stack([low, high]).to(self.low.dtype)
        if self.seen is not None:
            seen = torch.stack([torch.minimum(seen[0], self.seen[0]), torch.maximum(seen[1], self.seen[1])])
        self.seen = seen

    @torch.no_grad()
    def take(self, ends: torch.Tensor) -> None:
        """Take in what was observed."""
        self.low.lerp_(ends[0], 1.0 - self._momentum)
        self.high.lerp_(ends[1], 1.0 - self._momentum)
        self.seen = None

    def numbers(self) -> torch.Tensor:
        """Both ends."""
        return torch.stack([self.low, self.high])

    def settle(self, numbers: list[float]) -> None:
        """The grid that covers both ends and holds 0."""
        self._settled = int16_qparams(*numbers) if self._wide else asymmetric_qparams(*numbers)
        self.scale.fill_(float(self._settled.scale))

    def freeze(self) -> None:
        """Look no more."""
        self.observes = False


class ClipRange(nn.Module):
    """PACT (Choi et al. 2018): the upper end of a ReLU's range is a parameter; its gradient is that of the
    values clipped to it.
    """

    def __init__(self, start: QParams) -> None:
        super().__init__()
        self._start = start
        self.log_clip = _range_parameter(math.log(float(start.scale) * (start.qmax - start.qmin)))
        self._settled = start

    @property
    def scale(self) -> torch.Tensor:
        """Scalar, without gradient."""
        return self.log_clip.detach().exp() / (self._start.qmax - self._start.qmin)

    @property
    def bounds(self) -> Bounds:
        """Ends of the grid; the gradient passes through the upper one."""
        plain = _bounds(self._settled)
        if not self.log_clip.requires_grad:
            return plain
        return plain._replace(stretch=plain.high * (self.log_clip - self.log_clip.detach()).exp())

    @property
    def qparams(self) -> QParams:
        """The grid as it is now."""
        return self._settled

    def numbers(self) -> torch.Tensor:
        """Log of the upper end."""
        return self.log_clip.detach()[None]

    def settle(self, numbers: list[float]) -> None:
        """The grid from 0 to the upper end."""
        start = self._start
        scale = math.exp(numbers[0]) / (start.qmax - start.qmin)
        self._settled = QParams.per_tensor(scale, start.qmin, start.qmin, start.qmax)

    def freeze(self) -> None:
        """No gradients from now on."""
        self.requires_grad_(False)


def _bounds(qparams: QParams) -> Bounds:
    zero_point = int(qparams.zero_point)
    return Bounds(float(qparams.qmin - zero_point), float(qparams.qmax - zero_point))


def _range_parameter(value: float) -> nn.Parameter:
    parameter = nn.Parameter(torch.tensor(value))
    parameter.quant_range = True  # type: ignore[attr-defined]  # a parameter group of its own
    return parameter
