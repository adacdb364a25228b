"""Each QuantGraph operation as a TFLite builtin operator with its options and constant operands."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ai_edge_litert import schema_py_generated as schema

from qmnv3.errors import ExportError
from qmnv3.export.tflite.versions import operator_version
from qmnv3.ir import (
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
    QuantGraph,
    Quantize,
    Tensor,
)
from qmnv3.ir.shapes import same_padding

_ACTIVATIONS = {
    "none": schema.ActivationFunctionType.NONE,
    "relu": schema.ActivationFunctionType.RELU,
    "relu6": schema.ActivationFunctionType.RELU6,
}

# An ADD scales its inputs up by 2^20 (int16: 2^15) and writes twice the larger input scale over as many
# output scales as a multiplier, which must be below 1: LiteRT aborts the process that loads anything else.
ADD_RATIO_LIMIT = {"int8": 2.0**19, "int16": 2.0**14}


@dataclass(frozen=True)
class Operand:
    """A constant int32 operand that TFLite wants as a tensor: axes, paddings or a shape."""

    role: str
    values: Sequence[Any]


@dataclass(frozen=True)
class Encoding:
    """One operator of the flatbuffer: builtin name, options and trailing constant operand."""

    builtin: str
    version: int
    options: Any = None
    operand: Operand | None = None

    @property
    def code(self) -> int:
        """Number of the builtin operator."""
        return int(getattr(schema.BuiltinOperator, self.builtin))

    @property
    def options_type(self) -> int:
        """Number of the options' union member; 0 for operators written without options."""
        if self.options is None:
            return 0
        return int(getattr(schema.BuiltinOptions, type(self.options).__name__.removesuffix("T")))


def encode_operator(op: Op, graph: QuantGraph) -> Encoding:
    """Encode `op`; ExportError names what TFLite cannot express and what to do about it."""
    inputs, output = [graph.tensors[name] for name in op.inputs], graph.tensors[op.output]
    if not isinstance(op, Quantize | Dequantize) and inputs[0].dtype == "uint8":
        raise ExportError(f"{op.name}: {type(op).__name__} input is uint8; put a Quantize to int8 before it")
    if isinstance(op, Add):
        _check_add(op, inputs, output)
    builtin, options, operand = _encode(op, inputs, output)
    return Encoding(builtin, operator_version(op, builtin, inputs, output), options, operand)


def _encode(op: Op, inputs: Sequence[Tensor], output: Tensor) -> tuple[str, Any, Operand | None]:
    match op:
        case Conv2d():
            return "CONV_2D", _convolution(op, inputs, _conv_options(inputs), channel_axis=0), None
        case DepthwiseConv2d():
            options = schema.DepthwiseConv2DOptionsT(depthMultiplier=1)
            return "DEPTHWISE_CONV_2D", _convolution(op, inputs, options, channel_axis=3), None
        case Add():
            return "ADD", _add_options(op, inputs), None
        case Mul():
            return "MUL", schema.MulOptionsT(fusedActivationFunction=_ACTIVATIONS[op.activation]), None
        case Mean():
            return "MEAN", schema.ReducerOptionsT(keepDims=True), Operand("axes", (1, 2))
        case Pad():
            p = op.padding
            sides = ((0, 0), (p.top, p.bottom), (p.left, p.right), (0, 0))
            return "PAD", schema.PadOptionsT(), Operand("paddings", sides)
        case Flatten() | PixelPairs():
            # The batch is -1, not 1, so that the user may resize the input to any batch.
            return "RESHAPE", None, Operand("shape", (-1, *output.shape[1:]))
        case HardSwish():
            return "HARD_SWISH", schema.HardSwishOptionsT(), None
        case Logistic():
            return "LOGISTIC", None, None
        case Quantize():
            return "QUANTIZE", schema.QuantizeOptionsT(), None
        case Cast():
            return "CAST", _cast_options(inputs[0]), None
        case Dequantize():
            return "DEQUANTIZE", schema.DequantizeOptionsT(), None
        case HardSigmoid():
            raise ExportError(
                f"{op.name}: TFLite has no HardSigmoid operator; lower the graph for a TFLite target first"
            )


def _conv_options(inputs: Sequence[Tensor]) -> Any:
    # Without this an int16 convolution reads its bias as int64.
    if (inputs[0].dtype, inputs[2].dtype) == ("int16", "int32"):
        return schema.Conv2DOptionsT(quantizedBiasType=schema.TensorType.INT32)
    return schema.Conv2DOptionsT()


def _add_options(op: Add, inputs: Sequence[Tensor]) -> Any:
    # The schema's default asks for int16 scales that are powers of two.
    powers_of_two = inputs[0].dtype != "int16"
    return schema.AddOptionsT(
        fusedActivationFunction=_ACTIVATIONS[op.activation], potScaleInt16=powers_of_two
    )


def _check_add(op: Add, inputs: Sequence[Tensor], output: Tensor) -> None:
    if output.qparams is None:
        return
    largest = max(float(tensor.qparams.scale) for tensor in inputs if tensor.qparams)
    scale, limit = float(output.qparams.scale), ADD_RATIO_LIMIT[output.dtype]
    if largest >= limit * scale:
        raise ExportError(
            f"{op.name}: input scale {largest:.6g} is not below {limit:g} times the output scale "
            f"{scale:.6g}, as an {output.dtype} ADD needs; train slower, or calibrate on more usual images"
        )


def _cast_options(source: Tensor) -> Any:
    types = schema.TensorType
    return schema.CastOptionsT(inDataType=getattr(types, source.dtype.upper()), outDataType=types.INT16)


def _convolution(
    op: Conv2d | DepthwiseConv2d, inputs: Sequence[Tensor], options: Any, channel_axis: int
) -> Any:
    x, weight, bias = inputs
    _check_weight(op, weight, channel_axis)
    if bias.qparams is not None and bias.qparams.zero_point.any():
        raise ExportError(f"{op.name}: {bias.name} has a zero point; TFLite needs a symmetric bias")
    options.padding = _padding(op, x.shape, weight.shape)
    options.strideH, options.strideW = op.stride
    options.dilationHFactor, options.dilationWFactor = op.dilation
    options.fusedActivationFunction = _ACTIVATIONS[op.activation]
    return options


def _check_weight(op: Conv2d | DepthwiseConv2d, weight: Tensor, channel_axis: int) -> None:
    q = weight.qparams
    if q is None:
        return
    if q.axis not in (None, channel_axis):
        raise ExportError(
            f"{op.name}: {weight.name} has scales along axis {q.axis}; TFLite needs axis {channel_axis}"
        )
    if q.zero_point.any():
        raise ExportError(f"{op.name}: {weight.name} has a zero point; TFLite needs symmetric weights")


def _padding(op: Conv2d | DepthwiseConv2d, x: tuple[int, ...], weight: tuple[int, ...]) -> int:
    window = [d * (k - 1) + 1 for k, d in zip(weight[1:3], op.dilation, strict=True)]
    if op.padding == same_padding(x[1], x[2], (window[0], window[1]), op.stride):
        return int(schema.Padding.SAME)
    if op.padding == Padding():
        return int(schema.Padding.VALID)
    p = op.padding
    raise ExportError(
        f"{op.name}: padding top={p.top} bottom={p.bottom} left={p.left} right={p.right} is neither SAME nor "
        "VALID; lower the graph for a TFLite target first, which puts a Pad before it"
    )
