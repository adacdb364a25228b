"""How far quantized logits are from float's, image by image, and what that says of all images."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy.stats import binomtest

from calibration.report import sqnr_db

FloatArray = npt.NDArray[np.float64]
_NORMAL_95 = 1.96
# Columns of what is measured of an image: power of the error, power of float's logits, KL, same top-1.
NOISE, SIGNAL, KL, AGREES = range(4)


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95 % interval; that of one image alone is not known."""

    estimate: float
    low: float | None
    high: float | None


def compare(reference: torch.Tensor, logits: torch.Tensor) -> FloatArray:
    """NOISE, SIGNAL, KL(reference || logits) and AGREES of each image [n, 4]."""
    reference, logits = reference.double(), logits.double()
    target, found = reference.log_softmax(1), logits.log_softmax(1)
    columns = (
        (logits - reference).square().sum(1),
        reference.square().sum(1),
        (target.exp() * (target - found)).sum(1).clamp(min=0.0),
        (logits.argmax(1) == reference.argmax(1)).double(),
    )
    return torch.stack(columns, 1).numpy()


def spread(values: FloatArray) -> float:
    """Standard deviation of one image; 0 when there is only one."""
    return float(values.std(ddof=1)) if len(values) > 1 else 0.0


def mean_interval(values: FloatArray) -> Interval:
    """Mean with its interval by the normal distribution."""
    mean = float(values.mean())
    if len(values) < 2:
        return Interval(mean, None, None)
    half = _NORMAL_95 * spread(values) / len(values) ** 0.5
    return Interval(mean, mean - half, mean + half)


def agreement_interval(values: FloatArray) -> Interval:
    """Share of images with float's top-1, Wilson interval."""
    agreeing = int(values[:, AGREES].sum())
    wilson = binomtest(agreeing, len(values)).proportion_ci(0.95, method="wilson")
    return Interval(agreeing / len(values), float(wilson.low), float(wilson.high))


def logits_sqnr_db(values: FloatArray) -> float | None:
    """SQNR of the logits over all images; None when they are exact."""
    return sqnr_db(float(values[:, SIGNAL].sum()), float(values[:, NOISE].sum()))
