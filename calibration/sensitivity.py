"""Sensitivity analysis: what the rounding of each tensor alone does to the network's prediction.

Each activation tensor and each layer's weight is tried in two ways: rounded alone in a float network ("one"),
and left out of a fully rounded one ("all_but_one"). Both are measured at the logits against float.

Trying each of V3-Small's 153 switches both ways, from the switch on, takes 120 passes over the images. We
spend 30 (0.3 per tensor): every switch sees the first few images, and those whose result is least certain for
its price see more, up to all. Each row says how many images it saw, and its 95 % interval.
"""

from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from scipy.stats import binomtest
from torch import fx

from calibration.equalization import weight_kl
from calibration.progress import Progress, silent
from calibration.report import layer_table, sqnr_db
from calibration.statistics import Images, ImageSource, Statistics, to_nchw
from calibration.sweep import Sweep, Switch, SwitchKind, read_switches
from qmnv3.errors import CalibrationError
from qmnv3.quant.sites import read_sites

Mode = Literal["one", "all_but_one"]
Trial = tuple[Switch, Mode]
FloatArray = npt.NDArray[np.float64]
MODES: tuple[Mode, ...] = ("one", "all_but_one")
PASSES_PER_SITE = 0.3
LARGEST_CHUNK = 20
_NORMAL_95 = 1.96


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95 % interval; that of one image alone is not known."""

    estimate: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Sensitivity:
    """What one switch does, on the first `images` images.

    `sqnr_db` (None when exact), `kl` (nats) and `agreement` (of top-1, Wilson interval) compare the logits
    with float's. `kl_added` is what this rounding is answerable for: the whole of `kl` in mode "one", by how
    much the fully rounded network's KL is larger on the same images in mode "all_but_one". `predicted_kl` is
    what Fisher information says it should be.
    """

    site: str
    kind: SwitchKind
    mode: Mode
    images: int
    sqnr_db: float | None
    kl: float
    agreement: Interval
    kl_added: Interval
    predicted_kl: float | None


@dataclass(frozen=True)
class Analysis:
    """All rows, the most harmful first within each mode, and the fully rounded network beside them.

    `passes` is the executed work as a multiple of one forward pass over all `images`.
    """

    rows: tuple[Sensitivity, ...]
    images: int
    sites: int
    passes: float
    sqnr_db: float | None
    kl: Interval
    agreement: Interval

    def to_json(self) -> dict[str, Any]:
        """As plain numbers, strings and lists."""
        return {**asdict(self), "rows": [asdict(row) for row in self.rows]}


def analyse(
    prepared: fx.GraphModule,
    statistics: Statistics,
    *,
    modes: Collection[Mode] = MODES,
    kinds: Collection[SwitchKind] = ("activation", "weight"),
    sites: Collection[str] | None = None,
    passes_per_site: float = PASSES_PER_SITE,
    progress: Progress = silent,
) -> Analysis:
    """Measure every switch (or those of `sites`) of a frozen network on the images of `statistics`.

    The work stays within `passes_per_site` forward passes over the images for each site of the network
    from some 20 images on. Biases must not be corrected yet: they would make up for rounding that is off.
    Raises CalibrationError for fewer than 2 images.
    """
    if statistics.count < 2:
        raise CalibrationError(f"{statistics.count} image is too few for a sensitivity analysis; give 100")
    sweep = Sweep(prepared)
    switches = [s for s in read_switches(prepared) if s.kind in kinds and (sites is None or s.site in sites)]
    trials: list[Trial] = [(switch, mode) for mode in MODES if mode in modes for switch in switches]
    known = read_sites(prepared)
    budget = max(passes_per_site * len(known) - len(MODES), 0.0) * statistics.count
    measured = _measure(sweep, trials, statistics, budget, progress)
    predicted = _predicted(prepared, statistics)
    rows = [_row(trial, measured, predicted) for trial in trials]
    rows.sort(key=lambda row: (MODES.index(row.mode), -row.kl_added.estimate))
    whole = measured.rounded
    return Analysis(
        tuple(rows),
        len(whole),
        len(known),
        sweep.executed / sweep.work / len(whole),
        _sqnr(whole),
        _mean(whole[:, KL]),
        _agreement(whole),
    )


def allocate(spread: FloatArray, cost: FloatArray, budget: float, most: int) -> list[int]:
    """Sample sizes, one for each trial, so that the summed variance of their means is least.

    `spread` are standard deviations and `cost` prices of one sample. n_i is proportional to
    spread_i / sqrt(cost_i), from 1 to `most`; sum(n_i * cost_i) is at most `budget`, unless 1 each is more.
    Source: Neyman 1934, optimal allocation.
    """
    worth = spread / np.sqrt(cost)

    def counts(factor: float) -> npt.NDArray[np.int64]:
        return np.clip(factor * worth, 1, most).astype(np.int64)

    low, high = 0.0, most / max(float(worth[worth > 0].min(initial=np.inf)), 1e-300)
    for _ in range(100):
        middle = (low + high) / 2.0
        low, high = (middle, high) if counts(middle) @ cost <= budget else (low, middle)
    return [int(n) for n in counts(low)]


# Columns of what is measured of an image: power of the error, power of float's logits, KL, same top-1.
NOISE, SIGNAL, KL, AGREES = range(4)


@dataclass(frozen=True)
class _Measured:
    """Per image [n, 4]: of every trial, and of the fully rounded network."""

    trials: dict[Trial, FloatArray]
    rounded: FloatArray

    def added(self, trial: Trial) -> FloatArray:
        """KL divergence per image that the trial's switch is answerable for."""
        kl = self.trials[trial][:, KL]
        return kl if trial[1] == "one" else self.rounded[: len(kl), KL] - kl


def _measure(
    sweep: Sweep, trials: list[Trial], statistics: Statistics, budget: float, progress: Progress
) -> _Measured:
    """Run all trials on the first chunk of images, then each on as many chunks as it was allocated."""
    cost = np.array([sweep.work_from(switch) / sweep.work for switch, _ in trials])
    # Half of the budget lets every trial see the same images.
    size = int(np.clip(budget / 2.0 / max(cost.sum(), 1e-9), 2, LARGEST_CHUNK))
    results: dict[Trial, list[FloatArray]] = {trial: [] for trial in trials}
    rounded: list[FloatArray] = []
    chunks_due = [1] * len(trials)
    with progress("measuring sensitivity", statistics.count) as advance:
        for index, chunk in enumerate(_chunks(statistics.images, size)):
            due = [trial for trial, n in zip(trials, chunks_due, strict=True) if n > index]
            rounded.append(_run_chunk(sweep, to_nchw(chunk), due, results))
            if index == 0:
                first = _joined(results, rounded)
                spread = np.array([_spread(first.added(trial)) for trial in trials])
                chunks_due = allocate(spread, cost * size, budget, -(-statistics.count // size))
            advance(len(chunk))
    return _joined(results, rounded)


def _run_chunk(
    sweep: Sweep, images: torch.Tensor, due: list[Trial], results: dict[Trial, list[FloatArray]]
) -> FloatArray:
    """Add the results of the trials that are `due`; returns those of the fully rounded network."""
    reference, one = sweep.run(images, False, [switch for switch, mode in due if mode == "one"])
    logits, others = sweep.run(images, True, [switch for switch, mode in due if mode == "all_but_one"])
    flipped = {(s, "one"): found for s, found in one.items()}
    flipped |= {(s, "all_but_one"): found for s, found in others.items()}
    for trial in due:
        results[trial].append(compare(reference, flipped[trial]))
    return compare(reference, logits)


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


def _joined(results: dict[Trial, list[FloatArray]], rounded: list[FloatArray]) -> _Measured:
    joined = {trial: np.concatenate(parts) for trial, parts in results.items() if parts}
    return _Measured(joined, np.concatenate(rounded))


def _chunks(images: ImageSource, size: int) -> Iterator[Images]:
    """All images in chunks of `size`, the last one smaller."""
    held: list[Images] = []
    for batch in images():
        held.append(batch)
        while sum(map(len, held)) >= size:
            joined = np.concatenate(held)
            yield np.ascontiguousarray(joined[:size])
            held = [joined[size:]]
    if sum(map(len, held)):
        yield np.concatenate(held)


def _row(trial: Trial, measured: _Measured, predicted: dict[tuple[str, str], float]) -> Sensitivity:
    switch, mode = trial
    values = measured.trials[trial]
    return Sensitivity(
        switch.site,
        switch.kind,
        mode,
        len(values),
        _sqnr(values),
        float(values[:, KL].mean()),
        _agreement(values),
        _mean(measured.added(trial)),
        predicted.get((switch.site, switch.kind)),
    )


def _predicted(prepared: fx.GraphModule, statistics: Statistics) -> dict[tuple[str, str], float]:
    """Predicted KL divergence by site and kind; empty without Fisher information."""
    if not statistics.has_fisher:
        return {}
    sites = read_sites(prepared)
    channels = {site.name: site.output_shape[1] for site in sites}
    found = {
        (str(row["site"]), "activation"): float(row["predicted_kl"])
        for row in layer_table(prepared, statistics)
    }
    for site in sites:
        if site.layer is not None:
            ones = torch.ones(channels[site.inputs[0]])
            found[site.name, "weight"] = weight_kl(site, ones, sites, statistics)
    return found


def _spread(values: FloatArray) -> float:
    return float(values.std(ddof=1)) if len(values) > 1 else 0.0


def _mean(values: FloatArray) -> Interval:
    """Mean with its interval by the normal distribution."""
    mean = float(values.mean())
    if len(values) < 2:
        return Interval(mean, None, None)
    half = _NORMAL_95 * _spread(values) / len(values) ** 0.5
    return Interval(mean, mean - half, mean + half)


def _agreement(values: FloatArray) -> Interval:
    agreeing = int(values[:, AGREES].sum())
    wilson = binomtest(agreeing, len(values)).proportion_ci(0.95, method="wilson")
    return Interval(agreeing / len(values), float(wilson.low), float(wilson.high))


def _sqnr(values: FloatArray) -> float | None:
    return sqnr_db(float(values[:, SIGNAL].sum()), float(values[:, NOISE].sum()))
