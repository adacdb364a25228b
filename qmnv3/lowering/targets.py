"""Which form each operation takes on each deployment target: the whole policy, readable in one place.

| target         | h-swish, hard-sigmoid               | padding                 | int16 activations     |
| -------------- | ----------------------------------- | ----------------------- | --------------------- |
| xnnpack        | ADD and MUL: one delegate partition | SAME or VALID, else PAD | built in, not XNNPACK |
| tflite-builtin | HARD_SWISH op; hard-sigmoid as ADD  | SAME or VALID, else PAD | built in              |
| ort            | ADD and MUL: QLinearAdd, QLinearMul | explicit                | refused               |

int16 h-swish is ADD and MUL everywhere: there is no 16-bit HARD_SWISH. Swish is a sigmoid and MUL everywhere.
For xnnpack a stem of stride 2 reads pixel pairs.
Float graphs keep h-swish as an operation; TFLite has none for hard-sigmoid, so it becomes relu6(x + 3) / 6.
"""

from dataclasses import replace
from typing import Literal

import numpy as np

from qmnv3.ir import Add, HardSigmoid, HardSwish, Mul, Op, QuantGraph, Tensor
from qmnv3.lowering.hard_activations import lower_hard_activations
from qmnv3.lowering.int16 import refuse_int16, split_widening
from qmnv3.lowering.interface import InterfaceType, set_interface
from qmnv3.lowering.padding import split_padding
from qmnv3.lowering.pixel_pairs import pair_pixels

Target = Literal["xnnpack", "tflite-builtin", "ort"]


def lower(graph: QuantGraph, target: Target, interface: InterfaceType = "int8") -> QuantGraph:
    """Rewrite a canonical graph (as `qmnv3.quant.convert` makes it) into the form `target` runs best.

    `interface` is the element type of image and logits; a float32 graph ignores it. ONNX's QDQ form has a
    float32 interface. Raises ExportError for int16 activations on "ort".
    """
    if is_float(graph):
        return graph if target == "ort" else split_padding(_float_hard_sigmoid(graph))
    if target == "ort":
        refuse_int16(graph)
    keep = (HardSwish,) if target == "tflite-builtin" else ()
    graph = lower_hard_activations(graph, keep)
    if target == "xnnpack":
        # Before paddings become PADs: XNNPACK merges a PAD with the convolution that follows at once.
        graph = pair_pixels(graph)
    if target != "ort":
        graph = split_widening(split_padding(graph))
    return set_interface(graph, interface)


def is_float(graph: QuantGraph) -> bool:
    """Whether `graph` is a float parent: no tensor has qparams."""
    return all(tensor.qparams is None for tensor in graph.tensors.values())


def _float_hard_sigmoid(graph: QuantGraph) -> QuantGraph:
    tensors, ops = dict(graph.tensors), list[Op]()
    for op in graph.ops:
        if not isinstance(op, HardSigmoid):
            ops.append(op)
            continue
        three, sixth = _scalar("constant_3", 3.0), _scalar("constant_sixth", 1.0 / 6.0)
        gate = replace(tensors[op.output], name=f"{op.name}.relu6")
        tensors |= {t.name: t for t in (three, sixth, gate)}
        ops.append(Add(f"{op.name}.add", (op.inputs[0], three.name), gate.name, "relu6"))
        ops.append(Mul(op.name, (gate.name, sixth.name), op.output))
    return replace(graph, tensors=tensors, ops=tuple(ops))


def _scalar(name: str, value: float) -> Tensor:
    return Tensor(name, (1,), "float32", None, np.array([value], np.float32))
