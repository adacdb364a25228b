"""What TFLite's kernels take for granted about scales and zero points, and check only in part."""

from collections.abc import Iterator

import numpy as np

from device_eval.lint.description import LAYERS, Model, short
from device_eval.lint.finding import Finding

_FIXED = {"Logistic": (1 / 256, -128), "Softmax": (1 / 256, -128), "Tanh": (1 / 128, 0)}
_PASS_THROUGH = ("Reshape", "Transpose", "Pad", "MaxPool", "AveragePool")
BIAS_TOLERANCE = 0.01
UINT8_SHIFT = 128


def fixed_grids(model: Model) -> Iterator[Finding]:
    """LOGISTIC, SOFTMAX and TANH on another output grid than the one their kernels are written for."""
    for op in model.ops:
        output = model.output(op)
        if model.format == "onnx" or op.kind not in _FIXED or output is None or not output.quantized:
            continue
        if output.dtype not in ("int8", "uint8"):
            continue
        scale, zero_point = _FIXED[op.kind]
        zero_point += UINT8_SHIFT if output.dtype == "uint8" else 0
        if np.isclose(output.scale, scale, rtol=1e-3) and output.zero_point == zero_point:
            continue
        yield Finding(
            "fixed-grid",
            "error",
            "refused",
            model.where(op),
            f"output scale {output.scale:.6g}, zero point {output.zero_point}; "
            f"TFLite fixes {scale:.6g} and {zero_point}",
            "TFLite's kernel has this grid built in: it refuses the model, or computes for the other grid",
            "quantize the output on that grid",
        )


def weight_zero_points(model: Model) -> Iterator[Finding]:
    """int8 weights with a zero point, which TFLite's int8 layers do not have."""
    for op in model.ops:
        weight = model.input(op, 1)
        if model.format == "onnx" or op.kind not in LAYERS or weight is None or weight.grid is None:
            continue
        if weight.dtype == "int8" and weight.grid.zero_point.any():
            found = sorted({int(value) for value in weight.grid.zero_point if value})[:3]
            yield Finding(
                "weight-zero-point",
                "error",
                "refused",
                model.where(op),
                f"{short(weight.name)} is int8 with zero point {', '.join(map(str, found))}",
                "TFLite's int8 layers are symmetric: they refuse the model or ignore the zero point",
                "quantize the weights symmetrically",
            )


def wrong_bias_scales(model: Model) -> Iterator[Finding]:
    """Biases whose declared scale is not input scale times weight scale."""
    for op in model.ops:
        x, weight, bias = (model.input(op, i) for i in range(3))
        if op.kind not in LAYERS or x is None or weight is None or bias is None or not x.quantized:
            continue
        if weight.grid is None or bias.grid is None or not weight.grid.valid or not bias.grid.valid:
            continue
        if bias.data is not None and not np.any(bias.data):
            continue
        wanted = x.scale * weight.grid.scale
        if bias.grid.scale.size not in (1, wanted.size):
            continue
        off = np.abs(bias.grid.scale / wanted - 1.0)
        if off.max() <= BIAS_TOLERANCE:
            continue
        channel = int(off.argmax())
        declared, needed = (np.broadcast_to(v, off.shape)[channel] for v in (bias.grid.scale, wanted))
        yield Finding(
            "bias-scale",
            "error",
            "wrong results",
            model.where(op),
            f"{short(bias.name)} declares scale {declared:.4g} for channel {channel}; input scale x weight "
            f"scale is {needed:.4g}",
            "integer kernels add the bias in input scale x weight scale whatever it declares: every output "
            "is shifted",
            "requantize the bias to input scale x weight scale",
            float(off.max()),
        )


def pass_through(model: Model) -> Iterator[Finding]:
    """Operations that copy integers between tensors of different grids."""
    for op in model.ops:
        x, output = model.input(op, 0), model.output(op)
        if model.format == "onnx" or op.kind not in _PASS_THROUGH or x is None or output is None:
            continue
        if not (x.quantized and output.quantized):
            continue
        if np.isclose(x.scale, output.scale, rtol=1e-6) and x.zero_point == output.zero_point:
            continue
        yield Finding(
            "pass-through",
            "error",
            "wrong results",
            model.where(op),
            f"input scale {x.scale:.6g}, zero point {x.zero_point}; "
            f"output scale {output.scale:.6g}, zero point {output.zero_point}",
            "this operation copies integers: on another grid they are other numbers; XNNPACK refuses it",
            "give both tensors one grid, or put a QUANTIZE between",
        )
