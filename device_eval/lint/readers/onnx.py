"""ONNX files in QDQ or QOperator form, whoever wrote them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import numpy_helper

from device_eval.lint.description import Carried, Grid, Model, Tensor
from device_eval.lint.readers.onnx_fold import fold
from device_eval.lint.readers.onnx_nodes import Node
from device_eval.onnx_operations import optimized_operations
from device_eval.probe import probe
from qmnv3.errors import ModelFileError
from qmnv3.export.onnx_qdq import read_metadata
from qmnv3.export.onnx_qdq.metadata import METADATA_KEY

Constants = dict[str, Any]


def read_onnx(path: Path) -> Model:
    """Describe a .onnx file; ModelFileError when it is none, is damaged or empty."""
    probe(path, "read")
    described = describe_onnx(path)
    try:
        return replace(described, runtime_floats=optimized_operations(path).float_ops)
    except ModelFileError as error:
        return replace(described, runtime_error=str(error).removeprefix(f"{path}: "))


def describe_onnx(path: Path) -> Model:
    """What the file says, before ONNX Runtime has optimized it; raises what `read_onnx` does."""
    if path.stat().st_size == 0:
        raise ModelFileError(f"{path}: empty file; export the model again")
    try:
        model = onnx.load(path)
        if not model.HasField("graph") or not model.graph.node:
            raise ModelFileError(f"{path}: not an ONNX model (it holds no operations)")
        onnx.checker.check_model(model)
        constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
        nodes = _nodes(model.graph, constants)
        tensors = _tensors(model, constants, nodes)
        # A zero point may be NaN: no reason to warn of the cast.
        with np.errstate(invalid="ignore"):
            ops, grids = fold(nodes, constants, {value.name for value in model.graph.output})
    except (DecodeError, onnx.checker.ValidationError, OSError, ValueError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise ModelFileError(f"{path}: not a readable ONNX model ({reason})") from error
    _attach(tensors, grids)
    graph_inputs = [v.name for v in model.graph.input if v.name not in constants]
    outputs = tuple(value.name for value in model.graph.output)
    return Model(path, "onnx", tensors, ops, tuple(graph_inputs), outputs, _carried(path, model))


def _nodes(graph: Any, constants: Constants) -> list[Node]:
    nodes = []
    for made in graph.node:
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in made.attribute}
        if made.op_type == "Constant":
            if "value" in attributes:
                constants[made.output[0]] = numpy_helper.to_array(attributes["value"])
            elif attributes:
                constants[made.output[0]] = np.asarray(next(iter(attributes.values())))
            continue
        nodes.append(Node(made.op_type, made.name, tuple(made.input), tuple(made.output), attributes))
    return nodes


def _tensors(model: onnx.ModelProto, constants: Constants, nodes: list[Node]) -> dict[str, Tensor]:
    """Every value by name, types and shapes as far as shape inference finds them."""
    try:
        graph = onnx.shape_inference.infer_shapes(model).graph
    # Shape inference raises a bare C++ exception type of its own on what it cannot follow.
    except Exception:
        graph = model.graph
    tensors = {
        name: Tensor(name, data.shape, str(data.dtype), None, data) for name, data in constants.items()
    }
    for value in (*graph.input, *graph.value_info, *graph.output):
        if value.name in tensors:
            continue
        kind = value.type.tensor_type
        dtype = "float32"
        if kind.elem_type:
            dtype = str(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type))
        shape = tuple(d.dim_value or 1 for d in kind.shape.dim)
        tensors[value.name] = Tensor(value.name, shape, dtype)
    for node in nodes:
        for name in node.outputs:
            tensors.setdefault(name, Tensor(name, (), "float32"))
    return tensors


def _attach(tensors: dict[str, Tensor], grids: dict[str, tuple[Grid, str, Any]]) -> None:
    """Give every tensor that some node quantizes or reads as quantized its grid, type and constant."""
    for name, (grid, dtype, data) in grids.items():
        held = tensors.get(name, Tensor(name, (), dtype))
        constant = data if data is not None else held.data
        tensors[name] = Tensor(name, held.shape, dtype, grid, constant)


def _carried(path: Path, model: onnx.ModelProto) -> Carried:
    # "onnx.infer", "onnx.quant.pre_process": marks of ONNX Runtime's tools, nothing for a user.
    keys = tuple(entry.key for entry in model.metadata_props if not entry.key.startswith("onnx."))
    if METADATA_KEY not in keys:
        return Carried(False, False, keys=keys)
    try:
        metadata = read_metadata(path)
    except ModelFileError as error:
        return Carried(False, False, str(error).removeprefix(f"{path}: "), keys)
    return Carried(metadata is not None, bool(metadata and metadata.labels), keys=keys)
