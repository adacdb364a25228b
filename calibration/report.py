"""The per-layer table of a calibration: range, grid, SQNR and clipped share of every tensor."""

import math
from typing import Any

import numpy as np
import torch
from torch import fx

from calibration.range_search import useful_rows
from calibration.statistics import Statistics
from qmnv3.quant.affine import fake_quantize
from qmnv3.quant.sites import Site, read_sites

Row = dict[str, Any]


def layer_table(prepared: fx.GraphModule, statistics: Statistics) -> list[Row]:
    """One row per site of a frozen model, in execution order.

    Columns: `site`, `kind`, `activation`, `equalized`, `observed_low`/`observed_high` (seen in float),
    `low`/`high` (what the grid covers), `scale`, `zero_point`, `sqnr_db` (this tensor's own rounding and
    clipping error), `clipped_percent` (values outside the grid; before h-swish those below -3 count as -3),
    `predicted_kl` (what that does to the network's prediction), `weight_sqnr_db` for layers. All are of the
    tensor as it is deployed. A value that cannot be had (an all-zero tensor has no SQNR) is None.
    """
    sites = read_sites(prepared)
    return [_row(site, useful_rows(site, sites, statistics), statistics) for site in sites]


def sqnr_db(signal_power: float, noise_power: float) -> float | None:
    """Signal to quantization noise ratio in dB; None for a zero signal or an exact result."""
    if signal_power <= 0.0 or noise_power <= 0.0:
        return None
    return 10.0 * math.log10(signal_power / noise_power)


def _row(site: Site, values: torch.Tensor, statistics: Statistics) -> Row:
    qparams = site.fake_quant.qparams
    assert qparams is not None
    ends = qparams.dequantize(np.array([qparams.qmin, qparams.qmax]))
    channels = statistics.channels(site)
    error = fake_quantize(values, qparams) - values
    outside = (values < float(ends[0])) | (values > float(ends[1]))
    return {
        "site": site.name,
        "kind": site.kind,
        "activation": site.activation,
        "equalized": site.fake_quant.factors is not None,
        "observed_low": float(channels.low.min()),
        "observed_high": float(channels.high.max()),
        "low": float(ends[0]),
        "high": float(ends[1]),
        "scale": float(qparams.scale),
        "zero_point": int(qparams.zero_point),
        "sqnr_db": sqnr_db(float(values.double().square().sum()), float(error.double().square().sum())),
        "clipped_percent": 100.0 * float(outside.float().mean()),
        "predicted_kl": float(error.double().square().mean(0) @ statistics.fisher(site).double()) / 2.0
        if statistics.has_fisher
        else None,
        "weight_sqnr_db": _weight_sqnr(site),
    }


def _weight_sqnr(site: Site) -> float | None:
    if site.layer is None or site.weight_fake_quant is None:
        return None
    weight = site.layer.weight.detach()
    grid = site.weight_fake_quant.qparams(weight)
    real = weight.numpy().astype(np.float64)
    error = grid.dequantize(grid.quantize(real)) - real
    return sqnr_db(float(np.square(real).sum()), float(np.square(error).sum()))
