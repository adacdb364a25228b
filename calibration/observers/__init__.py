"""Streaming observers: a tensor's values in, its quantization range out."""

from calibration.observers.channels import ChannelObserver, Channels
from calibration.observers.histogram import Histogram
from calibration.observers.observers import (
    HARD_SWISH_FLOOR,
    HistogramObserver,
    MovingAverageObserver,
    Observer,
    hard_swish_input_observer,
    hard_swish_output_observer,
    make_observer,
)
from calibration.observers.ranges import error_range, kl_range, percentile_range

__all__ = [
    "HARD_SWISH_FLOOR",
    "ChannelObserver",
    "Channels",
    "Histogram",
    "HistogramObserver",
    "MovingAverageObserver",
    "Observer",
    "error_range",
    "hard_swish_input_observer",
    "hard_swish_output_observer",
    "kl_range",
    "make_observer",
    "percentile_range",
]
