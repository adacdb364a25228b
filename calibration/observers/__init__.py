"""Streaming observers: a tensor's values in, its quantization range out."""

from calibration.observers.channels import ChannelObserver, Channels
from calibration.observers.draws import ALL, Draws, Turns
from calibration.observers.histogram import Histogram
from calibration.observers.image_set import ImageSet, ImageSetObserver
from calibration.observers.moments import MomentObserver
from calibration.observers.observers import (
    HARD_SWISH_FLOOR,
    HistogramObserver,
    MovingAverageObserver,
    Observer,
    make_observer,
)
from calibration.observers.ranges import error_range, kl_range, percentile_range

__all__ = [
    "ALL",
    "HARD_SWISH_FLOOR",
    "ChannelObserver",
    "Channels",
    "Draws",
    "Histogram",
    "HistogramObserver",
    "ImageSet",
    "ImageSetObserver",
    "MomentObserver",
    "MovingAverageObserver",
    "Observer",
    "Turns",
    "error_range",
    "kl_range",
    "make_observer",
    "percentile_range",
]
