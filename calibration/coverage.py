"""Whether calibration images are any good: what is wrong with the set, in one line each.

Three questions need no labels and no reference data: is every image worth having; does every channel of the
network get to vary; and do layers give what their BatchNorm saw in training? A channel is *shifted* when its
mean lies more than one promised standard deviation from the promised mean, and *narrow* when it varies less
than half as much as promised, both before the activation. It is *dead* when it holds one value on the whole
set behind the activation, and no BatchNorm says that it should. In % of the channels of all layers (with a
BatchNorm, for the first two) of the data pack's networks:

| images | V3-Small: shifted | narrow | dead | V2: shifted | narrow | dead |
| --- | --- | --- | --- | --- | --- | --- |
| imagenet/calib, 200 | 0.0 | 0.2 | 2.4 | 0.0 | 0.0 | 0.0 |
| imagenet/val, 200 | 0.0 | 0.2 | 2.5 | 0.0 | 0.0 | 0.0 |
| imagenette, 50 | 0.2 | 0.5 | 2.5 | 0.3 | 0.3 | 0.0 |
| imagenet/calib, 5 | 0.0 | 0.6 | 3.4 | 0.0 | 1.0 | 0.0 |
| 1 image (three tried) | 1.4-2.0 | 3-5 | 45 | 2.4-3.1 | 18-23 | 7-8 |
| 50 times one image | 0.9 | 5.3 | 15 | 1.4 | 8.1 | 2.0 |
| all black | 18 | 79 | 45 | 21 | 48 | 21 |
| half of them black | 1.6 | 0.2 | 2.5 | 2.2 | 0.3 | 0.0 |
| dark (pixels times 0.2) | 1.4 | 8.4 | 2.6 | 1.0 | 4.0 | 0.0 |
| blurred, radius 4 pixels | 2.8 | 6.7 | 2.7 | 3.3 | 6.9 | 0.1 |
| blurred, radius 16 pixels | 9.6 | 48 | 4.0 | 10 | 33 | 1.0 |
| handwritten digits, 50 | 8.1 | 35 | 4.6 | 8.7 | 19 | 0.8 |
| uniform noise, 50 | 13 | 55 | 5.6 | 12 | 67 | 5.9 |
| pixels not divided by 255 | 94 | 1.0 | 17 | 46 | 12 | 3.6 |
| inverted colours, 50 (red and blue swapped alike) | 0.0 | 0.2 | 2.5 | 0.1 | 0.2 | 0.0 |

So each limit below is passed by what is wrong and kept by real photos. Colours do not show: these networks
take inverted or swapped ones much as they take others.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from scipy.stats import norm
from torch import fx

from calibration.observers import ImageSet
from calibration.statistics import Statistics
from qmnv3.quant.sites import Site, read_sites

# KL divergence from float on 300 other images, V3-Small at level 3, by images: 1: 0.66 and 0.21 (two
# tried), 10: 0.070, 20: 0.052, 50: 0.043, 100: 0.047, 200: 0.045.
FEW_IMAGES, RECOMMENDED_IMAGES = 50, 200
_SHIFTED_LIMIT, _NARROW_LIMIT, _DEAD_LIMIT = 0.05, 0.05, 0.05
_SHIFT_STDS, _NARROW_RATIO = 1.0, 0.5
# Collections of photos hold some grey ones.
_GREY_LIMIT = 0.5
# So many layers are named in a warning; calibration.json has all.
_NAMED = 3
# A channel meant to vary less, or to be active more rarely, says nothing about the images.
_SMALLEST_STD, _SMALLEST_ACTIVITY = 1e-3, 0.05


@dataclass(frozen=True)
class LayerCoverage:
    """How many of a layer's channels are dead, and shifted and narrow of those `promised` by a BatchNorm."""

    layer: str
    channels: int
    promised: int
    dead: int
    shifted: int
    narrow: int


def coverage_layers(prepared: fx.GraphModule, statistics: Statistics) -> tuple[LayerCoverage, ...]:
    """Every layer, in execution order."""
    return tuple(_layer(site, statistics) for site in read_sites(prepared) if site.kind == "layer")


def coverage_warnings(image_set: ImageSet, layers: Sequence[LayerCoverage]) -> tuple[str, ...]:
    """What is wrong with the images, and what to do; empty for a good set."""
    return (*_image_warnings(image_set), *_dead_warnings(layers), *_promise_warnings(layers))


def _image_warnings(images: ImageSet) -> Iterator[str]:
    if images.distinct < images.count:
        yield (
            f"calibration images: only {images.distinct} of {images.count} differ; duplicates add nothing, "
            "replace them by other images"
        )
    if images.distinct < FEW_IMAGES:
        yield (
            f"calibration images: no more than {images.distinct} different; ranges and biases follow chance, "
            f"give {RECOMMENDED_IMAGES}"
        )
    if images.plain:
        yield (
            f"calibration images: {images.plain} of {images.count} show one plain colour (black, for "
            "example); remove them"
        )
    if images.grey > _GREY_LIMIT * images.count:
        yield (
            f"calibration images: {images.grey} of {images.count} are grey; give images in colour, if the "
            "network will see colours"
        )


def _dead_warnings(layers: Sequence[LayerCoverage]) -> Iterator[str]:
    share = sum(layer.dead for layer in layers) / max(sum(layer.channels for layer in layers), 1)
    if share > _DEAD_LIMIT:
        yield (
            f"coverage: {100 * share:.0f} % of the channels never vary on these images, so their ranges "
            f"are unknown; give more and more varied images ({_most(layers, 'dead')})"
        )


def _promise_warnings(layers: Sequence[LayerCoverage]) -> Iterator[str]:
    promised = max(sum(layer.promised for layer in layers), 1)
    shifted = sum(layer.shifted for layer in layers) / promised
    narrow = sum(layer.narrow for layer in layers) / promised
    if shifted > _SHIFTED_LIMIT:
        yield (
            f"domain: the mean of {100 * shifted:.0f} % of the channels is more than one standard deviation "
            "from what BatchNorm saw in training; use images like those the network is for, and check that "
            f"mean and std of the preprocessing belong to these weights ({_most(layers, 'shifted')})"
        )
    if narrow > _NARROW_LIMIT:
        yield (
            f"coverage: {100 * narrow:.0f} % of the channels vary less than half as much as BatchNorm saw in "
            f"training; ranges will be too narrow, give more varied images ({_most(layers, 'narrow')})"
        )


def _most(layers: Sequence[LayerCoverage], fault: str) -> str:
    """The layers with the most such channels, for people."""
    worst = sorted(layers, key=lambda layer: -getattr(layer, fault))[:_NAMED]
    told = [f"{layer.layer} {getattr(layer, fault)} of {layer.channels}" for layer in worst]
    return "most in " + ", ".join(told)


def _layer(site: Site, statistics: Statistics) -> LayerCoverage:
    dead = _dead(site, statistics)
    told, seen = site.normal, statistics.moments.get(site.name)
    promised = shifted = narrow = torch.zeros_like(dead)
    if told is not None and seen is not None:
        promised = told.std > _SMALLEST_STD
        shifted = ((seen.mean - told.mean).abs() > _SHIFT_STDS * told.std) & promised
        narrow = (seen.std < _NARROW_RATIO * told.std) & promised
    counts = (int(flags.sum()) for flags in (promised, dead, shifted, narrow))
    return LayerCoverage(site.name, len(dead), *counts)


def _dead(site: Site, statistics: Statistics) -> torch.Tensor:
    """Channels [C] that hold one value on all images although no BatchNorm says they should."""
    channels = statistics.channels(site)
    dead = channels.low == channels.high
    if site.normal is None:
        return dead
    activity = torch.ones_like(dead, dtype=torch.float64)
    if site.activation in ("relu", "relu6"):
        std = site.normal.std.double().clamp(min=_SMALLEST_STD)
        activity = torch.from_numpy(norm.cdf((site.normal.mean.double() / std).numpy()))
    return dead & (site.normal.std > _SMALLEST_STD) & (activity > _SMALLEST_ACTIVITY)
