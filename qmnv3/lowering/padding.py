"""TFLite knows only SAME and VALID: other paddings become a PAD of their own and a VALID convolution."""

from dataclasses import replace

from qmnv3.ir import Conv2d, DepthwiseConv2d, Op, Pad, Padding, QuantGraph, Tensor
from qmnv3.ir.shapes import output_shape, same_padding


def split_padding(graph: QuantGraph) -> QuantGraph:
    """Insert a Pad before each convolution whose padding is neither zero nor TensorFlow's SAME."""
    tensors, ops = dict(graph.tensors), list[Op]()
    for op in graph.ops:
        if isinstance(op, Conv2d | DepthwiseConv2d) and op.padding not in (
            Padding(),
            same_padding_of(op, graph),
        ):
            source = tensors[op.inputs[0]]
            name = f"{op.name}.pad"
            pad = Pad(name, (source.name,), name, op.padding)
            tensors[name] = Tensor(name, output_shape(pad, [source.shape]), source.dtype, source.qparams)
            ops += [pad, replace(op, inputs=(name, *op.inputs[1:]), padding=Padding())]
        else:
            ops.append(op)
    return replace(graph, tensors=tensors, ops=tuple(ops))


def same_padding_of(op: Conv2d | DepthwiseConv2d, graph: QuantGraph) -> Padding:
    """The padding TensorFlow's SAME gives `op` at its input size."""
    _, height, width, _ = graph.tensors[op.inputs[0]].shape
    _, kernel_h, kernel_w, _ = graph.tensors[op.inputs[1]].shape
    extent = ((kernel_h - 1) * op.dilation[0] + 1, (kernel_w - 1) * op.dilation[1] + 1)
    return same_padding(height, width, extent, op.stride)
