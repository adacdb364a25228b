"""The per-layer table of a calibration: range, grid, SQNR and clipped share of every tensor."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import fx

from calibration.observers import Histogram
from qmnv3.ir import QParams
from qmnv3.quant.fake_quant import WeightFakeQuantize
from qmnv3.quant.sites import Site, read_sites

Row = dict[str, Any]


def layer_table(prepared: fx.GraphModule) -> list[Row]:
    """One row per site of a frozen model whose observers are still attached, in execution order.

    Columns: `site`, `kind`, `activation`, `observed_low`/`observed_high` (seen in float), `low`/`high` (what
    the grid covers), `scale`, `zero_point`, `sqnr_db` (this tensor's own rounding and clipping error),
    `clipped_percent` (values outside the grid), `weight_sqnr_db` for layers. A value that cannot be had (a
    fixed grid is not observed; an all-zero tensor has no SQNR) is None.
    """
    return [_row(site) for site in read_sites(prepared)]


def sqnr_db(signal_power: float, noise_power: float) -> float | None:
    """Signal to quantization noise ratio in dB; None for a zero signal or an exact result."""
    if signal_power <= 0.0 or noise_power <= 0.0:
        return None
    return 10.0 * math.log10(signal_power / noise_power)


def _row(site: Site) -> Row:
    qparams = site.fake_quant.qparams
    assert qparams is not None
    ends = qparams.dequantize(np.array([qparams.qmin, qparams.qmax]))
    observer = site.fake_quant.observer
    histogram: Histogram | None = getattr(observer, "histogram", None)
    observed = histogram is not None and not histogram.empty
    return {
        "site": site.name,
        "kind": site.kind,
        "activation": site.activation,
        "observed_low": histogram.low if histogram and observed else None,
        "observed_high": histogram.high if histogram and observed else None,
        "low": float(ends[0]),
        "high": float(ends[1]),
        "scale": float(qparams.scale),
        "zero_point": int(qparams.zero_point),
        "sqnr_db": _histogram_sqnr(histogram, qparams) if histogram and observed else None,
        "clipped_percent": _clipped_percent(histogram, ends) if histogram and observed else None,
        "weight_sqnr_db": _weight_sqnr(site),
    }


def _histogram_sqnr(histogram: Histogram, qparams: QParams) -> float | None:
    values, counts = histogram.centers(), histogram.counts
    error = qparams.dequantize(qparams.quantize(values)) - values
    return sqnr_db(float((values**2 * counts).sum()), float((error**2 * counts).sum()))


def _clipped_percent(histogram: Histogram, ends: npt.NDArray[np.float32]) -> float:
    values = histogram.centers()
    outside = histogram.counts[(values < ends[0]) | (values > ends[1])].sum()
    return float(100.0 * outside / histogram.counts.sum())


def _weight_sqnr(site: Site) -> float | None:
    if site.layer is None:
        return None
    weight = site.layer.weight.detach()
    grid = WeightFakeQuantize(site.weight_axis).qparams(weight)
    real = weight.numpy().astype(np.float64)
    error = grid.dequantize(grid.quantize(real)) - real
    return sqnr_db(float(np.square(real).sum()), float(np.square(error).sum()))
