"""Operator versions and the oldest TFLite runtime that has them.

Source: TensorFlow's tensorflow/lite/tools/versioning/op_version.cc and runtime_version.cc.
"""

from collections.abc import Iterable, Sequence

import numpy as np

from qmnv3.ir import Conv2d, DepthwiseConv2d, Mul, Op, Quantize, Tensor

_INT8_VERSION = {
    "CONV_2D": 3,
    "DEPTHWISE_CONV_2D": 3,
    "ADD": 2,
    "MUL": 2,
    "MEAN": 2,
    "PAD": 2,
    "LOGISTIC": 2,
    "DEQUANTIZE": 2,
    "CAST": 3,
}

_INT16_VERSION = {
    "CONV_2D": 4,
    "DEPTHWISE_CONV_2D": 5,
    "ADD": 3,
    "MUL": 4,
    "MEAN": 3,
    "PAD": 3,
    "DEQUANTIZE": 3,
}

_OLDEST_RUNTIME = {
    ("CONV_2D", 1): (1, 5, 0),
    ("CONV_2D", 3): (1, 14, 0),
    ("CONV_2D", 4): (2, 3, 0),
    ("CONV_2D", 8): (2, 15, 0),
    ("DEPTHWISE_CONV_2D", 1): (1, 5, 0),
    ("DEPTHWISE_CONV_2D", 2): (1, 12, 0),
    ("DEPTHWISE_CONV_2D", 3): (1, 14, 0),
    ("DEPTHWISE_CONV_2D", 5): (2, 3, 0),
    ("ADD", 1): (1, 5, 0),
    ("ADD", 2): (1, 14, 0),
    ("ADD", 3): (2, 4, 0),
    ("MUL", 1): (1, 5, 0),
    ("MUL", 2): (1, 14, 0),
    ("MUL", 3): (1, 15, 0),
    ("MUL", 4): (2, 3, 0),
    ("MEAN", 1): (1, 6, 0),
    ("MEAN", 2): (1, 14, 0),
    ("MEAN", 3): (2, 4, 0),
    ("PAD", 1): (1, 5, 0),
    ("PAD", 2): (1, 14, 0),
    ("PAD", 3): (2, 4, 0),
    ("RESHAPE", 1): (1, 5, 0),
    ("HARD_SWISH", 1): (1, 15, 0),
    ("LOGISTIC", 1): (1, 14, 0),
    ("LOGISTIC", 2): (1, 14, 0),
    ("QUANTIZE", 1): (1, 14, 0),
    ("QUANTIZE", 2): (1, 15, 0),
    ("CAST", 3): (2, 8, 0),
    ("DEQUANTIZE", 1): (1, 13, 1),
    ("DEQUANTIZE", 2): (1, 14, 0),
    ("DEQUANTIZE", 3): (1, 15, 0),
}


def operator_version(op: Op, builtin: str, inputs: Sequence[Tensor], output: Tensor) -> int:
    """Version of the TFLite operator `builtin` that `op` needs for its tensors and attributes."""
    if isinstance(op, Quantize) and output.dtype == "int16":
        return 2
    if isinstance(op, Conv2d) and (inputs[0].dtype, inputs[2].dtype) == ("int16", "int32"):
        return 8
    if inputs[0].dtype == "int16":
        return _INT16_VERSION.get(builtin, 1)
    if isinstance(op, Mul) and _rescale(inputs, output) >= 1.0:
        return 3
    if inputs[0].dtype == "int8":
        return _INT8_VERSION.get(builtin, 1)
    if isinstance(op, DepthwiseConv2d) and op.dilation != (1, 1):
        return 2
    return 1


def minimum_runtime(operators: Iterable[tuple[str, int]]) -> str:
    """Oldest TFLite version, as "1.14.0", that runs all of these (builtin, version) pairs."""
    newest = max((_OLDEST_RUNTIME[key] for key in operators), default=(1, 5, 0))
    return ".".join(str(part) for part in newest)


def _rescale(inputs: Sequence[Tensor], output: Tensor) -> np.float32:
    a, b, c = (t.qparams.scale[()] if t.qparams else np.float32(0) for t in (*inputs, output))
    return np.float32(a * b / c) if c > 0 else np.float32(0)
