"""The observers: each streams one tensor in constant memory and proposes its range."""

from collections.abc import Callable

import torch

from calibration.config import ActivationConfig
from calibration.observers.histogram import Histogram
from calibration.observers.ranges import Range, error_range, kl_range, percentile_range

HARD_SWISH_FLOOR = -3.0


class HistogramObserver:
    """Streams values into a histogram; `choose` turns it into a range when asked."""

    def __init__(self, choose: Callable[[Histogram], Range]) -> None:
        self.histogram = Histogram()
        self.choose = choose

    def update(self, values: torch.Tensor) -> None:
        """Take in a batch."""
        self.histogram.update(values)

    def range(self) -> Range:
        """Low and high end in real units."""
        return self.choose(self.histogram)


class MovingAverageObserver:
    """Exponential moving average of each batch's minimum and maximum (Jacob et al. 2018, section 3.1)."""

    def __init__(self, momentum: float) -> None:
        self.histogram = Histogram()
        self.momentum = momentum
        self._range: Range | None = None

    def update(self, values: torch.Tensor) -> None:
        """Take in a batch: range = momentum * range + (1 - momentum) * the batch's range."""
        self.histogram.update(values)
        low, high = (float(v) for v in torch.aminmax(values))
        if self._range is not None:
            low = self.momentum * self._range[0] + (1 - self.momentum) * low
            high = self.momentum * self._range[1] + (1 - self.momentum) * high
        self._range = (low, high)

    def range(self) -> Range:
        """The averaged ends; (0, 0) before the first batch."""
        return self._range or (0.0, 0.0)


Observer = HistogramObserver | MovingAverageObserver


def make_observer(config: ActivationConfig) -> Observer:
    """The observer a recipe asks for; ValueError for kinds that look at channels, not at a histogram."""
    match config.observer:
        case "percentile":
            return HistogramObserver(lambda histogram: percentile_range(histogram, config.percentile))
        case "mse":
            return HistogramObserver(error_range)
        case "kl":
            return HistogramObserver(kl_range)
        case "moving_average":
            return MovingAverageObserver(config.momentum)
    raise ValueError(f"{config.observer!r} needs no observer")
