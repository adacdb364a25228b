"""TFLite flatbuffers, whoever wrote them, through the schema that LiteRT ships."""

import struct
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter

from device_eval.lint.description import Carried, Grid, Model, Op, Tensor
from device_eval.lint.readers.delegate import with_partitions
from device_eval.native_output import captured_stderr
from device_eval.probe import probe
from qmnv3.errors import ModelFileError
from qmnv3.export.tflite import read_metadata

_DAMAGE = (struct.error, ValueError, KeyError, IndexError, TypeError, AttributeError, RuntimeError)
_KINDS = {
    "CONV_2D": "Conv",
    "DEPTHWISE_CONV_2D": "DepthwiseConv",
    "FULLY_CONNECTED": "FullyConnected",
    "ADD": "Add",
    "SUB": "Sub",
    "MUL": "Mul",
    "MEAN": "Mean",
    "AVERAGE_POOL_2D": "AveragePool",
    "MAX_POOL_2D": "MaxPool",
    "HARD_SWISH": "HardSwish",
    "RELU": "Relu",
    "RELU6": "Relu6",
    "LOGISTIC": "Logistic",
    "SOFTMAX": "Softmax",
    "TANH": "Tanh",
    "QUANTIZE": "Quantize",
    "DEQUANTIZE": "Dequantize",
    "RESHAPE": "Reshape",
    "SQUEEZE": "Reshape",
    "EXPAND_DIMS": "Reshape",
    "TRANSPOSE": "Transpose",
    "PAD": "Pad",
}
_WEIGHT_AXIS = {"Conv": 0, "DepthwiseConv": 3, "FullyConnected": 0}
_DTYPES = {
    schema.TensorType.FLOAT32: "float32",
    schema.TensorType.FLOAT16: "float16",
    schema.TensorType.FLOAT64: "float64",
    schema.TensorType.INT32: "int32",
    schema.TensorType.INT64: "int64",
    schema.TensorType.INT16: "int16",
    schema.TensorType.UINT16: "uint16",
    schema.TensorType.INT8: "int8",
    schema.TensorType.UINT8: "uint8",
    schema.TensorType.BOOL: "bool",
}


def _names(enumeration: type) -> dict[int, str]:
    return {value: name for name, value in vars(enumeration).items() if isinstance(value, int)}


_BUILTINS = _names(schema.BuiltinOperator)
_ACTIVATIONS = {k: v.lower() for k, v in _names(schema.ActivationFunctionType).items()}


def read_tflite(path: Path) -> Model:
    """Describe a .tflite file; ModelFileError when it is none, is damaged, or holds several subgraphs."""
    probe(path, "read")
    return with_partitions(describe_tflite(path), path)


def describe_tflite(path: Path) -> Model:
    """What the file says, before LiteRT has run it; raises what `read_tflite` does."""
    content = path.read_bytes()
    _verify(path, content)
    try:
        model = schema.ModelT.InitFromPackedBuf(content, 0)
        graphs = model.subgraphs
        if len(graphs) != 1:
            raise ModelFileError(f"{path}: {len(graphs)} subgraphs; lint reads models with one")
        tensors = _tensors(model, graphs[0])
        ops = tuple(_op(model, i, op, tensors) for i, op in enumerate(graphs[0].operators))
        return Model(
            path,
            "tflite",
            {t.name: t for t in tensors},
            ops,
            tuple(tensors[i].name for i in graphs[0].inputs),
            tuple(tensors[i].name for i in graphs[0].outputs),
            _carried(path),
        )
    except _DAMAGE as error:
        raise ModelFileError(f"{path}: damaged TFLite model ({error}); export it again") from error


def _verify(path: Path, content: bytes) -> None:
    """Let LiteRT check the flatbuffer: the Python classes believe every offset and length in it."""
    if not content:
        raise ModelFileError(f"{path}: empty file; export the model again")
    try:
        with captured_stderr():
            Interpreter(model_content=content)
    except (ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise ModelFileError(f"{path}: not a TFLite model LiteRT can load ({reason})") from error


def _tensors(model: Any, graph: Any) -> list[Tensor]:
    names = [(tensor.name or b"").decode("utf-8", "replace") for tensor in graph.tensors]
    doubled = {name for name in names if names.count(name) > 1} | {""}
    return [
        _tensor(model, tensor, f"{name or 'tensor'} #{i}" if name in doubled else name)
        for i, (name, tensor) in enumerate(zip(names, graph.tensors, strict=True))
    ]


def _tensor(model: Any, tensor: Any, name: str) -> Tensor:
    shape = tuple(int(n) for n in tensor.shape) if tensor.shape is not None else ()
    dtype = _DTYPES.get(tensor.type, "other")
    raw = model.buffers[tensor.buffer].data
    data = None
    if raw is not None and len(raw) and dtype != "other":
        values = np.frombuffer(np.asarray(raw, np.uint8).tobytes(), dtype)
        data = values.reshape(shape) if values.size == np.prod(shape) else None
    return Tensor(name, shape, dtype, _grid(tensor.quantization), data)


def _grid(quantization: Any) -> Grid | None:
    if quantization is None or quantization.scale is None or not len(quantization.scale):
        return None
    # A scale may be NaN: no reason to warn of the cast.
    with np.errstate(invalid="ignore"):
        scale = np.asarray(quantization.scale, np.float64)
    zero_point = quantization.zeroPoint
    points = np.zeros(1, np.int64) if zero_point is None else np.asarray(zero_point, np.int64)
    if points.size == 1:
        points = np.broadcast_to(points, scale.shape)
    return Grid(scale, points, int(quantization.quantizedDimension))


def _op(model: Any, index: int, op: Any, tensors: list[Tensor]) -> Op:
    code = model.operatorCodes[op.opcodeIndex]
    builtin = max(code.builtinCode, code.deprecatedBuiltinCode)
    native = _BUILTINS.get(builtin, f"BUILTIN_{builtin}")
    if native == "CUSTOM":
        native = f"CUSTOM {(code.customCode or b'').decode('utf-8', 'replace')}"
    kind = _KINDS.get(native, native)
    inputs = tuple(tensors[i].name if i >= 0 else "" for i in op.inputs)
    outputs = tuple(tensors[i].name for i in op.outputs if i >= 0)
    activation = _ACTIVATIONS.get(getattr(op.builtinOptions, "fusedActivationFunction", 0), "other")
    made = [tensors[i] for i in op.outputs if i >= 0]
    read = [tensors[i] for i in op.inputs if i >= 0]
    return Op(
        index, kind, native, inputs, outputs, activation, _WEIGHT_AXIS.get(kind), _float(kind, read, made)
    )


def _float(kind: str, read: list[Tensor], made: list[Tensor]) -> str | None:
    if kind in ("Quantize", "Dequantize") or not any(tensor.is_float for tensor in made):
        return None
    if any(tensor.data is not None and tensor.grid is not None for tensor in read):
        return "only its weights are quantized, its activations are float"
    return "its tensors are float"


def _carried(path: Path) -> Carried:
    try:
        metadata = read_metadata(path)
    except ModelFileError as error:
        return Carried(False, False, str(error).removeprefix(f"{path}: "))
    return Carried(metadata is not None, bool(metadata and metadata.labels))
