"""Float operations in a model meant to be integer."""

from collections import Counter
from collections.abc import Iterator

from device_eval.lint.description import Model, Op
from device_eval.lint.finding import Finding

FUSED = ("Conv", "MatMul", "Gemm", "Add")
"""Operations that a well written QDQ file has in integers throughout."""

DYNAMIC = ("DynamicQuantizeLinear", "ConvInteger", "MatMulInteger")
"""What ONNX Runtime's quantize_dynamic writes."""


def float_islands(model: Model) -> Iterator[Finding]:
    """Connected float operations between integer ones; at the ends of the network they are notes."""
    floats = [op for op in model.ops if op.float_reason is not None]
    if not any(tensor.grid is not None for tensor in model.tensors.values()):
        dynamic = Counter(op.native for op in model.ops if op.native in DYNAMIC)
        kinds = ", ".join(f"{count} {native}" for native, count in dynamic.most_common())
        yield Finding(
            "float-island",
            "error",
            "speed",
            model.path.name,
            f"dynamically quantized: {kinds}; no tensor between operations is an integer"
            if dynamic
            else f"nothing is quantized: no tensor of {len(model.ops)} operations has a scale",
            "its scales are computed from every input, in float, and so is all but the products"
            if dynamic
            else "this is a float model",
            "quantize it: `qmnv3 ptq`, then `qmnv3 export --int8`",
        )
        return
    for island in _components(model, floats):
        yield _finding(model, island)


def float_layers(model: Model) -> Iterator[Finding]:
    """Quantized layers and sums of an ONNX file that ONNX Runtime nevertheless computes in float."""
    floats = Counter(model.runtime_floats or {})
    # A convolution with its activation.
    floats["Conv"] += floats.pop("FusedConv", 0)
    for native, count in floats.items():
        ours = [op for op in model.ops if op.native.removeprefix("QLinear") == native in FUSED]
        meant = [op for op in ours if op.float_reason is None]
        left = min(count - (len(ours) - len(meant)), len(meant))
        if left <= 0:
            continue
        types = {tensor.dtype for op in meant for tensor in (model.input(op, 0),) if tensor is not None}
        yield Finding(
            "float-layers",
            "warning",
            "speed",
            model.path.name,
            f"ONNX Runtime computes {left} of {len(meant)} quantized {native} in float here (activations: "
            f"{', '.join(sorted(types))})",
            "its optimizer did not fuse the QDQ pairs around them, and float layers cost the time int8 saves",
            "store all activations as uint8, weights as int8, biases as int32 (`qmnv3 export --int8` does)",
            float(left),
        )


def _components(model: Model, floats: list[Op]) -> list[list[Op]]:
    """Float operations joined where one reads a float tensor that another writes."""
    group = {op.index: [op] for op in floats}
    for op in floats:
        for name in op.inputs:
            before, tensor = model.producer(name), model.tensors.get(name)
            if before is None or tensor is None or not tensor.is_float or before.index not in group:
                continue
            if group[before.index] is not group[op.index]:
                joined = group[before.index] + group[op.index]
                group |= {member.index: joined for member in joined}
    unique = {id(members): members for members in group.values()}
    return [sorted(members, key=lambda op: op.index) for members in unique.values()]


def _finding(model: Model, island: list[Op]) -> Finding:
    inside = {op.index for op in island}
    before = any(_from_integers(model, name) for op in island for name in op.inputs)
    after = any(_to_integers(model, name, inside) for op in island for name in op.outputs)
    enclosed = before and after
    kinds = Counter(op.native for op in island)
    names = ", ".join(f"{count} {kind}" if count > 1 else kind for kind, count in kinds.most_common())
    place = "at the network's end" if before else "at the network's start" if after else "by itself"
    place = "between integer operations" if enclosed else place
    return Finding(
        "float-island",
        "warning" if enclosed else "note",
        "speed",
        model.where(island[0]),
        f"{names} in float {place}: {island[0].float_reason}",
        "integer-only hardware cannot run it, and on a CPU the conversions and float kernels cost time",
        "quantize it, or write it with operations that have integer kernels (h-swish: ADD and MUL)",
        float(len(island)),
    )


def _from_integers(model: Model, name: str) -> bool:
    tensor, producer = model.tensors.get(name), model.producer(name)
    if tensor is None or tensor.data is not None:
        return False
    return not tensor.is_float or (producer is not None and producer.kind == "Dequantize")


def _to_integers(model: Model, name: str, inside: set[int]) -> bool:
    tensor = model.tensors.get(name)
    if tensor is not None and not tensor.is_float:
        return name not in model.outputs
    return any(op.kind == "Quantize" for op in model.consumers(name) if op.index not in inside)
