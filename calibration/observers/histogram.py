"""A streaming histogram whose bins are powers of two wide, so that refining and merging are exact."""

import math
from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt
import torch

MAX_BINS = 4096
FINEST_EXPONENT = -126


class Histogram:
    """Counts of real values in constant memory, whatever the number of batches.

    Bin i covers [i * width, (i + 1) * width) with width = 2**exponent, the smallest power of two that keeps
    the range seen so far within `MAX_BINS` bins and is no finer than float32 at the range's larger end.
    Because bins of one width nest in those of the next, the result depends on neither the order nor the
    batching of the values, and `merge` is exact.
    """

    def __init__(self) -> None:
        self.low = math.inf
        self.high = -math.inf
        self.exponent = FINEST_EXPONENT
        self.first_bin = 0
        self.counts: npt.NDArray[np.int64] = np.zeros(0, np.int64)

    @property
    def empty(self) -> bool:
        """Whether no value was seen."""
        return self.counts.size == 0

    def update(self, values: torch.Tensor) -> None:
        """Count all elements of a float tensor; ValueError when one is NaN or infinite."""
        flat = _in_memory_order(values)
        low, high = (float(v) for v in torch.aminmax(flat))
        if not (math.isfinite(low) and math.isfinite(high)):
            raise ValueError("NaN or infinity in the activations; check the weights and the input images")
        self._cover(low, high)
        # Multiplying by a power of two is exact, so every value lands in its own bin.
        bins = flat.mul(2.0**-self.exponent).floor_().sub_(self.first_bin).to(torch.int16)
        self.counts += torch.bincount(bins, minlength=self.counts.size).numpy()

    def state(self) -> dict[str, torch.Tensor]:
        """All that was counted."""
        return {
            "ends": torch.tensor([self.low, self.high], dtype=torch.float64),
            "grid": torch.tensor([self.exponent, self.first_bin]),
            "counts": torch.from_numpy(self.counts),
        }

    @staticmethod
    def merged(states: Iterable[Mapping[str, torch.Tensor]]) -> "Histogram":
        """The histogram of all that those with these states counted."""
        whole = Histogram()
        for state in states:
            part = Histogram()
            part.low, part.high = state["ends"].tolist()
            part.exponent, part.first_bin = state["grid"].tolist()
            part.counts = state["counts"].numpy()
            whole.merge(part)
        return whole

    def merge(self, other: "Histogram") -> None:
        """Add another histogram's counts, exactly."""
        if other.empty:
            return
        copy = Histogram()
        copy.__dict__.update(other.__dict__)
        self._cover(other.low, other.high)
        copy._coarsen(self.exponent)
        start = copy.first_bin - self.first_bin
        self.counts[start : start + copy.counts.size] += copy.counts

    def centers(self) -> npt.NDArray[np.float64]:
        """Representative value of each bin: its middle, but 0 for the bin that starts at 0 (ReLU's zeros)."""
        indices = np.arange(self.first_bin, self.first_bin + self.counts.size)
        return np.where(indices == 0, 0.0, (indices + 0.5) * 2.0**self.exponent)

    def _cover(self, low: float, high: float) -> None:
        if self.low <= low and high <= self.high:
            return
        self.low, self.high = min(self.low, low), max(self.high, high)
        exponent = max(self.exponent, _resolution(max(-self.low, self.high)))
        while _bins(self.low, self.high, exponent) > MAX_BINS:
            exponent += 1
        self._coarsen(exponent)
        first = math.floor(self.low * 2.0**-exponent)
        counts = np.zeros(_bins(self.low, self.high, exponent), np.int64)
        if not self.empty:
            start = self.first_bin - first
            counts[start : start + self.counts.size] = self.counts
        self.first_bin, self.counts = first, counts

    def _coarsen(self, exponent: int) -> None:
        if self.empty:
            self.exponent = exponent
            return
        factor = exponent - self.exponent
        indices = np.arange(self.first_bin, self.first_bin + self.counts.size) >> factor
        self.counts = np.bincount(indices - indices[0], weights=self.counts).astype(np.int64)
        self.first_bin, self.exponent = int(indices[0]), exponent


def _in_memory_order(values: torch.Tensor) -> torch.Tensor:
    """All elements as one dimension, without a copy where an NCHW tensor is channels_last."""
    return (values.permute(0, 2, 3, 1) if values.dim() == 4 else values).reshape(-1)


def _resolution(magnitude: float) -> int:
    """Exponent of the spacing of float32 values at `magnitude`."""
    return math.frexp(magnitude)[1] - 24 if magnitude else FINEST_EXPONENT


def _bins(low: float, high: float, exponent: int) -> int:
    return math.floor(high * 2.0**-exponent) - math.floor(low * 2.0**-exponent) + 1
