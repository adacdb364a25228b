"""Whether samples can be trusted: warmed up, free of drift, of one level from begin to end."""

from collections.abc import Sequence

import numpy as np
from scipy.stats import spearmanr

MIN_SAMPLES = 10
"""Fewer cannot show drift."""

_WINDOW = 5
_SETTLED = 0.03
_DRIFT = 0.05
_CHANCE = 0.001
_BLOCKS = 5
_SPREAD = 0.10


def settled(samples_us: Sequence[float]) -> bool:
    """Whether the medians of the last five samples and of the five before differ by at most 3 %."""
    if len(samples_us) < 2 * _WINDOW:
        return False
    before, last = np.median(np.reshape(samples_us[-2 * _WINDOW :], (2, _WINDOW)), axis=1)
    return bool(abs(last - before) <= _SETTLED * before)


def noise(samples_us: Sequence[float]) -> str | None:
    """Why samples, in the order taken, are not to be trusted; None when steady or fewer than `MIN_SAMPLES`.

    Drift: time and latency are correlated in rank (Spearman) beyond chance, and the medians of both halves
    differ by more than 5 %. Changing level: the medians of five consecutive blocks differ by more than 10 %.
    Single slow runs, which every machine has, move neither.
    """
    if len(samples_us) < MIN_SAMPLES:
        return None
    values = np.asarray(samples_us, np.float64)
    medians = [float(np.median(block)) for block in np.array_split(values, _BLOCKS)]
    first, second = (float(np.median(half)) for half in np.array_split(values, 2))
    if abs(second - first) > _DRIFT * first and spearmanr(range(len(values)), values).pvalue < _CHANCE:
        return f"drifts: median {_ms(first)} ms in the first half, {_ms(second)} in the second"
    if max(medians) - min(medians) > _SPREAD * float(np.median(values)):
        return f"changes level: medians of fifths from {_ms(min(medians))} to {_ms(max(medians))} ms"
    return None


def _ms(us: float) -> str:
    return f"{us / 1000:.3g}"
