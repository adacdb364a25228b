"""Choosing a quantization range from a histogram: pure functions, vectorised over candidate ranges."""

import numpy as np
import numpy.typing as npt
from scipy.special import rel_entr

from calibration.observers.histogram import Histogram

Array = npt.NDArray[np.float64]
Range = tuple[float, float]
LEVELS = 256
_SMOOTHING = 1e-4
# Candidate ends as fractions of the observed ones; below a tenth clipping dominates for any real tensor.
_FRACTIONS = np.linspace(0.1, 1.0, 91)


def percentile_range(histogram: Histogram, percentile: float) -> Range:
    """Range that leaves (100 - percentile)/2 % of the values out at each end; percentile in (50, 100]."""
    mass = np.cumsum(histogram.counts) / histogram.counts.sum()
    tail = (1.0 - percentile / 100.0) / 2.0
    centers = histogram.centers()
    low = centers[np.searchsorted(mass, tail, side="right").clip(max=mass.size - 1)]
    high = centers[np.searchsorted(mass, 1.0 - tail, side="left").clip(max=mass.size - 1)]
    return max(float(low), histogram.low), min(float(high), histogram.high)


def error_range(histogram: Histogram) -> Range:
    """Range with the least mean squared quantization error, searched over both ends."""
    seen = histogram.counts > 0
    values, weights = histogram.centers()[seen], histogram.counts[seen].astype(np.float64)
    low, high = min(histogram.low, 0.0), max(histogram.high, 0.0)

    def best(lows: Array, highs: Array) -> int:
        error = _quantize(values, lows[:, None], highs[:, None]) - values
        return int(np.argmin(np.square(error) @ weights))

    lows, highs = low * _FRACTIONS, high * _FRACTIONS
    chosen = (low, high)
    for _ in range(2):  # each end in turn, twice: the ends interact only through the step size
        previous_low = chosen[0]
        high_end = highs[best(np.full_like(highs, previous_low), highs)]
        chosen = (float(lows[best(lows, np.full_like(lows, high_end))]), float(high_end))
        if chosen[0] == previous_low:
            break
    return chosen


def kl_range(histogram: Histogram) -> Range:
    """Range whose quantized distribution has the least KL divergence from the observed one.

    Both ends shrink together; mass outside is clipped into the end bins, as in NVIDIA's 8-bit inference
    calibration (GTC 2017), extended to ranges that are not symmetric.
    """
    counts = histogram.counts.astype(np.float64)
    values = histogram.centers()
    low, high = min(histogram.low, 0.0), max(histogram.high, 0.0)
    fractions = _FRACTIONS[::-1]
    divergences = [_kl_of_clipping(values, counts, low * f, high * f) for f in fractions]
    fraction = float(fractions[int(np.argmin(divergences))])
    return low * fraction, high * fraction


def _kl_of_clipping(values: Array, counts: Array, low: float, high: float) -> float:
    inside = (values >= low) & (values <= high)
    if not counts[inside].sum():
        return float("inf")
    reference = np.where(inside, counts, 0.0)
    first, last = np.flatnonzero(inside)[[0, -1]]
    reference[first] += counts[:first].sum()
    reference[last] += counts[last + 1 :].sum()
    # Each of the 256 levels spreads its mass evenly over the bins it stands for that hold any.
    step = max(high - low, np.finfo(np.float64).tiny) / (LEVELS - 1)
    level = np.rint((values[inside] - low) / step).astype(np.int64)
    kept = counts[inside]
    mass = np.bincount(level, weights=kept, minlength=LEVELS)
    occupied = np.bincount(level, weights=kept > 0, minlength=LEVELS)
    model = np.where(kept > 0, mass[level] / np.maximum(occupied[level], 1), 0.0)
    if not model.sum():
        return float("inf")
    p, q = reference[inside] / reference.sum(), model / model.sum()
    # Clipped mass may sit on a bin the model leaves empty; smoothing keeps the divergence finite.
    return float(rel_entr(p, (1 - _SMOOTHING) * q + _SMOOTHING / q.size).sum())


def _quantize(values: Array, low: Array, high: Array) -> Array:
    """`values` rounded onto the 256-level grid that covers [low, high] with 0 on it; broadcasts."""
    scale = np.maximum((high - low) / (LEVELS - 1), np.finfo(np.float64).tiny)
    zero_point = np.rint(-low / scale)
    quantized: Array = (np.clip(np.rint(values / scale) + zero_point, 0, LEVELS - 1) - zero_point) * scale
    return quantized
