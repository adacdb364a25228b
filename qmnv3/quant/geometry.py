"""How a layer's window moves over its input."""

from torch import nn

from qmnv3.ir import Padding
from qmnv3.ir.shapes import same_padding
from qmnv3.models.padding import Conv2dSame


def layer_geometry(
    layer: nn.Conv2d | nn.Linear, input_shape: tuple[int, ...]
) -> tuple[tuple[int, int], Padding, tuple[int, int]]:
    """Stride, padding and dilation of a layer for an input [N, C, H, W] (or [N, C])."""
    if isinstance(layer, nn.Linear):
        return (1, 1), Padding(), (1, 1)
    stride, dilation = _pair(layer.stride), _pair(layer.dilation)
    kernel = _pair(layer.kernel_size)
    if isinstance(layer, Conv2dSame) or layer.padding == "same":
        extent = tuple((k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True))
        return stride, same_padding(input_shape[2], input_shape[3], (extent[0], extent[1]), stride), dilation
    if layer.padding == "valid":
        return stride, Padding(), dilation
    vertical, horizontal = _pair(layer.padding)  # type: ignore[arg-type]
    return stride, Padding(vertical, vertical, horizontal, horizontal), dilation


def _pair(value: tuple[int, ...]) -> tuple[int, int]:
    first, second = value
    return int(first), int(second)
