"""Ranges from what each tensor alone showed: min-max, percentile, MSE, KL and moving average."""

from collections.abc import Mapping

from torch import fx

from calibration.config import ActivationConfig
from calibration.observers import Histogram, HistogramObserver, make_observer
from calibration.range_search import Range, useful_floor
from calibration.statistics import Observer, Statistics
from qmnv3.errors import CalibrationError
from qmnv3.quant.sites import Site, read_sites


def make_observers(prepared: fx.GraphModule, config: ActivationConfig) -> dict[str, Observer]:
    """An observer for every site without a fixed grid; none where min-max or range search needs none."""
    if config.observer in ("minmax", "search"):
        return {}
    return {s.name: make_observer(config) for s in read_sites(prepared) if not s.fake_quant.fixed}


def observed_ranges(
    prepared: fx.GraphModule, statistics: Statistics, observers: Mapping[str, Observer]
) -> dict[str, Range]:
    """Range of every site without a fixed grid: its observer's, else from its smallest to its largest value.

    Nothing reaches below where all that reads it is 0: -3 for h-swish.
    """
    sites = read_sites(prepared)
    ranges = {}
    for site in sites:
        if site.fake_quant.fixed:
            continue
        low, high = _range(site, statistics, observers.get(site.name))
        floor = useful_floor(site, sites)
        if floor is not None:
            low = max(low, float(floor.min()))
        ranges[site.name] = (low, high)
    return ranges


def _range(site: Site, statistics: Statistics, observer: Observer | None) -> Range:
    channels = statistics.channels(site)
    if observer is None:
        return float(channels.low.min()), float(channels.high.max())
    if site.fake_quant.factors is None:
        return observer.range()
    if not isinstance(observer, HistogramObserver):
        raise CalibrationError(
            f"{site.name}: moving_average saw it before equalization; take another observer or level 1"
        )
    histogram = Histogram()
    histogram.update(channels.rows)
    return observer.choose(histogram)
