"""Predicted time of an int8 operation, to weigh accuracy against speed before anything is deployed.

A linear model of XNNPACK's int8 kernels inside MobileNetV3-Small, one thread of an x86 core with AVX512-VNNI.
An h-swish that is not equalized is a function of one int8 tensor, and XNNPACK makes a table lookup of its ADD
and MUL. Only ratios matter here: on other cores the times differ, the order of the operations hardly.
`qmnv3 bench` measures.
"""

from math import prod

from qmnv3.quant.sites import Site

_NS_PER_MAC = 0.0055
_NS_PER_VALUE = 0.2
_NS_PER_TAP = 0.046
_NS_PER_LOOKUP = 0.1
# What a depthwise gate and a MUL take beyond a lookup, in whole networks; less while the tensor fits in L1.
_NS_PER_GATED_VALUE, _NS_PER_GATED_VALUE_IN_L1, _L1_VALUES = 0.36, 0.24, 32768


def predicted_us(site: Site) -> float:
    """Microseconds to compute a site's tensor; an equalized h-swish includes its depthwise gate."""
    values = prod(site.output_shape)
    if site.kind in ("input", "flatten"):
        return 0.0
    if site.kind == "mean":
        return 1e-3 * _NS_PER_TAP * prod(site.input_shape)
    if site.kind == "logistic":
        return 1e-3 * _NS_PER_LOOKUP * values
    if site.hard_swish is not None:
        return 1e-3 * _NS_PER_LOOKUP * values + (0.0 if site.hard_swish.factors is None else gate_us(site))
    if site.layer is None:
        return 1e-3 * _NS_PER_VALUE * values
    per_value = prod(site.layer.weight.shape[1:])
    if site.depthwise:
        return 1e-3 * (_NS_PER_VALUE + _NS_PER_TAP * per_value) * values
    return 1e-3 * (_NS_PER_VALUE + _NS_PER_MAC * per_value) * values


def gate_us(site: Site) -> float:
    """Microseconds that an equalized h-swish takes, as depthwise gate and MUL, beyond a table lookup."""
    values = prod(site.output_shape)
    return 1e-3 * (_NS_PER_GATED_VALUE_IN_L1 if values <= _L1_VALUES else _NS_PER_GATED_VALUE) * values
