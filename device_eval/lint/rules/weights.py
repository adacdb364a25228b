"""Weights with one scale for channels of very different size."""

from collections.abc import Iterator

import numpy as np

from device_eval.lint.description import FloatArray, Model
from device_eval.lint.finding import Finding
from device_eval.lint.layers import layers

FEW_LEVELS = 16
"""A channel that uses fewer integer steps than this has lost its weights' precision: 4 bits or less."""


def per_tensor_weights(model: Model) -> Iterator[Finding]:
    """Per-tensor depthwise weights, and other per-tensor weights that leave some channels few steps."""
    for layer in layers(model):
        grid = layer.weight_tensor.grid
        if grid is None or grid.per_channel or len(layer.weight) == 1:
            continue
        depthwise = layer.op.kind == "DepthwiseConv"
        largest = np.abs(layer.weight).max(axis=1)
        starved = int(((largest > 0) & (largest < FEW_LEVELS)).sum())
        if not depthwise and not starved:
            continue
        yield Finding(
            "per-tensor-weights",
            "warning" if starved else "note",
            "accuracy",
            model.where(layer.op),
            f"one weight scale for {len(largest)} channels; {_spread(largest)}; {starved} channels use fewer "
            f"than {FEW_LEVELS} steps",
            "small channels keep few integer levels: unless the network was trained with that, it costs "
            "accuracy, most of all in depthwise layers",
            "use one scale per output channel (qmnv3's default; `per_channel=True` in ONNX Runtime)",
            _ratio(largest) + starved,
        )


def _ratio(largest: FloatArray) -> float:
    alive = largest[largest > 0]
    return float(alive.max() / alive.min()) if alive.size else 1.0


def _spread(largest: FloatArray) -> str:
    alive = largest[largest > 0]
    if not alive.size:
        return "all weights are 0"
    ends = f"from {alive.min():.0f} to {alive.max():.0f} steps"
    return f"the channels' largest weights are {ends} ({_ratio(largest):.3g} to 1)"
