"""Sensitivity analysis: what the rounding of each tensor alone does to the network's prediction.

Each activation tensor and each layer's weight is tried in two ways: rounded alone in a float network ("one"),
and left out of a fully rounded one ("all_but_one"). Both are measured at the logits against the reference:
the same network without any rounding, equalized if the recipe says so. Equalization through h-swish without
a gate is not exact, so how far the reference and the fully rounded network are from the float network itself
is measured beside, once.

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
from torch import fx

from calibration.equalization import weight_kl
from calibration.logit_errors import (
    KL,
    FloatArray,
    Interval,
    agreement_interval,
    compare,
    logits_sqnr_db,
    mean_interval,
    spread,
)
from calibration.progress import Progress, silent
from calibration.ranges import PREDICTED_KL
from calibration.report import layer_table
from calibration.statistics import Images, ImageSource, Statistics, to_nchw
from calibration.sweep import Sweep, Switch, SwitchKind, read_switches
from qmnv3.errors import CalibrationError
from qmnv3.quant.sites import read_sites

Mode = Literal["one", "all_but_one"]
Trial = tuple[Switch, Mode]
Wholes = tuple[FloatArray, FloatArray, FloatArray]
MODES: tuple[Mode, ...] = ("one", "all_but_one")
PASSES_PER_SITE = 0.3
LARGEST_CHUNK = 20
REFERENCE = "the network without rounding, equalized as the recipe says"


@dataclass(frozen=True)
class Sensitivity:
    """What one switch does, on the first `images` images.

    `sqnr_db` (None when exact), `kl` (nats) and `agreement` (of top-1, Wilson interval) compare the logits
    with the reference's. `kl_added` is what this rounding is answerable for: the whole of `kl` in mode "one",
    by how much the fully rounded network's KL is larger on the same images in mode "all_but_one".
    `predicted_kl` is what Fisher information says it should be.
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
    """All rows, the most surely harmful first within each mode, and the fully rounded network beside them.

    `sqnr_db`, `kl` and `agreement` are against the `reference`; `reference_kl` is the KL divergence of the
    reference from the float network, `float_kl` that of the fully rounded network from it. `passes` is the
    executed work as a multiple of one forward pass over all `images`.
    """

    rows: tuple[Sensitivity, ...]
    images: int
    sites: int
    passes: float
    sqnr_db: float | None
    kl: Interval
    agreement: Interval
    reference_kl: Interval
    float_kl: Interval
    reference: str = REFERENCE

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
        raise CalibrationError(f"{statistics.count} image is too few to measure rounding by; give 100")
    sweep = Sweep(prepared)
    switches = [s for s in read_switches(prepared) if s.kind in kinds and (sites is None or s.site in sites)]
    trials: list[Trial] = [(switch, mode) for mode in MODES if mode in modes for switch in switches]
    known = read_sites(prepared)
    # The reference, the fully rounded and the float network run once each.
    budget = max(passes_per_site * len(known) - len(MODES) - 1, 0.0) * statistics.count
    measured = _measure(sweep, trials, statistics, budget, progress)
    predicted = _predicted(prepared, statistics)
    rows = [_row(trial, measured, predicted) for trial in trials]
    rows.sort(key=lambda row: (MODES.index(row.mode), -_at_least(row.kl_added)))
    whole = measured.rounded
    return Analysis(
        tuple(rows),
        len(whole),
        len(known),
        sweep.executed / sweep.work / len(whole),
        logits_sqnr_db(whole),
        mean_interval(whole[:, KL]),
        agreement_interval(whole),
        mean_interval(measured.reference_from_float[:, KL]),
        mean_interval(measured.rounded_from_float[:, KL]),
    )


def measure_alone(
    prepared: fx.GraphModule, statistics: Statistics, sites: Collection[str], progress: Progress = silent
) -> dict[str, Interval]:
    """KL divergence that rounding each of these activation tensors alone adds, by site."""
    modes: tuple[Mode, ...] = ("one",)
    kinds: tuple[SwitchKind, ...] = ("activation",)
    analysis = analyse(prepared, statistics, modes=modes, kinds=kinds, sites=sites, progress=progress)
    return {row.site: row.kl_added for row in analysis.rows}


def allocate(spread: FloatArray, cost: FloatArray, budget: float, most: int) -> list[int]:
    """Sample sizes, one for each trial, so that the summed variance of their means is least.

    `spread` are standard deviations and `cost` prices of one sample. n_i is proportional to
    spread_i / sqrt(cost_i), from 1 to `most`; sum(n_i * cost_i) is at most `budget`, unless 1 each is more.
    Source: Neyman 1934, optimal allocation.
    """
    if most * cost.sum() <= budget:
        return [most] * len(cost)
    worth = spread / np.sqrt(cost)

    def counts(factor: float) -> npt.NDArray[np.int64]:
        return np.clip(factor * worth, 1, most).astype(np.int64)

    low, high = 0.0, most / max(float(worth[worth > 0].min(initial=np.inf)), 1e-300)
    for _ in range(100):
        middle = (low + high) / 2.0
        low, high = (middle, high) if counts(middle) @ cost <= budget else (low, middle)
    return [int(n) for n in counts(low)]


@dataclass(frozen=True)
class _Measured:
    """Per image [n, 4]: of every trial and the fully rounded network; and both ends against float."""

    trials: dict[Trial, FloatArray]
    rounded: FloatArray
    reference_from_float: FloatArray
    rounded_from_float: FloatArray

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
    wholes: list[Wholes] = []
    chunks_due = [1] * len(trials)
    with progress("measuring sensitivity", statistics.count) as advance:
        for index, chunk in enumerate(_chunks(statistics.images, size)):
            due = [trial for trial, n in zip(trials, chunks_due, strict=True) if n > index]
            wholes.append(_run_chunk(sweep, statistics.network, to_nchw(chunk), due, results))
            if index == 0:
                first = _joined(results, wholes)
                spreads = np.array([spread(first.added(trial)) for trial in trials])
                chunks_due = _allocate_modes(
                    trials, spreads, cost * size, budget, -(-statistics.count // size)
                )
            advance(len(chunk))
    return _joined(results, wholes)


def _allocate_modes(
    trials: list[Trial], spread: FloatArray, cost: FloatArray, budget: float, most: int
) -> list[int]:
    """`allocate` with half of the budget for each mode: all_but_one's larger spread must not take it all."""
    counts = np.ones(len(trials), np.int64)
    for mode in {mode for _, mode in trials}:
        of_mode = np.array([m == mode for _, m in trials])
        share = budget / len({mode for _, mode in trials})
        counts[of_mode] = allocate(spread[of_mode], cost[of_mode], share, most)
    return counts.tolist()


def _run_chunk(
    sweep: Sweep,
    network: fx.GraphModule,
    images: torch.Tensor,
    due: list[Trial],
    results: dict[Trial, list[FloatArray]],
) -> Wholes:
    """Add the results of the trials that are `due`; returns those of whole networks, as in `_Measured`."""
    reference, one = sweep.run(images, False, [switch for switch, mode in due if mode == "one"])
    logits, others = sweep.run(images, True, [switch for switch, mode in due if mode == "all_but_one"])
    flipped = {(s, "one"): found for s, found in one.items()}
    flipped |= {(s, "all_but_one"): found for s, found in others.items()}
    for trial in due:
        results[trial].append(compare(reference, flipped[trial]))
    exact = sweep.run_other(network, images)
    return compare(reference, logits), compare(exact, reference), compare(exact, logits)


def _joined(results: dict[Trial, list[FloatArray]], wholes: list[Wholes]) -> _Measured:
    joined = {trial: np.concatenate(parts) for trial, parts in results.items() if parts}
    return _Measured(joined, *(np.concatenate(parts) for parts in zip(*wholes, strict=True)))


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
        logits_sqnr_db(values),
        float(values[:, KL].mean()),
        agreement_interval(values),
        mean_interval(measured.added(trial)),
        predicted.get((switch.site, switch.kind)),
    )


def _at_least(value: Interval) -> float:
    """Lower end: sorted by estimates, those of the fewest images would lead by luck."""
    return value.estimate if value.low is None else value.low


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
    # The range search takes the error of an h-swish input behind h-swish, where most of it vanishes.
    searched = prepared.meta.get(PREDICTED_KL, {})
    found |= {(name, "activation"): float(value) for name, value in searched.items()}
    for site in sites:
        if site.layer is not None:
            ones = torch.ones(channels[site.inputs[0]])
            found[site.name, "weight"] = weight_kl(site, ones, sites, statistics, corrected=False)
    return found
