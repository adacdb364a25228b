"""The element type in which a deployed file takes images and returns logits."""

from dataclasses import replace
from typing import Literal

from qmnv3.ir import Dequantize, Op, QParams, QuantGraph, Quantize, Tensor

InterfaceType = Literal["int8", "uint8", "float32"]


def set_interface(graph: QuantGraph, interface: InterfaceType) -> QuantGraph:
    """Make an int8 graph take and return `interface`, converting by Quantize and Dequantize at its ends.

    uint8 is int8's grid shifted by 128, so a uint8 image converts without loss. Names of the graph's input
    and output stay.
    """
    if interface == "int8":
        return graph
    tensors, ops = dict(graph.tensors), list(graph.ops)
    for name in (*graph.inputs, *graph.outputs):
        outer, inner = tensors[name], f"{name}_int8"
        tensors[inner] = replace(outer, name=inner)
        tensors[name] = _outer(outer, interface)
        ops = [_rename(op, name, inner) for op in ops]
    for name in graph.inputs:
        ops.insert(0, Quantize(f"{name}.quantize", (name,), f"{name}_int8"))
    convert = Dequantize if interface == "float32" else Quantize
    ops += [convert(f"{name}.{interface}", (f"{name}_int8",), name) for name in graph.outputs]
    return replace(graph, tensors=tensors, ops=tuple(ops))


def _outer(tensor: Tensor, interface: InterfaceType) -> Tensor:
    if interface == "float32":
        return replace(tensor, dtype="float32", qparams=None)
    assert tensor.qparams is not None
    q = tensor.qparams
    shifted = QParams.per_tensor(float(q.scale), int(q.zero_point) + 128, 0, 255)
    return replace(tensor, dtype="uint8", qparams=shifted)


def _rename(op: Op, old: str, new: str) -> Op:
    inputs = tuple(new if name == old else name for name in op.inputs)
    return replace(op, inputs=inputs, output=new if op.output == old else op.output)
