"""Integer arithmetic of one layer as far as the file alone decides it."""

from dataclasses import dataclass

import numpy as np

from device_eval.lint.description import LAYERS, FloatArray, Model, Op, Tensor

_TOP = {"relu6": 6.0, "relu_n1_to_1": 1.0}
_BOTTOM = {"relu": 0.0, "relu6": 0.0, "relu_n1_to_1": -1.0}


@dataclass(frozen=True, eq=False)
class Layer:
    """A convolution or fully connected layer with constant weights, all of it quantized.

    `weight` [channels, taps] are integers with the zero point taken off, `weight_scale` and `bias`
    (int32 steps of input scale times weight scale) one per channel.
    """

    op: Op
    x: Tensor
    output: Tensor
    weight_tensor: Tensor
    weight: FloatArray
    weight_scale: FloatArray
    bias: FloatArray

    @property
    def ratio(self) -> FloatArray:
        """Requantization ratio per channel: input scale times weight scale over output scale."""
        return self.x.scale * self.weight_scale / self.output.scale


def layers(model: Model) -> list[Layer]:
    """All layers of `model` whose integers can be read."""
    found = (read_layer(model, op) for op in model.ops if op.kind in LAYERS)
    return [layer for layer in found if layer is not None]


def read_layer(model: Model, op: Op) -> Layer | None:
    """`op` as a Layer; None when it is none or not fully quantized with constant weights."""
    x, weight, output = model.input(op, 0), model.input(op, 1), model.output(op)
    if op.weight_axis is None or x is None or weight is None or output is None:
        return None
    if not (x.quantized and output.quantized) or weight.data is None or weight.grid is None:
        return None
    if weight.data.ndim <= op.weight_axis or not weight.data.size:
        return None
    rows = channel_rows(weight, op.weight_axis)
    grid = weight.grid
    if not grid.valid or weight.is_float or grid.scale.size not in (1, len(rows)):
        return None
    bias = model.input(op, 2)
    steps = np.zeros(len(rows))
    if bias is not None:
        if bias.data is None or bias.is_float or bias.data.size != len(rows):
            return None
        steps = np.asarray(bias.data, np.float64).reshape(-1)
    zero_point = np.broadcast_to(grid.zero_point, len(rows)).astype(np.float64)
    scale = np.broadcast_to(grid.scale, len(rows))
    return Layer(op, x, output, weight, rows - zero_point[:, None], scale, steps)


def channel_rows(weight: Tensor, axis: int) -> FloatArray:
    """Stored weights as float64 [channels, taps]."""
    assert weight.data is not None
    return np.moveaxis(np.asarray(weight.data, np.float64), axis, 0).reshape(weight.data.shape[axis], -1)


def accumulator_bounds(layer: Layer) -> tuple[FloatArray, FloatArray]:
    """Smallest and largest value the int32 sum of each channel can take, over all inputs on the grid."""
    low, high = (float(limit - layer.x.zero_point) for limit in layer.x.limits)
    # Zero padding reads as 0, which always lies between the ends.
    at_low, at_high = layer.weight * low, layer.weight * high
    return (
        np.minimum(at_low, at_high).sum(axis=1) + layer.bias,
        np.maximum(at_low, at_high).sum(axis=1) + layer.bias,
    )


def reachable(layer: Layer) -> tuple[FloatArray, FloatArray]:
    """Smallest and largest output integer each channel can take."""
    low, high = accumulator_bounds(layer)
    bottom, top = saturation(layer.output, layer.op.activation)
    ends = (np.rint(sums * layer.ratio) + layer.output.zero_point for sums in (low, high))
    smallest, largest = (np.clip(end, bottom, top) for end in ends)
    return smallest, largest


def saturation(output: Tensor, activation: str) -> tuple[int, int]:
    """Integers between which a quantized output is clamped: its type's, or tighter by the activation."""
    low, high = output.limits
    if activation in _BOTTOM:
        low = max(low, output.zero_point + round(_BOTTOM[activation] / output.scale))
    if activation in _TOP:
        high = min(high, output.zero_point + round(_TOP[activation] / output.scale))
    return low, max(low, high)
