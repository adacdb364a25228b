"""Post-training quantization: float model and images in, frozen fake-quantized model and report out."""

import copy
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn

from calibration import (
    adaround,
    analytic_bias,
    bias_correction,
    checkpoints,
    equalization,
    mixed_precision,
    ranges,
    reconstruction,
)
from calibration.algorithm import Algorithm
from calibration.config import PtqConfig
from calibration.coverage import LayerCoverage, coverage_layers, coverage_warnings
from calibration.freeze import FlooredScale
from calibration.observed_ranges import make_observers
from calibration.progress import Progress, silent
from calibration.report import layer_table, sqnr_db
from calibration.shares import Share
from calibration.statistics import Images, ImageSource, Need, Statistics, collect, to_nchw
from qmnv3.preprocessing import Preprocessing
from qmnv3.quant.fake_quant import fake_quant
from qmnv3.quant.prepare import prepare


@dataclass(frozen=True)
class Calibration:
    """Result of `calibrate`: the frozen model, its float parent (prepared alike) and what was seen.

    `coverage` says what is wrong with the images, one line each; `coverage_layers` counts by layer.
    """

    model: fx.GraphModule
    parent: fx.GraphModule
    statistics: Statistics
    layers: list[dict[str, Any]]
    floored: tuple[FlooredScale, ...]
    logits: dict[str, Any]
    coverage: tuple[str, ...]
    coverage_layers: tuple[LayerCoverage, ...]

    @property
    def images(self) -> int:
        """How many images were used."""
        return self.statistics.count

    def to_json(self) -> dict[str, Any]:
        """Everything but the models."""
        return {
            "images": self.images,
            "coverage": list(self.coverage),
            "coverage_layers": [asdict(layer) for layer in self.coverage_layers],
            "logits": self.logits,
            "floored_scales": [asdict(f) for f in self.floored],
            "equalization": self.model.meta.get(equalization.REPORT, []),
            "equalization_cost": self.model.meta.get(equalization.COST),
            "analytic_bias": self.model.meta.get(analytic_bias.REPORT),
            "int16": self.model.meta.get(mixed_precision.REPORT),
            "reconstruction": self.model.meta.get(reconstruction.REPORT, []),
            "layers": self.layers,
        }


@dataclass(frozen=True)
class Observed:
    """A prepared float model and what one pass over the images showed of it."""

    parent: fx.GraphModule
    statistics: Statistics


def calibrate(
    model: nn.Module,
    preprocessing: Preprocessing,
    images: ImageSource,
    config: PtqConfig,
    progress: Progress = silent,
    folder: Path | None = None,
    share: Share | None = None,
) -> Calibration:
    """Prepare `model`, look at it on `images` in one pass, then apply the algorithms of `config.level`.

    `images` is called once for every pass that is needed. Memory does not grow with their number: what does
    not fit lies in temporary files. Raises CalibrationError for no images and for NaN or infinity in a
    tensor, naming it. `folder` as in `quantize`, `share` as in `collect`.
    """
    observed = observe(model, preprocessing, images, (config,), progress, share)
    return quantize(observed, config, progress, folder)


def observe(
    model: nn.Module,
    preprocessing: Preprocessing,
    images: ImageSource,
    configs: Sequence[PtqConfig],
    progress: Progress = silent,
    share: Share | None = None,
) -> Observed:
    """Collect what the algorithms of all `configs` need; these differ in nothing but their level.

    `share` as in `collect`.
    """
    config = configs[-1]
    prepared = prepare(model, preprocessing, config.weights.granularity, config.weights.bits)
    prepared = prepared.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    prepared.requires_grad_(False)
    mixed_precision.check(prepared, config)
    statistics = collect(
        prepared,
        images,
        frozenset[Need]().union(*(step.needs(each) for each in configs for step in algorithms(each))),
        observers=make_observers(prepared, config.activations) if config.level else {},
        expected=config.images,
        seed=config.seed,
        progress=progress,
        share=share,
    )
    return Observed(prepared, statistics)


def quantize(
    observed: Observed, config: PtqConfig, progress: Progress = silent, folder: Path | None = None
) -> Calibration:
    """Apply the algorithms of `config.level` to a copy of the observed model.

    Block reconstruction keeps finished blocks in `folder`: called again after a kill, it goes on from there.
    """
    prepared = copy.deepcopy(observed.parent)
    prepared.meta[checkpoints.FOLDER] = folder
    for step in algorithms(config):
        step.apply(prepared, observed.statistics, config, progress)
    covered = coverage_layers(observed.parent, observed.statistics)
    return Calibration(
        prepared,
        observed.parent,
        observed.statistics,
        layer_table(prepared, observed.statistics),
        prepared.meta[ranges.FLOORED],
        _compare_logits(prepared, observed.parent, next(iter(observed.statistics.images()))),
        coverage_warnings(observed.statistics.image_set, covered),
        covered,
    )


def algorithms(config: PtqConfig) -> tuple[Algorithm, ...]:
    """What each level runs, in order: a level does what the one below does, and one thing more."""
    steps: list[Algorithm] = []
    if config.level >= 2 or config.equalization.always:
        steps.append(equalization)
    steps.append(ranges)
    if mixed_precision.wanted(config.int16):
        steps.append(mixed_precision)
    if config.level >= 3:
        if config.bias_correction.method == "analytic":
            steps.append(analytic_bias)
        steps.append(bias_correction)
    if config.level >= 4:
        steps.append(adaround)
    if config.level >= 5:
        steps.append(reconstruction)
    return tuple(steps)


@torch.inference_mode()
def _compare_logits(prepared: fx.GraphModule, parent: fx.GraphModule, batch: Images) -> dict[str, Any]:
    """How far the frozen model's logits are from float's on the first batch."""
    images = to_nchw(batch)
    reference = parent(images).double()
    with fake_quant(prepared):
        quantized = prepared(images).double()
    noise = (quantized - reference).square().sum()
    agree = (quantized.argmax(1) == reference.argmax(1)).float().mean()
    return {
        "images": len(images),
        "sqnr_db": sqnr_db(float(reference.square().sum()), float(noise)),
        "top1_agreement": float(agree),
    }
