"""int16 activations on each target: TFLite widens by CAST and ADD, ONNX Runtime does not run them."""

from dataclasses import replace

import numpy as np

from qmnv3.errors import ExportError
from qmnv3.ir import Add, Cast, Op, QParams, QuantGraph, Quantize, Tensor


def int16_tensors(graph: QuantGraph) -> tuple[str, ...]:
    """The activations of a canonical graph that were asked to be int16, without those that lead to int8."""
    between = {name for op in graph.ops if isinstance(op, Quantize) for name in (*op.inputs, op.output)}
    return tuple(t.name for t in graph.tensors.values() if t.dtype == "int16" and t.name not in between)


def refuse_int16(graph: QuantGraph) -> None:
    """ExportError naming the first int16 activation of a canonical graph, for targets that cannot run it."""
    names = int16_tensors(graph)
    if names:
        others = f", as are {len(names) - 1} more" if len(names) > 1 else ""
        raise ExportError(
            f"{names[0]}: is int16{others}; ONNX Runtime has no integer kernels for that, so export with "
            "--format tflite or quantize without int16 tensors"
        )


def split_widening(graph: QuantGraph) -> QuantGraph:
    """Replace each Quantize from int8 to int16 by Cast and Add, which give the same integers.

    LiteRT 2.3 has a QUANTIZE between these two, but TFLite 2.21 refuses it; CAST and int16 ADD run since 2.8.
    """
    tensors, ops = dict(graph.tensors), list[Op]()
    for op in graph.ops:
        source, output = graph.tensors[op.inputs[0]], graph.tensors[op.output]
        if isinstance(op, Quantize) and (source.dtype, output.dtype) == ("int8", "int16"):
            added, new_ops = _cast_and_add(op, source, output)
            tensors |= {tensor.name: tensor for tensor in added}
            ops += new_ops
        else:
            ops.append(op)
    return replace(graph, tensors=tensors, ops=tuple(ops))


def _cast_and_add(op: Quantize, source: Tensor, output: Tensor) -> tuple[list[Tensor], list[Op]]:
    assert source.qparams is not None and output.qparams is not None
    limits = np.iinfo(np.int16)
    grid = QParams.per_tensor(float(source.qparams.scale), 0, int(limits.min), int(limits.max))
    zero_point = int(source.qparams.zero_point)
    if zero_point == 0 and grid == output.qparams:
        return [], [Cast(op.name, op.inputs, op.output)]
    cast = Tensor(f"{op.output}.cast", source.shape, "int16", grid)
    shift = Tensor(f"{op.output}.zero_point", (1,), "int16", grid, np.array([-zero_point], np.int16))
    return [cast, shift], [
        Cast(f"{op.name}.cast", op.inputs, cast.name),
        Add(op.name, (cast.name, shift.name), op.output),
    ]
