"""Scales that are no scales, too fine for what is computed, or too coarse for it."""

from collections.abc import Iterator

import numpy as np

from device_eval.lint.description import Model, Op, Tensor, short
from device_eval.lint.finding import Finding
from device_eval.lint.layers import Layer, layers, reachable
from device_eval.lint.patterns import gates

DEAD_SPAN = 1e-5
"""A range this narrow is a converter's stand-in for "always 0" (TFLiteConverter writes 2e-6)."""

COARSE_RATIO = 1.001
"""One step of the exact integer result per output step; a file that floors its scales by its largest
weight scale has exactly 1."""

FEW_LEVELS = 16


def invalid_scales(model: Model) -> Iterator[Finding]:
    """Scales that are 0, negative, subnormal, infinite or NaN."""
    for tensor in model.tensors.values():
        grid = tensor.grid
        if grid is None or grid.valid:
            continue
        bad = ~(np.isfinite(grid.scale) & (grid.scale >= np.finfo(np.float32).tiny))
        what = f"{grid.zero_point.size} zero points for {grid.scale.size} scales"
        if bad.any():
            what = (
                f"scale {grid.scale[bad][0]:.3g} ({int(bad.sum())} of {grid.scale.size} scales are unusable)"
            )
        yield Finding(
            "invalid-scale",
            "error",
            "refused",
            f"tensor {short(tensor.name)}",
            what,
            "a scale must be a positive, normal float32; XNNPACK takes no operation with this tensor, and "
            "other kernels compute nonsense",
            "quantize again with a smallest scale; qmnv3 floors scales when it freezes them",
        )


def dead_scales(model: Model) -> Iterator[Finding]:
    """Activations whose range is (nearly) nothing, or finer than all that their layer can compute."""
    coarse = {layer.op.index: _coarse(layer) for layer in layers(model)}
    for op in model.ops:
        output = model.output(op)
        if output is None or not output.quantized:
            continue
        low, high = output.span
        channels, live, ratio = coarse.get(op.index, (0, 0, 0.0))
        if high - low >= DEAD_SPAN and not 0 < live == channels:
            continue
        finer = f"; one step of its exact result is up to {ratio:.4g} output steps" if channels else ""
        yield Finding(
            "dead-scale",
            "warning",
            "accuracy",
            model.where(op),
            f"output scale {output.scale:.3g}, a range of {low:.3g} .. {high:.3g}{finer}",
            "it was (nearly) always 0 in calibration: an image on which it is not saturates it at once, and "
            "what reads it has an absurd bias scale too",
            "calibrate with more varied images and floor the scale at input scale x largest weight scale "
            "(`qmnv3 ptq` does)",
            1 / (high - low),
        )


def coarse_weights(model: Model) -> Iterator[Finding]:
    """Channels where one step of weight times input is over one output step, in a layer that is not dead."""
    for layer in layers(model):
        channels, live, ratio = _coarse(layer)
        low, high = layer.output.span
        if not channels or channels == live or high - low < DEAD_SPAN:
            continue
        yield Finding(
            "coarse-weights",
            "warning",
            "accuracy",
            model.where(layer.op),
            f"in {channels} of {live} channels with weights one step of the exact result is more than one "
            f"output step (up to {ratio:.4g})",
            "the weight scale was raised, to fit a large bias or by an outlier: weights round to a few steps",
            "choose weight scales by the weights; a dead scale before the layer makes its bias large",
            ratio,
        )


def _coarse(layer: Layer) -> tuple[int, int, float]:
    """Channels with too coarse a ratio, channels with any weights, and the largest ratio of these."""
    live = layer.weight.any(axis=1)
    ratio = layer.ratio[live]
    return int((ratio > COARSE_RATIO).sum()), int(live.sum()), float(ratio.max(initial=0.0))


def unreachable_ranges(model: Model) -> Iterator[Finding]:
    """Activations of which the operation can provably reach only a few levels."""
    reach = {layer.op.index: reachable(layer) for layer in layers(model)}
    # A gate's range is fixed at [0, 6], whatever can be reached.
    fixed = {gate.tensor.name for gate in gates(model)}
    for op in model.ops:
        output = model.output(op)
        if output is None or not output.quantized or output.name in fixed:
            continue
        ends = reach.get(op.index)
        levels = float(ends[1].max() - ends[0].min()) if ends is not None else _elementwise(model, op, output)
        if levels is None or not 0 < levels < FEW_LEVELS:
            continue
        bottom, top = output.limits
        yield Finding(
            "wide-range",
            "warning",
            "accuracy",
            model.where(op),
            f"{short(output.name)} (scale {output.scale:.3g}) can take at most {levels + 1:.0f} of its "
            f"{top - bottom + 1} levels, whatever the input",
            "the range is far wider than what the operation can compute: needlessly coarse rounding",
            "calibrate again, or give the tensor the range its inputs imply",
            1 / levels,
        )


def _elementwise(model: Model, op: Op, output: Tensor) -> float | None:
    operands = [tensor for tensor in model.operands(op) if tensor.quantized]
    if op.kind not in ("Add", "Mul") or len(operands) != 2 or len(op.inputs) != 2:
        return None
    (a, b), (c, d) = (_ends(tensor) for tensor in operands)
    products = (a * c, a * d, b * c, b * d)
    ends = (a + c, b + d) if op.kind == "Add" else (min(products), max(products))
    low, high = output.span
    return float(np.clip(ends[1], low, high) - np.clip(ends[0], low, high)) / output.scale


def _ends(tensor: Tensor) -> tuple[float, float]:
    reals = tensor.reals
    return tensor.span if reals is None or not reals.size else (float(reals.min()), float(reals.max()))
