"""ONNX files in ONNX Runtime."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

from device_eval.probe import probe
from device_eval.runners.interface import FloatArray, InputDescription, OutputKind
from qmnv3.errors import ModelFileError
from qmnv3.export.onnx_qdq import read_metadata
from qmnv3.ir import Metadata

_ERRORS_ONLY = 3


class OnnxRunner:
    """One ONNX classifier with a float32 NCHW input, on the CPU; batched if the file's batch is dynamic."""

    def __init__(self, path: Path, threads: int = 1) -> None:
        self.path = path
        self.runtime = "ONNX Runtime"
        self._session = load_session(path, session_options(threads))
        self.metadata: Metadata | None = read_metadata(path)
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        if len(inputs) != 1 or len(outputs) != 1:
            raise ModelFileError(
                f"{path}: {len(inputs)} inputs and {len(outputs)} outputs; expected one each"
            )
        self.input = _describe_input(path, inputs[0])
        self.num_outputs = _num_outputs(path, outputs[0].shape)
        self.output_kind: OutputKind = _output_kind(path)
        self._name = inputs[0].name
        self._dynamic_batch = not isinstance(inputs[0].shape[0], int)
        self._feed: dict[str, FloatArray] = {}
        self._fetched: list[Any] = []

    def stage(self, images: FloatArray) -> None:
        """Hand in normalised images [N, H, W, 3]."""
        self._feed = {self._name: np.ascontiguousarray(images.transpose(0, 3, 1, 2), np.float32)}

    def invoke(self) -> None:
        """Execute the network on what was staged."""
        self._fetched = self._session.run(None, self._feed)

    def run(self, images: FloatArray) -> FloatArray:
        """Outputs [N, num_outputs] of normalised images [N, H, W, 3]."""
        parts = [images] if self._dynamic_batch else [image[None] for image in images]
        rows: list[FloatArray] = []
        for part in parts:
            self.stage(part)
            self.invoke()
            rows.append(np.asarray(self._fetched[0], np.float32).reshape(len(part), self.num_outputs))
        return np.concatenate(rows)


def session_options(threads: int) -> onnxruntime.SessionOptions:
    """Options with `threads` intra-op threads that sleep, not spin, between runs.

    Spinning threads would slow down whatever is measured in turn with this session.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _ERRORS_ONLY
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def load_session(path: Path, options: onnxruntime.SessionOptions) -> onnxruntime.InferenceSession:
    """A CPU session; ModelFileError when ONNX Runtime cannot load the file."""
    probe(path, "onnxruntime")
    if path.stat().st_size == 0:
        raise ModelFileError(f"{path}: empty file; export the model again")
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    # ONNX Runtime's exceptions share no public base class below Exception.
    except Exception as error:
        reason = " ".join(str(error).split())
        raise ModelFileError(f"{path}: not a model ONNX Runtime can load ({reason})") from error


def _describe_input(path: Path, node: Any) -> InputDescription:
    shape = list(node.shape)
    if len(shape) != 4 or shape[1] != 3 or not isinstance(shape[2], int) or shape[2] != shape[3]:
        raise ModelFileError(f"{path}: input shape {shape}; expected [batch, 3, side, side]")
    if isinstance(shape[0], int) and shape[0] != 1:
        raise ModelFileError(f"{path}: fixed batch of {shape[0]}; export it with batch 1 or dynamic")
    if node.type != "tensor(float)":
        raise ModelFileError(f"{path}: input is {node.type}; expected float32 images")
    return InputDescription(shape[2], "float32")


def _num_outputs(path: Path, shape: list[Any]) -> int:
    between = [n for n in shape[1:-1] if isinstance(n, int) and n != 1]
    if not shape or not isinstance(shape[-1], int) or between:
        raise ModelFileError(f"{path}: output shape {shape}; expected [batch, classes]")
    return shape[-1]


def _output_kind(path: Path) -> OutputKind:
    graph = onnx.load(path, load_external_data=False).graph
    producers = {name: node for node in graph.node for name in node.output}
    tensor = graph.output[0].name
    while tensor in producers and producers[tensor].op_type in (
        "DequantizeLinear",
        "QuantizeLinear",
        "Reshape",
        "Flatten",
    ):
        tensor = producers[tensor].input[0]
    ends_in_softmax = tensor in producers and producers[tensor].op_type == "Softmax"
    return "probabilities" if ends_in_softmax else "logits"
