"""Channels and constants that saturate, as far as the file alone proves it."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from device_eval.lint.description import FloatArray, Model
from device_eval.lint.finding import Finding
from device_eval.lint.layers import Layer, accumulator_bounds, layers, reachable, saturation

BoolArray = npt.NDArray[np.bool_]

INT32_MAX = 2**31 - 1
BIAS_CAP = 2**30
"""Where TFLiteConverter stops: it raises a weight scale until the bias is no larger."""

FEW_LEVELS = 16
AT_ENDS = 0.25
"""Share of a channel's weights at the ends from which they were cut off, not just the largest."""

MIN_TAPS = 16


def accumulator_overflow(model: Model) -> Iterator[Finding]:
    """Layers whose int32 sum can overflow, or whose bias sits at the end of int32."""
    for layer in layers(model):
        low, high = accumulator_bounds(layer)
        if layer.x.is_16_bit:
            # Its sum has 64 bits.
            continue
        largest = np.maximum(-low, high)
        over = np.abs(layer.bias) >= INT32_MAX
        over |= largest > INT32_MAX
        if not over.any():
            continue
        channel = int(largest.argmax())
        yield Finding(
            "accumulator-overflow",
            "error",
            "wrong results",
            model.where(layer.op),
            f"{int(over.sum())} of {over.size} channels can exceed int32: channel {channel} has bias "
            f"{layer.bias[channel]:.0f} and sums up to {largest[channel]:.3g}; int32 ends at {INT32_MAX}",
            "the sum wraps around to the other sign, or the bias was already cut off",
            "raise the input's or the weight's scale; a dead scale before the layer is the usual cause",
            float(largest[channel]),
        )


def saturated_weights(model: Model) -> Iterator[Finding]:
    """Channels with many weights at the ends of the integer range."""
    for layer in layers(model):
        at_ends = _at_ends(layer)
        share = at_ends.mean(axis=1)
        cut = (share > AT_ENDS) & (layer.weight.shape[1] >= MIN_TAPS)
        # Weights of one size, like +1 and -1, sit at the ends without having been cut off.
        cut[cut] = [np.unique(np.abs(row[row != 0])).size > 2 for row in layer.weight[cut]]
        if not cut.any():
            continue
        channel = int((share * cut).argmax())
        yield Finding(
            "saturated-weights",
            "warning",
            "accuracy",
            model.where(layer.op),
            f"{int(cut.sum())} of {cut.size} channels have more than {AT_ENDS:.0%} of their weights at the "
            f"ends of the integer range; channel {channel} has {share[channel]:.0%}",
            "weights were cut off by too small a scale",
            "choose weight scales by the largest weight, or by the error at the layer's output",
            float(share[channel]),
        )


def _at_ends(layer: Layer) -> BoolArray:
    low, high = layer.weight_tensor.limits
    grid = layer.weight_tensor.grid
    zero_point = grid.zero_point[0] if grid is not None else 0
    stored = layer.weight + zero_point
    # Symmetric int8 weights end at -127, not at -128.
    smallest = -high if low < 0 and not zero_point else low
    return np.asarray((stored <= smallest) | (stored >= high))


def constant_channels(model: Model) -> Iterator[Finding]:
    """Channels whose output is the same for every input."""
    for layer in layers(model):
        low, high = reachable(layer)
        constant = low == high
        if not constant.any():
            continue
        yield Finding(
            "constant-channels",
            "note",
            "accuracy",
            model.where(layer.op),
            f"{int(constant.sum())} of {constant.size} channels give one value for every input; "
            + _explanation(layer, constant, low),
            "they cost time and carry nothing; if the float model's channels do vary, quantization lost them",
            "compare with the float weights; prune the channels, or calibrate again",
            float(constant.sum() / constant.size),
        )


def _explanation(layer: Layer, constant: BoolArray, value: FloatArray) -> str:
    dead = constant & ~layer.weight.any(axis=1)
    bottom, top = saturation(layer.output, layer.op.activation)
    capped = dead & (np.abs(layer.bias) >= BIAS_CAP)
    counts = {
        "have only weights of 0": dead,
        "of these a bias of 2^30 steps (a grid fit for the bias is too coarse for the weights)": capped,
        "sit at the lower end": constant & (value == bottom),
        "sit at the upper end": constant & (value == top),
    }
    return ", ".join(f"{int(which.sum())} {text}" for text, which in counts.items() if which.any())


def few_levels(model: Model) -> Iterator[Finding]:
    """Channels that can reach only a few of the levels their tensor has, because others set its range."""
    for layer in layers(model):
        low, high = reachable(layer)
        levels = high - low
        few = (levels > 0) & (levels < FEW_LEVELS)
        if not few.any() or levels.max() < FEW_LEVELS:
            continue
        yield _few(model, layer, int(few.sum()), float(levels[few].min()))


def _few(model: Model, layer: Layer, count: int, least: float) -> Finding:
    return Finding(
        "few-levels",
        "note",
        "accuracy",
        model.where(layer.op),
        f"{count} of {len(layer.weight)} channels can reach fewer than {FEW_LEVELS} levels (least: "
        f"{least + 1:.0f}), whatever the input",
        "one scale serves all channels of an activation, and the largest set it",
        "equalize: move the difference into the next layer's weights (`qmnv3 ptq --level 2` and up)",
        count / len(layer.weight),
    )
