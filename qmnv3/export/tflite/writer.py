"""A lowered QuantGraph as the bytes of a .tflite file."""

from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from qmnv3 import __version__
from qmnv3.errors import ExportError
from qmnv3.export.tflite.metadata import append_labels, metadata_entries
from qmnv3.export.tflite.operators import Encoding, encode_operator
from qmnv3.export.tflite.tables import ModelTables
from qmnv3.export.tflite.versions import minimum_runtime
from qmnv3.files import atomic_file
from qmnv3.ir import Op, QuantGraph

SCHEMA_VERSION = 3
FILE_IDENTIFIER = b"TFL3"
SIGNATURE_KEY = "serving_default"
_RUNTIME_VERSION_BYTES = 16


def write_tflite(graph: QuantGraph, path: Path) -> None:
    """Write `graph` to `path` atomically. ExportError as `build_tflite`."""
    data = build_tflite(graph)
    with atomic_file(path) as temporary:
        temporary.write_bytes(data)


def build_tflite(graph: QuantGraph) -> bytes:
    """The .tflite file of a graph already lowered for TFLite; the same graph gives the same bytes.

    Source: the TFLite schema, version 3. Raises ExportError for what TFLite cannot express.
    """
    tables = ModelTables()
    inputs = [tables.tensor(graph.tensors[name]) for name in graph.inputs]
    encodings = [encode_operator(op, graph) for op in graph.ops]
    operators = [_operator(op, code, graph, tables) for op, code in zip(graph.ops, encodings, strict=True)]
    outputs = [tables.tensor(graph.tensors[name]) for name in graph.outputs]
    if set(inputs) & set(outputs):
        raise ExportError(f"{graph.metadata.name}: a graph input is also an output; there is nothing to run")
    runtime = minimum_runtime((code.builtin, code.version) for code in encodings)
    entries = {
        "min_runtime_version": runtime.encode().ljust(_RUNTIME_VERSION_BYTES, b"\0"),
        **metadata_entries(graph),
    }
    model = schema.ModelT(
        version=SCHEMA_VERSION,
        description=f"qmnv3 {__version__}",
        subgraphs=[
            schema.SubGraphT(
                name="main",
                tensors=tables.tensors,
                inputs=np.asarray(inputs, np.int32),
                outputs=np.asarray(outputs, np.int32),
                operators=operators,
            )
        ],
        operatorCodes=tables.operator_codes,
        metadata=[schema.MetadataT(name, tables.buffer(data)) for name, data in entries.items()],
        buffers=tables.buffers,
        signatureDefs=[_signature(graph, inputs, outputs)],
    )
    return append_labels(_serialize(model), graph.metadata.labels)


def _operator(op: Op, encoding: Encoding, graph: QuantGraph, tables: ModelTables) -> Any:
    inputs = [tables.tensor(graph.tensors[name]) for name in op.inputs]
    if encoding.operand is not None:
        inputs.append(tables.int32_constant(f"{op.name}/{encoding.operand.role}", encoding.operand.values))
    return schema.OperatorT(
        opcodeIndex=tables.operator_code(encoding.code, encoding.version),
        inputs=np.asarray(inputs, np.int32),
        outputs=np.asarray([tables.tensor(graph.tensors[op.output])], np.int32),
        builtinOptionsType=encoding.options_type,
        builtinOptions=encoding.options,
    )


def _signature(graph: QuantGraph, inputs: list[int], outputs: list[int]) -> Any:
    def maps(names: tuple[str, ...], indices: list[int]) -> list[Any]:
        return [schema.TensorMapT(name, index) for name, index in zip(names, indices, strict=True)]

    return schema.SignatureDefT(
        inputs=maps(graph.inputs, inputs),
        outputs=maps(graph.outputs, outputs),
        signatureKey=SIGNATURE_KEY,
        subgraphIndex=0,
    )


def _serialize(model: Any) -> bytes:
    constants = sum(len(buffer.data) for buffer in model.buffers)
    builder = flatbuffers.Builder(constants + (1 << 16))
    builder.Finish(model.Pack(builder), FILE_IDENTIFIER)
    return bytes(builder.Output())
