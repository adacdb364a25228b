"""Predicted time of an int8 operation, to weigh accuracy against speed before anything is deployed.

A linear model of XNNPACK's int8 kernels, one thread of an x86 core with AVX512-VNNI (from chains of one
operation over the shapes of MobileNetV3-Small). Only ratios matter here: on other cores the times
differ, the order of the operations hardly. `qmnv3 bench` measures.
"""

from math import prod

from qmnv3.quant.sites import Site

_NS_PER_MAC = 0.0055
_NS_PER_VALUE = 0.2
_NS_PER_TAP = 0.046


def predicted_us(site: Site) -> float:
    """Microseconds to compute a site's tensor; an equalized h-swish includes its depthwise gate."""
    values = prod(site.output_shape)
    if site.kind in ("input", "flatten"):
        return 0.0
    if site.kind == "mean":
        return 1e-3 * _NS_PER_TAP * prod(site.input_shape)
    if site.layer is None:
        equalized = site.hard_swish is not None and site.hard_swish.factors is not None
        return 1e-3 * _NS_PER_VALUE * values + (gate_us(site) if equalized else 0.0)
    per_value = prod(site.layer.weight.shape[1:])
    if site.depthwise:
        return 1e-3 * (_NS_PER_VALUE + _NS_PER_TAP * per_value) * values
    return 1e-3 * (_NS_PER_VALUE + _NS_PER_MAC * per_value) * values


def gate_us(site: Site) -> float:
    """Microseconds that an equalized h-swish's depthwise gate takes beyond a saturating ADD."""
    return 1e-3 * (_NS_PER_VALUE + _NS_PER_TAP) * prod(site.output_shape)
