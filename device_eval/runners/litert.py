"""TFLite files in LiteRT."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from device_eval.native_output import captured_stderr
from device_eval.probe import probe
from device_eval.runners.interface import FloatArray, InputDescription, Kernel, OutputKind
from qmnv3.errors import ModelFileError
from qmnv3.export.tflite import read_metadata
from qmnv3.ir import Metadata, QParams

Details = Mapping[str, Any]

RESOLVERS: dict[Kernel, OpResolverType] = {
    "xnnpack": OpResolverType.AUTO,
    "builtin": OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    "reference": OpResolverType.BUILTIN_REF,
}


class LitertRunner:
    """One TFLite classifier, batch 1, integer inputs and outputs converted by the file's own scales."""

    def __init__(self, path: Path, kernel: Kernel = "xnnpack", threads: int = 1) -> None:
        self.path = path
        self.kernel = kernel
        self.runtime = f"LiteRT {kernel}"
        self._interpreter = load_interpreter(path, kernel, threads)
        self.metadata: Metadata | None = read_metadata(path)
        self._input = _only(path, "inputs", self._interpreter.get_input_details())
        self._output = _only(path, "outputs", self._interpreter.get_output_details())
        operations = [op for op in operations_of(self._interpreter) if op["op_name"] != "DELEGATE"]
        self.input = _describe_input(path, self._input, operations, self._interpreter.get_tensor_details())
        self.num_outputs = _num_outputs(path, self._output)
        self.output_kind: OutputKind = _output_kind(self._output["index"], operations)

    def stage(self, images: FloatArray) -> None:
        """Hand in one normalised image [1, H, W, 3]."""
        qparams, dtype = _qparams(self._input), self._input["dtype"]
        values = images if qparams is None else qparams.quantize(images)
        self._interpreter.set_tensor(self._input["index"], values.astype(dtype))

    def invoke(self) -> None:
        """Execute the network on what was staged."""
        self._interpreter.invoke()

    def fetch(self) -> FloatArray:
        """Outputs [1, num_outputs] of the last `invoke`."""
        values = self._interpreter.get_tensor(self._output["index"]).reshape(1, self.num_outputs)
        qparams = _qparams(self._output)
        return values.astype(np.float32) if qparams is None else qparams.dequantize(values)

    def run(self, images: FloatArray) -> FloatArray:
        """Outputs [N, num_outputs] of normalised images [N, H, W, 3], one after the other."""
        rows = []
        for image in images:
            self.stage(image[None])
            self.invoke()
            rows.append(self.fetch())
        return np.concatenate(rows)


def load_interpreter(path: Path, kernel: Kernel, threads: int) -> Interpreter:
    """An allocated LiteRT interpreter; ModelFileError when it is no TFLite model or the kernels refuse it."""
    probe(path, kernel)
    content = path.read_bytes()
    if not content:
        raise ModelFileError(f"{path}: empty file; export the model again")
    try:
        with captured_stderr():
            interpreter = Interpreter(
                model_content=content,
                num_threads=threads,
                experimental_op_resolver_type=RESOLVERS[kernel],
            )
    except (ValueError, RuntimeError) as error:
        raise ModelFileError(f"{path}: not a TFLite model LiteRT can load ({_line(error)})") from error
    try:
        with captured_stderr():
            interpreter.allocate_tensors()
            # A damaged file may name a tensor in no UTF-8, which only shows here.
            operations_of(interpreter)
    except (ValueError, RuntimeError) as error:
        advice = (
            "use --kernel builtin, or export it for xnnpack" if kernel == "xnnpack" else "export it again"
        )
        raise ModelFileError(
            f"{path}: LiteRT's {kernel} kernels refuse it ({_line(error)}); {advice}"
        ) from error
    return interpreter


def operations_of(interpreter: Interpreter) -> list[dict[str, Any]]:
    """LiteRT's records (index, op_name, inputs, outputs) of all nodes; the last may be named DELEGATE."""
    records: list[dict[str, Any]] = interpreter._get_ops_details()
    return records


def _only(path: Path, what: str, details: list[dict[str, Any]]) -> dict[str, Any]:
    if len(details) != 1:
        raise ModelFileError(f"{path}: {len(details)} {what}; an image classifier has one")
    return details[0]


def _describe_input(
    path: Path, details: Details, operations: Iterable[Details], tensors: Iterable[Details]
) -> InputDescription:
    shape = tuple(int(n) for n in details["shape"])
    if len(shape) != 4 or shape[0] != 1 or shape[1] != shape[2] or shape[3] != 3:
        raise ModelFileError(f"{path}: input shape {list(shape)}; expected [1, side, side, 3]")
    qparams = _qparams(details)
    if qparams is None:
        # A converter's float input is quantized by the first operation: that grid says the range.
        first = [op for op in operations if details["index"] in op["inputs"] and op["op_name"] == "QUANTIZE"]
        by_index = {t["index"]: t for t in tensors}
        qparams = _qparams(by_index[int(first[0]["outputs"][0])]) if first else None
    bounds = qparams.dequantize([qparams.qmin, qparams.qmax]) if qparams else None
    value_range = (float(bounds[0]), float(bounds[1])) if bounds is not None else None
    return InputDescription(shape[1], np.dtype(details["dtype"]).name, value_range)


def _num_outputs(path: Path, details: Details) -> int:
    shape = [int(n) for n in details["shape"]]
    if not shape or np.prod(shape) != shape[-1]:
        raise ModelFileError(f"{path}: output shape {shape}; expected [1, classes]")
    return shape[-1]


def _output_kind(tensor: int, operations: list[dict[str, Any]]) -> OutputKind:
    producers = {int(t): op for op in operations for t in op["outputs"]}
    while tensor in producers and producers[tensor]["op_name"] in ("DEQUANTIZE", "QUANTIZE", "RESHAPE"):
        tensor = int(producers[tensor]["inputs"][0])
    return "probabilities" if producers.get(tensor, {}).get("op_name") == "SOFTMAX" else "logits"


def _qparams(details: Details) -> QParams | None:
    quantization = details["quantization_parameters"]
    if quantization["scales"].size != 1:
        return None
    limits = np.iinfo(details["dtype"])
    return QParams(
        quantization["scales"][0], quantization["zero_points"][0], int(limits.min), int(limits.max)
    )


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
