"""Accuracy with intervals, paired comparison, and distances between output distributions."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np
import numpy.typing as npt
from scipy.special import log_softmax
from scipy.stats import binomtest

from device_eval.runners.interface import FloatArray, OutputKind

BoolArray = npt.NDArray[np.bool_]
CONFIDENCE = 0.95
# 8-bit softmax outputs store most classes as 0; half a step of mass is spread over the classes instead.
HIDDEN_MASS = 1 / 512
RESAMPLES = 2000


@dataclass(frozen=True)
class Proportion:
    """`successes` of `trials`, with its 95 % Wilson score interval [low, high]."""

    successes: int
    trials: int
    estimate: float
    low: float
    high: float


@dataclass(frozen=True)
class PairedDifference:
    """Accuracy of one model minus another's on the same images, 95 % interval [low, high].

    `only_this` and `only_other` count images that one alone gets right; `p_value` is McNemar's exact test.
    """

    estimate: float
    low: float
    high: float
    p_value: float
    only_this: int
    only_other: int


def proportion(successes: int, trials: int) -> Proportion:
    """Estimate a proportion from at least one trial. Source: Wilson 1927."""
    interval = binomtest(successes, trials).proportion_ci(CONFIDENCE, method="wilson")
    return Proportion(successes, trials, successes / trials, float(interval.low), float(interval.high))


def paired_difference(this: BoolArray, other: BoolArray) -> PairedDifference:
    """Compare which images two models get right.

    Source: Newcombe 1998, Statistics in Medicine 17:2635, method 10 (Wilson intervals of both, joined with a
    continuity-corrected correlation): it holds at small counts and at differences of 0, where Wald fails.
    """
    both, neither = int((this & other).sum()), int((~this & ~other).sum())
    only_this, only_other = int((this & ~other).sum()), int((~this & other).sum())
    a, b = proportion(both + only_this, len(this)), proportion(both + only_other, len(this))
    phi = _corrected_phi(both, only_this, only_other, neither)
    estimate = a.estimate - b.estimate
    below = _joined(a.estimate - a.low, b.high - b.estimate, phi)
    above = _joined(b.estimate - b.low, a.high - a.estimate, phi)
    discordant = only_this + only_other
    p_value = float(binomtest(only_this, discordant).pvalue) if discordant else 1.0
    return PairedDifference(estimate, estimate - below, estimate + above, p_value, only_this, only_other)


def _corrected_phi(both: int, only_this: int, only_other: int, neither: int) -> float:
    margins = (both + only_this) * (only_other + neither) * (both + only_other) * (only_this + neither)
    product = float(both * neither - only_this * only_other)
    if product > 0:
        product = max(product - (both + only_this + only_other + neither) / 2, 0.0)
    return product / sqrt(margins) if margins else 0.0


def _joined(x: float, y: float, phi: float) -> float:
    return sqrt(max(x * x - 2 * phi * x * y + y * y, 0.0))


def median_ratio(this: Sequence[float], other: Sequence[float]) -> tuple[float, float, float]:
    """Ratio of two samples' medians: estimate, and ends of its 95 % interval by a seeded bootstrap."""
    generator = np.random.default_rng(0)
    medians = [np.median(generator.choice(x, (RESAMPLES, len(x))), axis=1) for x in (this, other)]
    low, high = np.percentile(medians[0] / medians[1], [2.5, 97.5])
    return float(np.median(this) / np.median(other)), float(low), float(high)


def log_probabilities(outputs: FloatArray, kind: OutputKind) -> npt.NDArray[np.float64]:
    """Log class probabilities [N, classes] in nats of a network's outputs.

    Stored probabilities are floored at `HIDDEN_MASS` / classes and renormalised, so none is 0.
    """
    if kind == "logits":
        logits: npt.NDArray[np.float64] = log_softmax(outputs.astype(np.float64), axis=-1)
        return logits
    floored = np.maximum(outputs.astype(np.float64), HIDDEN_MASS / outputs.shape[-1])
    normalised: npt.NDArray[np.float64] = np.log(floored / floored.sum(axis=-1, keepdims=True))
    return normalised


def kl_divergence(
    reference: npt.NDArray[np.float64], approximation: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """KL(reference || approximation) in nats per row, from log probabilities [N, classes]."""
    rows: npt.NDArray[np.float64] = (np.exp(reference) * (reference - approximation)).sum(axis=-1)
    return np.maximum(rows, 0.0)
