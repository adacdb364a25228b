"""How LiteRT's XNNPACK delegate cut the graph, and which operations are outside."""

from collections import Counter
from collections.abc import Iterator

from device_eval.lint.description import LAYERS, Model, Op, short
from device_eval.lint.finding import Finding, Severity
from device_eval.lint.rules.requantization import left_out_because

_NO_KERNEL = {
    "HardSwish": (
        "XNNPACK has no 8-bit HARD_SWISH",
        "write h-swish as a saturating ADD and MUL (`qmnv3 export --int8` does)",
    ),
    "AveragePool": ("XNNPACK has no 8-bit AVERAGE_POOL_2D", "write global pooling as MEAN"),
    "Softmax": ("XNNPACK has no 8-bit SOFTMAX", "end the network in its logits"),
    "Relu": ("XNNPACK has no 8-bit RELU", "fuse it into the operation before"),
    "Relu6": ("XNNPACK has no 8-bit RELU6", "fuse it into the operation before"),
}
_SHOWN = 8


def partitions(model: Model) -> Iterator[Finding]:
    """A model that its runtime refuses or that falls into pieces, and why operations are outside."""
    if model.runtime_error is not None:
        yield Finding(
            "partitions",
            "error",
            "refused",
            model.path.name,
            model.runtime_error,
            f"{'ONNX Runtime' if model.format == 'onnx' else 'LiteRT'} cannot run the file at all",
            "repair what the other errors name, and export again",
        )
    found = model.partitions
    if found is None:
        return
    total = sum(found.op_counts.values())
    if found.refused is not None:
        yield Finding(
            "partitions",
            "error",
            "refused",
            model.path.name,
            f"LiteRT's XNNPACK delegate refuses the model: 0 of {total} operations delegated",
            "LiteRT's default interpreter applies this delegate, so loading the model fails, on a phone too",
            "repair the requantization ratios and scales reported as errors; until then load it without the "
            "default delegates (--kernel builtin)",
        )
        without_kernel = [op for op in model.ops if op.kind in _NO_KERNEL]
        yield from _reasons(model, without_kernel, "warning", "outside XNNPACK even when it takes the model")
        return
    outside = [model.ops[index] for index, _ in found.undelegated if index < len(model.ops)]
    if outside:
        severity: Severity = "note" if found.count == 1 else "warning"
        yield _pieces(model, len(outside), found.count, total, severity)
        yield from _reasons(model, outside, severity, "outside XNNPACK")


def _pieces(model: Model, outside: int, count: int, total: int, severity: Severity) -> Finding:
    return Finding(
        "partitions",
        severity,
        "speed",
        model.path.name,
        f"{count} XNNPACK partitions with {total - outside} of {total} operations",
        "every break hands tensors from one runtime to the other, and what is outside runs on slower kernels",
        "replace the operations outside, listed next",
        float(outside + 1),
    )


def _reasons(model: Model, outside: list[Op], severity: Severity, text: str) -> Iterator[Finding]:
    """One finding for all operations outside for the same reason."""
    grouped: dict[tuple[str, str, str], list[Op]] = {}
    for op in outside:
        grouped.setdefault((op.native, *reason_outside(model, op)), []).append(op)
    for (native, reason, fix), ops in grouped.items():
        numbers = ", ".join(str(op.index) for op in ops[:_SHOWN]) + ", ..." * (len(ops) > _SHOWN)
        place = model.where(ops[0]) if len(ops) == 1 else f"{len(ops)} {native}: ops {numbers}"
        yield Finding(
            "partitions",
            severity,
            "speed",
            place,
            f"{text}: {reason}",
            "every operation outside can break a partition",
            fix,
            float(len(ops)),
        )


def reason_outside(model: Model, op: Op) -> tuple[str, str]:
    """Why the delegate did not take `op` and what to do, as far as qmnv3 knows."""
    if op.float_reason is not None:
        return f"it computes in float, {op.float_reason}", "quantize its inputs and outputs"
    if op.kind in _NO_KERNEL:
        return _NO_KERNEL[op.kind]
    operands = [tensor for tensor in (*model.operands(op), model.output(op)) if tensor is not None]
    if any(tensor.is_16_bit for tensor in operands):
        return "XNNPACK has no 16-bit kernels", "keep 16-bit tensors to the few that need them"
    ratio = left_out_because(model, op)
    if ratio is not None:
        return ratio, "choose the scales of both sides closer together"
    unusable = next((t for t in operands if t.grid is not None and not t.grid.valid), None)
    if unusable is not None:
        return f"the scale of {short(unusable.name)} is unusable", "quantize it again"
    if op.kind in LAYERS and model.input(op, 2) is None:
        return "it has no bias", "give it a bias of zeros"
    kinds = Counter(tensor.dtype for tensor in operands)
    return (
        f"reason unknown to qmnv3 (types {', '.join(kinds)})",
        "see what the delegate supports for these types",
    )
