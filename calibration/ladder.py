"""The recovery ladder: climb from min-max upwards until the quantized network is as good as was asked for.

Each rung is judged on images that calibration did not see, without labels: by how often it agrees with the
float network, by KL divergence, and by the drop in accuracy the float network itself expects. Where the two
disagree, float gives its own choice the probability p and the quantized one's q; taken at its word it loses
p - q of a correct answer on that image.
"""

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import fx

from calibration.config import PtqConfig
from calibration.progress import Progress, silent
from calibration.ptq import Calibration, Observed, quantize
from calibration.statistics import ImageSource, to_nchw
from qmnv3.errors import CalibrationError
from qmnv3.quant.fake_quant import fake_quant

LEVEL_NAMES = (
    "min-max",
    "range search",
    "equalization",
    "bias correction",
    "AdaRound",
    "block reconstruction",
)
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Fidelity:
    """How near a quantized network is to its float parent on `images` images.

    `agreement` in [0, 1], `kl` in nats, `drop` the estimated loss of top-1 in points with its 95 % interval
    (bootstrap over images).
    """

    images: int
    agreement: float
    kl: float
    drop: float
    drop_low: float
    drop_high: float


@dataclass(frozen=True)
class Rung:
    """One level tried: how long it took and what it reached."""

    level: int
    name: str
    seconds: float
    fidelity: Fidelity


@dataclass(frozen=True)
class Climb:
    """The rungs tried, the calibration of the best of them, and whether it met the target."""

    rungs: tuple[Rung, ...]
    calibration: Calibration
    config: PtqConfig
    reached: bool

    def to_json(self) -> list[dict[str, Any]]:
        """One object per rung."""
        return [asdict(rung) for rung in self.rungs]


def ladder(config: PtqConfig) -> tuple[PtqConfig, ...]:
    """The recipe at every level, lowest first."""
    return tuple(config.model_copy(update={"level": level}) for level in range(len(LEVEL_NAMES)))


def climb(
    observed: Observed,
    held_out: ImageSource,
    config: PtqConfig,
    target_drop: float,
    progress: Progress = silent,
    folder: Path | None = None,
) -> Climb:
    """Try level after level on `observed` until the estimated drop is at most `target_drop` points.

    The estimate itself decides, not its interval. Without such a rung the one with the least estimated drop
    is kept, of equals the one with the least KL divergence. `folder` as in `ptq.quantize`.
    """
    rungs: list[Rung] = []
    best: tuple[tuple[float, float], Calibration, PtqConfig] | None = None
    for attempt in ladder(config):
        started = time.perf_counter()
        calibration = quantize(observed, attempt, progress, folder)
        seconds = time.perf_counter() - started
        fidelity = measure(calibration.model, calibration.parent, held_out, config.seed)
        rungs.append(Rung(attempt.level, LEVEL_NAMES[attempt.level], seconds, fidelity))
        if fidelity.drop <= target_drop:
            return Climb(tuple(rungs), calibration, attempt, True)
        score = fidelity.drop, fidelity.kl
        if best is None or score < best[0]:
            best = (score, calibration, attempt)
    assert best is not None
    return Climb(tuple(rungs), best[1], best[2], False)


@torch.inference_mode()
def measure(prepared: fx.GraphModule, parent: fx.GraphModule, images: ImageSource, seed: int) -> Fidelity:
    """Compare a frozen model with its float parent; CalibrationError without images."""
    pairs = list(_predictions(prepared, parent, images))
    if not pairs:
        raise CalibrationError("no images held out to measure on; give more images")
    exact, rounded = (torch.cat(side) for side in zip(*pairs, strict=True))
    kl = (exact.exp() * (exact - rounded)).sum(1)
    lost = exact.exp().gather(1, exact.argmax(1)[:, None]) - exact.exp().gather(1, rounded.argmax(1)[:, None])
    points = 100.0 * lost[:, 0].double().numpy()
    low, high = _interval(points, seed)
    agreement = (exact.argmax(1) == rounded.argmax(1)).double().mean()
    return Fidelity(len(points), float(agreement), float(kl.double().mean()), float(points.mean()), low, high)


def _predictions(
    prepared: fx.GraphModule, parent: fx.GraphModule, images: ImageSource
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    with fake_quant(prepared):
        for batch in images():
            inputs = to_nchw(batch)
            yield parent(inputs).log_softmax(1), prepared(inputs).log_softmax(1)


def _interval(points: np.ndarray[Any, np.dtype[np.float64]], seed: int) -> tuple[float, float]:
    if len(points) < 2 or np.ptp(points) == 0.0:
        return float(points.mean()), float(points.mean())
    found = stats.bootstrap(
        (points,), np.mean, confidence_level=CONFIDENCE, method="percentile", rng=np.random.default_rng(seed)
    )
    return float(found.confidence_interval.low), float(found.confidence_interval.high)
