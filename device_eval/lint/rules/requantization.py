"""Ratios of scales that XNNPACK or TFLite do not take, measured with LiteRT 2.3 (x86-64).

| operation | ratio | runtime |
| --- | --- | --- |
| ADD, SUB | each input / output | XNNPACK leaves it out outside [2^-10, 2^8) |
| | | TFLite aborts from 2^19 on, with int16 from 2^14 on |
| MUL | product of inputs / output | XNNPACK leaves it out outside [2^-16, 2^8) |
| QUANTIZE to another grid | input / output | XNNPACK leaves it out outside [2^-8, 2^7] |
| CONV_2D and other layers | input x weight / output, any channel | XNNPACK refuses the model from 2^8 on |
| HARD_SWISH | input / output | TFLite refuses the model from 2^7 on (XNNPACK never takes it) |
"""

from collections.abc import Iterator

from device_eval.lint.description import Model, Op
from device_eval.lint.finding import Finding
from device_eval.lint.layers import layers
from qmnv3.export.tflite import ADD_RATIO_LIMIT

ADD_LIMITS = (2.0**-10, 2.0**8)
MUL_LIMITS = (2.0**-16, 2.0**8)
QUANTIZE_LIMITS = (2.0**-8, 2.0**7)
LAYER_LIMIT = 2.0**8
HARD_SWISH_LIMIT = 2.0**7

_RULE = "requantization"
_RAISE = "raise the output's scale: calibrate with more varied images, or floor it (`qmnv3 ptq` does both)"


def requantization(model: Model) -> Iterator[Finding]:
    """Requantization ratios outside what the runtimes take; ONNX Runtime has no such limits."""
    if model.format == "onnx":
        return
    yield from _layer_ratios(model)
    for op in model.ops:
        ratio, limit = max(_ratios(model, op), default=0.0), _abort_limit(model, op)
        if ratio >= limit:
            what, why = f"TFLite takes less than {limit:g}", "TFLite aborts the process that loads the file"
        elif op.kind == "HardSwish" and max(operand_ratios(model, op), default=0.0) >= HARD_SWISH_LIMIT:
            what, why = f"TFLite takes less than {HARD_SWISH_LIMIT:g}", "TFLite refuses to load the model"
        else:
            yield from _left_out(model, op)
            continue
        what = f"{_scales(model, op)}: ratio {ratio:.4g}, {what}"
        yield Finding(_RULE, "error", "refused", model.where(op), what, why, _RAISE, ratio)


def _abort_limit(model: Model, op: Op) -> float:
    output = model.output(op)
    if output is None or op.kind not in ("Add", "Sub"):
        return float("inf")
    return ADD_RATIO_LIMIT["int16" if output.is_16_bit else "int8"]


def operand_ratios(model: Model, op: Op) -> tuple[float, ...]:
    """The ratios that the delegate checks for an elementwise operation; empty when it has none."""
    output = model.output(op)
    return () if output is None or output.is_16_bit else _ratios(model, op)


def _ratios(model: Model, op: Op) -> tuple[float, ...]:
    output = model.output(op)
    operands = [tensor for tensor in model.operands(op) if tensor.quantized]
    if output is None or not output.quantized:
        return ()
    if any(tensor.dtype != output.dtype for tensor in operands):
        return ()
    if op.kind == "Mul" and len(operands) == 2:
        return (operands[0].scale * operands[1].scale / output.scale,)
    if op.kind in ("Add", "Sub", "Quantize", "HardSwish"):
        return tuple(operand.scale / output.scale for operand in operands)
    return ()


def left_out_because(model: Model, op: Op) -> str | None:
    """Why the delegate leaves out an elementwise operation; None when its ratios are fine."""
    limits = {"Add": ADD_LIMITS, "Sub": ADD_LIMITS, "Mul": MUL_LIMITS, "Quantize": QUANTIZE_LIMITS}.get(
        op.kind
    )
    if limits is None:
        return None
    for ratio in operand_ratios(model, op):
        if not limits[0] <= ratio < limits[1]:
            return f"ratio {ratio:.4g}, XNNPACK takes [{limits[0]:.3g}, {limits[1]:g})"
    return None


def _left_out(model: Model, op: Op) -> Iterator[Finding]:
    reason = left_out_because(model, op)
    if reason is None:
        return
    yield Finding(
        _RULE,
        "warning",
        "speed",
        model.where(op),
        f"{_scales(model, op)}: {reason}",
        "the XNNPACK delegate leaves the operation out: one more break, and a slower kernel",
        "choose both scales closer together: a constant may have any scale, a dead tensor needs a floor",
    )


def _layer_ratios(model: Model) -> Iterator[Finding]:
    for layer in layers(model):
        channel = int(layer.ratio.argmax())
        ratio = float(layer.ratio[channel])
        if ratio < LAYER_LIMIT or layer.x.is_16_bit:
            continue
        over = int((layer.ratio >= LAYER_LIMIT).sum())
        yield Finding(
            _RULE,
            "error",
            "refused",
            model.where(layer.op),
            f"requantization ratio {ratio:.4g} in channel {channel} ({over} of {layer.ratio.size} are too "
            f"large): input scale {layer.x.scale:.3g} x weight scale {layer.weight_scale[channel]:.3g} / "
            f"output scale {layer.output.scale:.3g}; XNNPACK takes less than {LAYER_LIMIT:g}",
            "XNNPACK refuses the whole model, not only this operation",
            _RAISE,
            ratio,
        )


def _scales(model: Model, op: Op) -> str:
    operands = [tensor.scale for tensor in model.operands(op) if tensor.quantized]
    output = model.output(op)
    assert output is not None
    return (
        f"input scale {' and '.join(f'{scale:.3g}' for scale in operands)}, output scale {output.scale:.3g}"
    )
