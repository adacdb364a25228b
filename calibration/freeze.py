"""Observed ranges to frozen scales, with a floor so that a dead tensor does not get a dead scale."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import fx

from qmnv3.errors import CalibrationError
from qmnv3.quant.affine import HARD_SWISH_GATE_QPARAMS, asymmetric_qparams, int16_qparams, is_int16
from qmnv3.quant.sites import Site, read_sites

Range = tuple[float, float]
# XNNPACK takes an ADD only where input scale / output scale lies in [2^-10, 2^8); stay a factor 2 inside.
ADD_RATIO_MIN, RATIO_MAX = 2.0**-9, 2.0**7
# An int8 grid holds 256 steps; one of 512 int16 steps per int8 step cannot come from a range that was seen.
_FINEST = 1 / 512


@dataclass(frozen=True)
class FlooredScale:
    """A site whose observed range would have given a scale no integer runtime accepts."""

    site: str
    observed_low: float
    observed_high: float
    scale: float


def freeze(prepared: fx.GraphModule, ranges: Mapping[str, Range]) -> tuple[FlooredScale, ...]:
    """Give every site without a fixed grid the qparams of its range; returns the floored ones.

    A site that is int16 already stays so. Raises CalibrationError for a site without a range.
    """
    sites = read_sites(prepared)
    for site in sites:
        if site.layer is not None and site.weight_fake_quant is not None and site.weight_fake_quant.bits == 4:
            # Searched, not read off the weight: once is enough.
            site.weight_fake_quant.freeze(site.layer.weight)
    missing = [site.name for site in sites if not site.fake_quant.fixed and site.name not in ranges]
    if missing:
        raise CalibrationError(f"{missing[0]}: has no range; calibrate before freezing")
    wide = [site for site in sites if not site.fake_quant.fixed and is_int16(site.fake_quant.qparams)]
    required: dict[str, float] = {}
    floors = _assign_scales(sites, ranges, required)
    # A raised scale raises the floors of what reads it, so all are chosen anew until no ADD asks for more.
    while more := _required_by_adds(sites, floors):
        required |= more
        floors = _assign_scales(sites, ranges, required)
    floored = tuple(
        FlooredScale(site.name, *ranges[site.name], _scale_of(site))
        for site in sites
        if site.name in floors and floors[site.name] > _span(ranges[site.name]) / 255
    )
    for site in wide:
        widen(site, ranges[site.name])
    return floored


def widen(site: Site, limits: Range) -> None:
    """Make a site int16, which has an int8 grid."""
    site.fake_quant.qparams = int16_qparams(*limits, floor=_scale_of(site) * _FINEST)


def _scale_of(site: Site) -> float:
    """Scale of a site that has its grid."""
    assert site.fake_quant.qparams is not None
    return float(site.fake_quant.qparams.scale)


def _assign_scales(
    sites: Sequence[Site], ranges: Mapping[str, Range], required: dict[str, float]
) -> dict[str, float]:
    """Give every observed site its grid in execution order; returns the floor each scale respects."""
    floors: dict[str, float] = {}
    scales: dict[str, float] = {}
    for site in sites:
        if not site.fake_quant.fixed:
            floor = _scale_floor(site, scales, _span(ranges[site.name]))
            floors[site.name] = max(floor, required.get(site.name, 0.0))
            site.fake_quant.qparams = asymmetric_qparams(*ranges[site.name], floor=floors[site.name])
        scales[site.name] = _scale_of(site)
    return floors


def _required_by_adds(sites: Sequence[Site], floors: dict[str, float]) -> dict[str, float]:
    """Scales that inputs of an ADD lack for the ratio to its output that XNNPACK accepts.

    h-swish is such an ADD too: its gate relu6(x + 3).
    """
    scales = {site.name: _scale_of(site) for site in sites}
    required: dict[str, float] = {}
    for site in sites:
        equalized = site.hard_swish is not None and site.hard_swish.factors is not None
        if site.kind in ("add", "hard_swish") and not equalized:  # whose gate is a depthwise convolution
            output = scales[site.name] if site.kind == "add" else float(HARD_SWISH_GATE_QPARAMS.scale)
            for name in floors.keys() & set(site.inputs):
                if scales[name] < output * ADD_RATIO_MIN * 0.999:  # the scale itself is float32
                    required[name] = max(required.get(name, 0.0), output * ADD_RATIO_MIN)
    return required


def _span(limits: Range) -> float:
    return max(limits[1], 0.0) - min(limits[0], 0.0)


def _scale_floor(site: Site, known: dict[str, float], span: float) -> float:
    """Smallest output scale of a site whose range is `span` wide, by one step of its layer's exact result.

    The middle channel's: a finer output grid shows nothing more of half of the channels. The other half may
    need it, so the largest step, a dead channel's perhaps, only has to stay below XNNPACK's ratio of 256.
    Where the range does not even reach the middle step nothing was seen, and every channel's step must do.
    For ADD and MEAN the bound is the runtime's own.
    """
    scales = [known[name] for name in site.inputs]
    if site.layer is not None and site.weight_fake_quant is not None:
        steps = scales[0] * site.weight_fake_quant.qparams(site.layer.weight).scale
        largest, middle = float(steps.max()), float(np.median(steps))
        return largest if span < middle else max(middle, largest / RATIO_MAX)
    if site.kind == "mul":
        return scales[0] * scales[1]
    if site.kind == "hard_swish":
        return scales[0] * float(HARD_SWISH_GATE_QPARAMS.scale) / 6.0
    return max(scales, default=0.0) / RATIO_MAX
