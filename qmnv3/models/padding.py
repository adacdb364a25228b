"""TensorFlow's SAME padding for convolutions with a stride."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, fx, nn


def same_padding_1d(size: int, kernel: int, stride: int, dilation: int) -> tuple[int, int]:
    """Pixels TensorFlow adds before and after an axis of `size` pixels; the odd one goes after."""
    extent = (kernel - 1) * dilation + 1
    total = max((-(-size // stride) - 1) * stride + extent - size, 0)
    return total // 2, total - total // 2


def conv2d_same(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """2-D convolution of NCHW `x` with TensorFlow SAME padding; output is ceil(size / stride) pixels."""
    top, bottom = same_padding_1d(x.shape[2], weight.shape[2], stride[0], dilation[0])
    left, right = same_padding_1d(x.shape[3], weight.shape[3], stride[1], dilation[1])
    if (top, left) == (bottom, right):
        return F.conv2d(x, weight, bias, stride, (top, left), dilation, groups)
    return F.conv2d(F.pad(x, (left, right, top, bottom)), weight, bias, stride, 0, dilation, groups)


# The padding depends on the input size, which torch.fx cannot trace: keep the function one node.
fx.wrap("conv2d_same")


class Conv2dSame(nn.Conv2d):
    """`nn.Conv2d` padded as TensorFlow SAME from the input size; the same state-dict keys."""

    def forward(self, input: Tensor) -> Tensor:
        """NCHW in, NCHW out with ceil(size / stride) pixels per side."""
        return conv2d_same(input, self.weight, self.bias, self.stride, self.dilation, self.groups)
