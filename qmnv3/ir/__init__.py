"""QuantGraph: the integer network, independent of torch and of any file format."""

from qmnv3.ir.graph import Metadata, QuantGraph, Tensor
from qmnv3.ir.ops import (
    OP_KINDS,
    Activation,
    Add,
    Cast,
    Conv2d,
    DepthwiseConv2d,
    Dequantize,
    Flatten,
    HardSigmoid,
    HardSwish,
    Logistic,
    Mean,
    Mul,
    Op,
    Pad,
    Padding,
    PixelPairs,
    Quantize,
)
from qmnv3.ir.qparams import QParams
from qmnv3.ir.storage import load_graph, save_graph

__all__ = [
    "OP_KINDS",
    "Activation",
    "Add",
    "Cast",
    "Conv2d",
    "DepthwiseConv2d",
    "Dequantize",
    "Flatten",
    "HardSigmoid",
    "HardSwish",
    "Logistic",
    "Mean",
    "Metadata",
    "Mul",
    "Op",
    "Pad",
    "Padding",
    "PixelPairs",
    "QParams",
    "QuantGraph",
    "Quantize",
    "Tensor",
    "load_graph",
    "save_graph",
]
