"""The observers: each streams one tensor in constant memory and proposes its range."""

from array import array
from collections.abc import Callable, Sequence
from itertools import chain, zip_longest

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

    def state(self) -> dict[str, torch.Tensor]:
        """All that was seen."""
        return self.histogram.state()

    def merge(self, states: Sequence[dict[str, torch.Tensor]]) -> None:
        """Become the observer that saw all batches of those with these states."""
        self.histogram = Histogram.merged(states)


class MovingAverageObserver:
    """Exponential moving average of each batch's minimum and maximum (Jacob et al. 2018, section 3.1).

    It keeps 16 bytes of every batch, its ends: of several processes' batches the average is that in the order
    in which one process would have seen them.
    """

    def __init__(self, momentum: float) -> None:
        self.histogram = Histogram()
        self.momentum = momentum
        self._lows, self._highs = array("d"), array("d")

    def update(self, values: torch.Tensor) -> None:
        """Take in a batch."""
        self.histogram.update(values)
        low, high = (float(v) for v in torch.aminmax(values))
        self._lows.append(low)
        self._highs.append(high)

    def range(self) -> Range:
        """The averaged ends: momentum * range + (1 - momentum) * the batch's range, batch after batch.

        (0, 0) before the first batch.
        """
        if not self._lows:
            return 0.0, 0.0
        low, high = self._lows[0], self._highs[0]
        for batch_low, batch_high in zip(self._lows[1:], self._highs[1:], strict=True):
            low = self.momentum * low + (1 - self.momentum) * batch_low
            high = self.momentum * high + (1 - self.momentum) * batch_high
        return low, high

    def state(self) -> dict[str, torch.Tensor]:
        """All that was seen."""
        ranges = torch.tensor([*zip(self._lows, self._highs, strict=True)], dtype=torch.float64)
        return self.histogram.state() | {"ranges": ranges.reshape(-1, 2)}

    def merge(self, states: Sequence[dict[str, torch.Tensor]]) -> None:
        """Become the observer that saw the batches of those with these states, which took turns."""
        self.histogram = Histogram.merged(states)
        turns = zip_longest(*(state["ranges"].tolist() for state in states))
        ends = list(filter(None, chain.from_iterable(turns)))
        self._lows = array("d", (low for low, _ in ends))
        self._highs = array("d", (high for _, high in ends))


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
