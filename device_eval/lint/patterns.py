"""h-swish and hard-sigmoid sites, in the forms that converters and qmnv3 write them.

| form | found as |
| --- | --- |
| HARD_SWISH, HardSwish, HardSigmoid | the operation |
| x * relu6(x + 3) / 6 | MUL of x and an ADD of x and a constant that saturates |
| x * gate(x), equalized | MUL of x and a 1x1 depthwise convolution of x |
| relu6(y) * 1/6 | MUL by a constant of what relu6, or a saturating ADD, made |
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from device_eval.lint.description import Model, Op, Tensor

_NEAR = 0.01


@dataclass(frozen=True)
class HardSwishSite:
    """`op` makes h-swish of `x`, which is 0 wherever x is at most `zero_below`.

    `ramp` is the width in x over which it is neither 0 nor x. `gate` should cover [0, `gate_top`] exactly;
    both None for a single operation. `readers` are all operations of the site that read x.
    """

    op: Op
    x: Tensor
    zero_below: float
    ramp: float
    readers: tuple[int, ...]
    gate: Tensor | None = None
    gate_top: float | None = None


@dataclass(frozen=True)
class Gate:
    """A tensor that a hard-sigmoid fixes to [0, `top`], made by `op`."""

    op: Op
    tensor: Tensor
    top: float


def hard_swish_sites(model: Model) -> list[HardSwishSite]:
    """All h-swish sites whose input has an integer grid; damaged files have operations without outputs."""
    found = []
    for op in (op for op in model.ops if op.outputs):
        x = model.input(op, 0)
        if op.kind == "HardSwish" and x is not None and x.quantized:
            found.append(HardSwishSite(op, x, -3.0, 6.0, (op.index,)))
        elif op.kind == "Mul" and len(op.inputs) == 2:
            sites = (_product(model, op, op.inputs[i], op.inputs[1 - i]) for i in (0, 1))
            found += [site for site in sites if site is not None][:1]
    return found


def gates(model: Model) -> list[Gate]:
    """All tensors whose range a hard-sigmoid fixes, inside h-swish and in squeeze-and-excite."""
    found: dict[str, Gate] = {}
    for site in hard_swish_sites(model):
        if site.gate is not None and site.gate_top is not None:
            producer = model.producer(site.gate.name)
            found[site.gate.name] = Gate(producer or site.op, site.gate, site.gate_top)
    for gate in _hard_sigmoids(model):
        found.setdefault(gate.tensor.name, gate)
    return list(found.values())


def _product(model: Model, op: Op, left: str, right: str) -> HardSwishSite | None:
    """The site where `left` is x (or x times a constant) and `right` its gate (or that times a constant)."""
    x_name, x_readers = _unscaled(model, left)
    gate_name, _ = _unscaled(model, right)
    x, gate, made_by = model.tensors.get(x_name), model.tensors.get(gate_name), model.producer(gate_name)
    if x is None or gate is None or made_by is None or not x.quantized or x_name not in made_by.inputs:
        return None
    readers = (*x_readers, made_by.index, op.index)
    if made_by.kind == "HardSigmoid":
        alpha, beta = made_by.attributes.get("alpha", 0.2), made_by.attributes.get("beta", 0.5)
        fixed = (gate, 1.0) if gate.quantized else (None, None)
        return HardSwishSite(op, x, -beta / alpha, 1 / alpha, readers, *fixed) if alpha > 0 else None
    if not gate.quantized:
        return None
    shift, top = _shift(model, made_by, x_name)
    if shift is None or not _saturates(gate, made_by, top):
        return None
    return HardSwishSite(op, x, -shift, 2 * shift, readers, gate, top)


def _shift(model: Model, op: Op, x: str) -> tuple[float | None, float]:
    """Of a gate x + c or w * x + b (per channel): minus the x below which all of it is 0, and its top."""
    if op.kind == "Add":
        constants = [t.reals for t in model.operands(op) if t.name != x]
        shift = float(constants[0].max(initial=0.0)) if constants and constants[0] is not None else 0.0
        return (shift, 2 * shift) if shift > 0 else (None, 0.0)
    weight, bias = model.input(op, 1), model.input(op, 2)
    if op.kind != "DepthwiseConv" or op.weight_axis is None or weight is None or bias is None:
        return None, 0.0
    factor, level = weight.reals, bias.reals
    if (
        factor is None
        or level is None
        or weight.grid is None
        or bias.grid is None
        or factor.size != level.size
    ):
        return None, 0.0
    slope, level = np.moveaxis(factor, op.weight_axis, 0).reshape(-1), level.reshape(-1)
    if (slope <= 0).any() or (level <= 0).any():
        return None, 0.0
    return float((level / slope).max()), 2 * float(level.max())


def _saturates(gate: Tensor, op: Op, top: float) -> bool:
    """Whether the gate is cut off at 0 and near `top`, by its activation or by the ends of its grid."""
    if op.activation == "relu6":
        return True
    low, high = gate.span
    return abs(low) < gate.scale and 0.5 * top < high < 1.2 * top


def _unscaled(model: Model, name: str) -> tuple[str, tuple[int, ...]]:
    """The tensor behind a multiplication by a constant, and that operation."""
    op = model.producer(name)
    if op is not None and op.kind == "Mul" and len(op.inputs) == 2:
        for i in (0, 1):
            constant = model.tensors.get(op.inputs[i])
            if constant is not None and constant.data is not None and constant.data.size == 1:
                return op.inputs[1 - i], (op.index,)
    return name, ()


def _hard_sigmoids(model: Model) -> Iterator[Gate]:
    for op in model.ops:
        output = model.output(op)
        if op.kind == "HardSigmoid" and output is not None and output.quantized:
            yield Gate(op, output, 1.0)
        if op.kind != "Mul" or len(op.inputs) != 2 or output is None:
            continue
        source, scaled_by = _unscaled(model, op.outputs[0])
        relu6, made_by = model.tensors.get(source), model.producer(source)
        sixth = next((t.reals for t in model.operands(op) if t.name != source), None)
        if not scaled_by or relu6 is None or made_by is None or sixth is None or not relu6.quantized:
            continue
        if not np.isclose(sixth.max(initial=0.0) * 6.0, 1.0, rtol=_NEAR):
            continue
        if _saturates(relu6, made_by, 6.0) and made_by.kind != "Mul":
            yield Gate(made_by, relu6, 6.0)
            if output.quantized:
                yield Gate(op, output, 1.0)
