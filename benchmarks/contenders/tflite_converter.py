"""TensorFlow's TFLiteConverter: full-integer post-training quantization of a RUN's float parent.

`python -m benchmarks.contenders.tflite_converter RUN IMAGES.npy OUT.tflite`

Each operation becomes the tf.nn operation of the same meaning; h-swish is written as the pattern that the
converter fuses to HARD_SWISH.
"""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from qmnv3.ir import (
    Add,
    Conv2d,
    DepthwiseConv2d,
    Flatten,
    HardSigmoid,
    HardSwish,
    Logistic,
    Mean,
    Mul,
    Op,
    Padding,
    QuantGraph,
)
from qmnv3.ir.shapes import same_padding
from qmnv3.runs import FLOAT32, load_run_graph

TfTensor = Any
ACTIVATIONS: dict[str, Callable[[TfTensor], TfTensor]] = {
    "none": lambda x: x,
    "relu": tf.nn.relu,
    "relu6": tf.nn.relu6,
}


def main(run: Path, images: Path, out: Path) -> None:
    graph = load_run_graph(run, FLOAT32)
    source = graph.tensors[graph.inputs[0]]

    @tf.function(input_signature=[tf.TensorSpec(source.shape, tf.float32, name="image")])  # type: ignore[untyped-decorator]
    def network(image: TfTensor) -> TfTensor:
        return _forward(graph, image)

    def representative() -> Iterator[list[TfTensor]]:
        for image in np.load(images, mmap_mode="r"):
            yield [tf.constant(image[None])]

    converter = tf.lite.TFLiteConverter.from_concrete_functions([network.get_concrete_function()])
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = representative
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.int8
    out.write_bytes(converter.convert())


def _forward(graph: QuantGraph, image: TfTensor) -> TfTensor:
    values: dict[str, TfTensor] = {
        t.name: tf.constant(t.data) for t in graph.tensors.values() if t.data is not None
    }
    values[graph.inputs[0]] = image
    for op in graph.ops:
        values[op.output] = _operation(graph, op, [values[name] for name in op.inputs])
    return values[graph.outputs[0]]


def _operation(graph: QuantGraph, op: Op, inputs: list[TfTensor]) -> TfTensor:
    x = inputs[0]
    match op:
        case Conv2d() | DepthwiseConv2d():
            return _convolution(graph, op, inputs)
        case Add():
            return ACTIVATIONS[op.activation](x + inputs[1])
        case Mul():
            return ACTIVATIONS[op.activation](x * inputs[1])
        case Mean():
            return tf.reduce_mean(x, axis=[1, 2], keepdims=True)
        case Flatten():
            return tf.reshape(x, graph.tensors[op.output].shape)
        case HardSwish():
            return x * tf.nn.relu6(x + 3.0) * (1.0 / 6.0)
        case HardSigmoid():
            return tf.nn.relu6(x + 3.0) * (1.0 / 6.0)
        case Logistic():
            return tf.sigmoid(x)
        case _:
            raise NotImplementedError(f"{op.name}: no TensorFlow form of {type(op).__name__}")


def _convolution(graph: QuantGraph, op: Conv2d | DepthwiseConv2d, inputs: list[TfTensor]) -> TfTensor:
    x, weight, bias = inputs
    padding = _padding(graph, op)
    if isinstance(op, Conv2d):
        y = tf.nn.conv2d(x, tf.transpose(weight, [1, 2, 3, 0]), op.stride, padding, dilations=op.dilation)
    else:
        # Depthwise filters are [kh, kw, C, 1] in TensorFlow, and its strides have four entries.
        kernel = tf.transpose(weight, [1, 2, 3, 0])
        y = tf.nn.depthwise_conv2d(x, kernel, (1, *op.stride, 1), padding, dilations=op.dilation)
    return ACTIVATIONS[op.activation](tf.nn.bias_add(y, bias))


def _padding(graph: QuantGraph, op: Conv2d | DepthwiseConv2d) -> str | list[list[int]]:
    _, height, width, _ = graph.tensors[op.inputs[0]].shape
    _, *kernel, _ = graph.tensors[op.inputs[1]].shape
    rows, columns = ((k - 1) * d + 1 for k, d in zip(kernel, op.dilation, strict=True))
    if op.padding == Padding():
        return "VALID"
    if op.padding == same_padding(height, width, (rows, columns), op.stride):
        return "SAME"
    pad = op.padding
    return [[0, 0], [pad.top, pad.bottom], [pad.left, pad.right], [0, 0]]


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]))
