"""Convolutions of few channels as convolutions of pixel pairs, which XNNPACK runs faster.

XNNPACK's int8 kernels on x86 take 8 channels of a tap at a time, so the 3 channels of an image are mostly
padding. Two neighbouring pixels read as one of 6 channels are the same bytes, and a window that moves by two
pixels moves by one pair: a 3x3 kernel has 6 taps of 6 channels instead of 9 of 3. The integers that come out
are the same.
"""

from dataclasses import replace

import numpy as np

from qmnv3.ir import Conv2d, Op, PixelPairs, QuantGraph, Tensor
from qmnv3.ir.graph import Array
from qmnv3.ir.shapes import output_shape

MOST_CHANNELS = 4
"""Of a pixel: a pair then has 8 at most."""


def pair_pixels(graph: QuantGraph) -> QuantGraph:
    """Let each int8 convolution that moves by two pixels of few channels read pairs of them.

    Where the width is odd, or the kernel would be as many pairs wide as it is pixels, it stays as it is.
    """
    tensors, ops = dict(graph.tensors), list[Op]()
    for op in graph.ops:
        kernel = _kernel(op, graph) if isinstance(op, Conv2d) else None
        if isinstance(op, Conv2d) and kernel is not None:
            added, new_ops = _paired(op, kernel, graph)
            tensors |= {tensor.name: tensor for tensor in added}
            ops += new_ops
        else:
            ops.append(op)
    return replace(graph, tensors=tensors, ops=tuple(ops))


def kernel_of_pairs(kernel: Array, odd_start: bool) -> Array:
    """`kernel` [O,kh,kw,C] over pairs, [O,kh,ceil(kw/2),2C]; columns of zeros complete the outer pairs.

    `odd_start` says that the kernel's first column is the second pixel of a pair.
    """
    columns = kernel.shape[2] + odd_start
    complete = np.pad(kernel, ((0, 0), (0, 0), (int(odd_start), columns % 2), (0, 0)))
    return complete.reshape(*kernel.shape[:2], -1, 2 * kernel.shape[3])


def _kernel(op: Conv2d, graph: QuantGraph) -> Array | None:
    """The kernel of `op` over pairs; None where there is none or it is no narrower."""
    x, weight = (graph.tensors[name] for name in op.inputs[:2])
    _, _, width, channels = x.shape
    by_pairs = op.stride[1] == 2 and op.dilation[1] == 1 and width % 2 == 0
    if x.dtype != "int8" or channels > MOST_CHANNELS or not by_pairs or weight.data is None:
        return None
    kernel = kernel_of_pairs(weight.data, op.padding.left % 2 == 1)
    return kernel if kernel.shape[2] < weight.shape[2] else None


def _paired(op: Conv2d, kernel: Array, graph: QuantGraph) -> tuple[list[Tensor], list[Op]]:
    x, weight, output = (graph.tensors[name] for name in (*op.inputs[:2], op.output))
    reshape = PixelPairs(f"{op.name}.pairs", (x.name,), f"{op.name}.pairs")
    pairs = Tensor(reshape.output, output_shape(reshape, [x.shape]), x.dtype, x.qparams)
    left = (op.padding.left + 1) // 2
    right = output.shape[2] - 1 + kernel.shape[2] - left - pairs.shape[2]
    convolution = replace(
        op,
        inputs=(pairs.name, *op.inputs[1:]),
        stride=(op.stride[0], 1),
        padding=replace(op.padding, left=left, right=right),
    )
    return [pairs, replace(weight, shape=kernel.shape, data=kernel)], [reshape, convolution]
