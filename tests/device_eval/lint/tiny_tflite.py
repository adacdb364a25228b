"""TFLite files of a few operations, with any scale, written by the schema's own object API."""

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from device_eval.lint import Finding, lint

DTYPES = {
    "float32": schema.TensorType.FLOAT32,
    "int8": schema.TensorType.INT8,
    "uint8": schema.TensorType.UINT8,
    "int16": schema.TensorType.INT16,
    "int32": schema.TensorType.INT32,
}
ACTIVATIONS = {"none": 0, "relu": 1, "relu6": 3}


@dataclass
class TinyTflite:
    """Tensors and operations in the order they are added; `write` gives the file."""

    model: Any = field(default_factory=schema.ModelT)

    def __post_init__(self) -> None:
        graph = schema.SubGraphT()
        graph.tensors, graph.operators, graph.inputs, graph.outputs = [], [], [], []
        self.graph = graph
        self.model.version, self.model.subgraphs, self.model.operatorCodes = 3, [graph], []
        empty = schema.BufferT()
        self.model.buffers = [empty]

    def tensor(
        self,
        name: str,
        shape: tuple[int, ...],
        scale: float | list[float] | None = None,
        zero_point: int = 0,
        *,
        dtype: str = "int8",
        axis: int = 0,
        data: Any = None,
    ) -> int:
        """Index of a new tensor; `scale` None for float32, a list for one scale per slice of `axis`."""
        made = schema.TensorT()
        made.name, made.shape, made.type = name, list(shape), DTYPES[dtype]
        if scale is not None:
            quantization = schema.QuantizationParametersT()
            quantization.scale = np.atleast_1d(np.asarray(scale, np.float32))
            quantization.zeroPoint = np.full(quantization.scale.shape, zero_point, np.int64)
            quantization.quantizedDimension = axis
            made.quantization = quantization
        made.buffer = 0
        if data is not None:
            buffer = schema.BufferT()
            values = np.broadcast_to(np.asarray(data, dtype), shape)
            buffer.data = np.frombuffer(np.ascontiguousarray(values).tobytes(), np.uint8)
            self.model.buffers.append(buffer)
            made.buffer = len(self.model.buffers) - 1
        self.graph.tensors.append(made)
        return len(self.graph.tensors) - 1

    def op(self, kind: str, inputs: list[int], output: int, options: Any = None) -> int:
        """Append operator `kind`, the builtin's name; returns `output`."""
        code = schema.OperatorCodeT()
        code.builtinCode = getattr(schema.BuiltinOperator, kind)
        code.deprecatedBuiltinCode, code.version = min(code.builtinCode, 127), 2
        if kind in ("CONV_2D", "DEPTHWISE_CONV_2D"):
            code.version = 3
        if kind in ("HARD_SWISH", "RESHAPE", "AVERAGE_POOL_2D", "LOGISTIC", "SOFTMAX", "QUANTIZE"):
            code.version = 1 if kind in ("HARD_SWISH", "RESHAPE") else 2
        self.model.operatorCodes.append(code)
        made = schema.OperatorT()
        made.opcodeIndex, made.inputs, made.outputs = len(self.model.operatorCodes) - 1, inputs, [output]
        if options is not None:
            made.builtinOptions = options
            name = type(options).__name__.removesuffix("T")
            made.builtinOptionsType = getattr(schema.BuiltinOptions, name)
        self.graph.operators.append(made)
        return output

    def conv(
        self,
        name: str,
        x: int,
        weight: Any,
        scale: float | list[float],
        out: tuple[float, int],
        *,
        depthwise: bool = False,
        bias: Any = 0,
        activation: str = "none",
        weight_zero_point: int = 0,
    ) -> int:
        """A 1x1-stride SAME convolution; `weight` [O,kh,kw,I] or depthwise [1,kh,kw,C]; `out` its grid."""
        source = self.graph.tensors[x]
        weight = np.asarray(weight)
        axis = 3 if depthwise else 0
        channels = weight.shape[axis]
        dtype = "uint8" if source.type == DTYPES["uint8"] else "int8"
        scales = np.atleast_1d(np.asarray(scale, np.float32))
        scale_axis = axis if scales.size > 1 else 0
        w = self.tensor(
            f"{name}/weight",
            weight.shape,
            scale,
            weight_zero_point,
            dtype=dtype,
            axis=scale_axis,
            data=weight,
        )
        bias_scale = (np.float32(source.quantization.scale[0]) * scales).tolist()
        b = self.tensor(
            f"{name}/bias",
            (channels,),
            bias_scale if scales.size > 1 else bias_scale[0],
            dtype="int32",
            data=bias,
        )
        y = self.tensor(name, (*source.shape[:3], channels), *out, dtype=dtype)
        options = schema.DepthwiseConv2DOptionsT() if depthwise else schema.Conv2DOptionsT()
        options.strideH = options.strideW = options.dilationHFactor = options.dilationWFactor = 1
        options.fusedActivationFunction = ACTIVATIONS[activation]
        if depthwise:
            options.depthMultiplier = 1
        return self.op("DEPTHWISE_CONV_2D" if depthwise else "CONV_2D", [x, w, b], y, options)

    def binary(
        self, kind: str, a: int, b: int, name: str, out: tuple[float, int], activation: str = "none"
    ) -> int:
        """ADD, SUB or MUL of two tensors into the grid `out`."""
        options = getattr(schema, f"{kind.title()}OptionsT")()
        options.fusedActivationFunction = ACTIVATIONS[activation]
        wider = max(self.graph.tensors[a].shape, self.graph.tensors[b].shape, key=np.prod)
        dtype = next(name for name, code in DTYPES.items() if code == self.graph.tensors[a].type)
        return self.op(kind, [a, b], self.tensor(name, tuple(wider), *out, dtype=dtype), options)

    def pool(self, kind: str, x: int, name: str, out: tuple[float, int]) -> int:
        """AVERAGE_POOL_2D or MAX_POOL_2D over the whole map."""
        n, height, width, channels = self.graph.tensors[x].shape
        options = schema.Pool2DOptionsT()
        options.padding = schema.Padding.VALID
        options.strideH, options.strideW = height, width
        options.filterHeight, options.filterWidth = height, width
        return self.op(kind, [x], self.tensor(name, (n, 1, 1, channels), *out), options)

    def hard_swish(self, x: int, name: str, out: tuple[float, int]) -> int:
        """HARD_SWISH."""
        y = self.tensor(name, tuple(self.graph.tensors[x].shape), *out)
        return self.op("HARD_SWISH", [x], y, schema.HardSwishOptionsT())

    def bytes(self, inputs: list[int], outputs: list[int]) -> bytes:
        """The flatbuffer."""
        self.graph.inputs, self.graph.outputs = inputs, outputs
        builder = flatbuffers.Builder(1024)
        builder.Finish(self.model.Pack(builder), b"TFL3")
        return bytes(builder.Output())

    def write(self, path: Path, inputs: list[int], outputs: list[int]) -> Path:
        """The flatbuffer as a file."""
        path.write_bytes(self.bytes(inputs, outputs))
        return path


def invoke(model: bytes, *images: np.ndarray) -> np.ndarray:
    """Output integers of LiteRT's built-in kernels."""
    resolver = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    made = Interpreter(model_content=model, experimental_op_resolver_type=resolver, num_threads=1)
    made.allocate_tensors()
    for detail, image in zip(made.get_input_details(), images, strict=True):
        made.set_tensor(detail["index"], image)
    made.invoke()
    return made.get_tensor(made.get_output_details()[0]["index"])


def linted(model: TinyTflite, inputs: list[int], output: int) -> list[Finding]:
    """Findings of the file with these inputs and this output; metadata, which none has, left out."""
    with tempfile.TemporaryDirectory() as folder:
        report = lint(model.write(Path(folder) / "tiny.tflite", inputs, [output]))
    return [finding for finding in report.findings if finding.rule != "metadata"]
