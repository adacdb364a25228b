"""How each operation of the IR is written in ONNX: NHWC becomes NCHW, integers become QDQ pairs."""

from collections.abc import Callable
from typing import Any

import numpy as np

from qmnv3.errors import ExportError
from qmnv3.export.onnx_qdq.assembly import Array, Assembly, per_tensor, stored
from qmnv3.ir import (
    Activation,
    Add,
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
    Quantize,
    Tensor,
)


def emit(assembly: Assembly, op: Op) -> None:
    """Append the ONNX nodes of one IR operation; ExportError names an operation that has none."""
    writer = _WRITERS.get(type(op))
    if writer is None:
        raise ExportError(f"{op.name}: ONNX export does not know the operation {type(op).__name__}")
    writer(assembly, op)


def _quantize(assembly: Assembly, op: Quantize) -> None:
    assembly.quantize(assembly.read(op.inputs[0]), assembly.graph.tensors[op.output])


def _dequantize(assembly: Assembly, op: Dequantize) -> None:
    tensor = assembly.graph.tensors[op.inputs[0]]
    assembly.node("DequantizeLinear", [tensor.name, *assembly.activation_grid(tensor)], op.output)


def _conv(assembly: Assembly, op: Conv2d | DepthwiseConv2d) -> None:
    x, weight, bias = (assembly.graph.tensors[name] for name in op.inputs)
    depthwise = isinstance(op, DepthwiseConv2d)
    channel_axis = 3 if depthwise else 0
    if weight.data is None or bias.data is None:
        raise ExportError(f"{op.name}: weight {weight.name} and bias {bias.name} must be constants")
    if weight.qparams and weight.qparams.axis not in (None, channel_axis):
        raise ExportError(
            f"{op.name}: weight scales lie on axis {weight.qparams.axis}; "
            f"{type(op).__name__} needs them on {channel_axis} (output channels)"
        )
    if weight.qparams and weight.qparams.zero_point.any():
        raise ExportError(f"{op.name}: weight {weight.name} must be symmetric (zero point 0)")
    # OHWI to OIHW, 1HWC to C1HW
    kernel = weight.data.transpose((3, 0, 1, 2) if depthwise else (0, 3, 1, 2))
    inputs = [
        assembly.read(x.name),
        assembly.read_parameter(weight.name, kernel, _axis(weight)),
        assembly.read_parameter(bias.name, bias.data, _axis(bias)),
    ]
    attributes = {
        "kernel_shape": kernel.shape[2:],
        "strides": op.stride,
        "dilations": op.dilation,
        "pads": _pads(op.padding),
        "group": kernel.shape[0] if depthwise else 1,
    }
    _compute(assembly, op, "Conv", inputs, op.activation, attributes)


def _axis(tensor: Tensor) -> int | None:
    return 0 if tensor.qparams and tensor.qparams.axis is not None else None


def _pads(padding: Padding) -> list[int]:
    return [padding.top, padding.left, padding.bottom, padding.right]


def _binary(assembly: Assembly, op: Add | Mul) -> None:
    rank = len(assembly.graph.tensors[op.output].shape)
    inputs = []
    for tensor in (assembly.graph.tensors[name] for name in op.inputs):
        if tensor.data is not None:
            assembly.constant(tensor.name, _channels_first(stored(tensor, tensor.data), rank))
            inputs.append(assembly.read(tensor.name))
        elif len(tensor.shape) == rank:
            inputs.append(assembly.read(tensor.name))
        else:
            raise ExportError(
                f"{op.name}: activation {tensor.name}{list(tensor.shape)} must have {rank} dimensions like "
                f"the output; broadcasting it would differ between NHWC and NCHW"
            )
    _compute(assembly, op, type(op).__name__, inputs, op.activation)


def _channels_first(value: Array, rank: int) -> Array:
    if value.size == 1:
        return value.reshape(())
    if rank != 4:
        return value
    return value.reshape((1,) * (4 - value.ndim) + value.shape).transpose(0, 3, 1, 2)


def _mean(assembly: Assembly, op: Mean) -> None:
    _compute(assembly, op, "GlobalAveragePool", [assembly.read(op.inputs[0])])


def _pad(assembly: Assembly, op: Pad) -> None:
    """Pad moves integers without changing them, so it needs no QDQ pair."""
    tensor, p = assembly.graph.tensors[op.inputs[0]], op.padding
    zero = stored(tensor, tensor.qparams.zero_point if tensor.qparams else 0.0)
    pads = np.array([0, 0, p.top, p.left, 0, 0, p.bottom, p.right], np.int64)
    inputs = [assembly.constant(f"{op.output}/pads", pads), assembly.constant(f"{op.output}/value", zero)]
    assembly.node("Pad", [tensor.name, *inputs], op.output)


def _flatten(assembly: Assembly, op: Flatten) -> None:
    """Flatten moves integers without changing them, so it needs no QDQ pair."""
    assembly.node("Flatten", [op.inputs[0]], op.output, axis=1)


def _logistic(assembly: Assembly, op: Logistic) -> None:
    _compute(assembly, op, "Sigmoid", [assembly.read(op.inputs[0])])


def _hard_swish(assembly: Assembly, op: HardSwish) -> None:
    _float_only(assembly, op)
    assembly.node("HardSwish", [op.inputs[0]], op.output)


def _hard_sigmoid(assembly: Assembly, op: HardSigmoid) -> None:
    _float_only(assembly, op)
    assembly.node("HardSigmoid", [op.inputs[0]], op.output, alpha=1 / 6, beta=0.5)


def _float_only(assembly: Assembly, op: HardSwish | HardSigmoid) -> None:
    dtype = assembly.graph.tensors[op.inputs[0]].dtype
    if dtype != "float32":
        raise ExportError(
            f"{op.name}: {type(op).__name__} on {dtype} has no integer kernel in ONNX Runtime; "
            f"lower the graph for the target 'ort' first"
        )


def _compute(
    assembly: Assembly,
    op: Op,
    kind: str,
    inputs: list[str],
    activation: Activation = "none",
    attributes: dict[str, Any] | None = None,
) -> None:
    """Write `kind` on real values, its fused activation, and the way back onto the output's grid."""
    output = assembly.graph.tensors[op.output]
    if output.qparams is None:
        linear = op.output if activation == "none" else f"{op.output}/linear"
        assembly.node(kind, inputs, linear, **attributes or {})
        if activation == "relu":
            assembly.node("Relu", [linear], op.output)
        elif activation == "relu6":
            bounds = [assembly.constant(f"relu6/{x}", np.array(x, np.float32)) for x in (0, 6)]
            assembly.node("Clip", [linear, *bounds], op.output)
        return
    real = assembly.node(kind, inputs, f"{op.output}/float", **attributes or {})
    low, high = saturation(output, activation)
    if (low, high) == (0, 255):
        assembly.quantize(real, output)
        return
    # A float Clip before QuantizeLinear would keep ONNX Runtime from fusing the integer operation.
    rounded = assembly.quantize(real, output, f"{op.output}/unclipped")
    bounds = [assembly.constant(f"uint8/{x}", np.array(x, np.uint8)) for x in (low, high)]
    assembly.node("Clip", [rounded, *bounds], op.output)


def saturation(tensor: Tensor, activation: Activation) -> tuple[int, int]:
    """Smallest and largest stored integer `tensor` may take: its grid's ends, [0, inf) or [0, 6] on it."""
    grid = per_tensor(tensor)
    low, high = grid.qmin, grid.qmax
    if activation != "none":
        low = max(low, int(grid.zero_point))
    if activation == "relu6":
        high = min(high, int(grid.quantize(6.0)))
    low, high = stored(tensor, [low, high]).tolist()
    return low, high


_WRITERS: dict[type[Op], Callable[[Assembly, Any], None]] = {
    Quantize: _quantize,
    Dequantize: _dequantize,
    Conv2d: _conv,
    DepthwiseConv2d: _conv,
    Add: _binary,
    Mul: _binary,
    Mean: _mean,
    Pad: _pad,
    Flatten: _flatten,
    Logistic: _logistic,
    HardSwish: _hard_swish,
    HardSigmoid: _hard_sigmoid,
}
