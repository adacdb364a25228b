"""A QuantGraph as an ONNX model: checked, deterministic, standard operators only."""

from pathlib import Path

import onnx
from onnx import TensorProto, helper

from qmnv3 import __version__
from qmnv3.errors import ExportError
from qmnv3.export.onnx_qdq.assembly import Assembly
from qmnv3.export.onnx_qdq.metadata import set_metadata
from qmnv3.export.onnx_qdq.operations import emit
from qmnv3.files import atomic_file
from qmnv3.ir import QuantGraph, Tensor

# HardSwish needs opset 14; opset 17 with IR version 8 loads in every ONNX Runtime since 2022 (1.12).
OPSET = 17
IR_VERSION = 8
BATCH = "batch"


def build_onnx(graph: QuantGraph) -> onnx.ModelProto:
    """The ONNX form of `graph`, lowered for the target "ort" or all float32, checked by onnx.checker.

    Activations are NCHW with a dynamic batch dimension; integer ones are uint8 (int8 shifted by 128),
    weights int8, biases int32. Raises ExportError naming an operation that ONNX cannot hold.
    """
    assembly = Assembly(graph)
    for op in graph.ops:
        emit(assembly, op)
    onnx_graph = helper.make_graph(
        assembly.nodes,
        graph.metadata.name or "model",
        [_value_info(graph.tensors[name]) for name in graph.inputs],
        [_value_info(graph.tensors[name]) for name in graph.outputs],
        assembly.initializers,
    )
    model = helper.make_model(
        onnx_graph,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="qmnv3",
        producer_version=__version__,
    )
    set_metadata(model, graph.metadata)
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"{graph.metadata.name}: the ONNX checker refuses the graph: {error}") from error
    return model


def write_onnx(graph: QuantGraph, path: Path) -> None:
    """Write `build_onnx(graph)` to `path`, atomically; the same graph always gives the same bytes."""
    content = build_onnx(graph).SerializeToString(deterministic=True)
    with atomic_file(path) as temporary:
        temporary.write_bytes(content)


def _value_info(tensor: Tensor) -> onnx.ValueInfoProto:
    shape: list[int | str] = [BATCH, *tensor.shape[1:]]
    if len(shape) == 4:
        shape = [shape[0], shape[3], shape[1], shape[2]]
    kind = TensorProto.FLOAT if tensor.dtype == "float32" else TensorProto.UINT8
    return helper.make_tensor_value_info(tensor.name, kind, shape)
