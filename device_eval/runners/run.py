"""RUN folders of `qmnv3 ptq`: the integer graph itself, executed by the numpy reference.

The graph is lowered as for an xnnpack export, the default, so the result is that file's.
"""

from pathlib import Path
from typing import Literal

import numpy as np

from device_eval.runners.interface import FloatArray, InputDescription, OutputKind
from qmnv3.errors import ModelFileError
from qmnv3.ir import Metadata, QuantGraph
from qmnv3.lowering import lower
from qmnv3.reference import run
from qmnv3.runs import load_run_graph


class RunRunner:
    """The QuantGraph of one RUN folder, in the arithmetic of TFLite's reference kernels or of XNNPACK."""

    def __init__(self, path: Path, semantics: Literal["tflite", "xnnpack"] = "tflite") -> None:
        self.path = path
        self.runtime = f"integer reference ({semantics})"
        self._semantics = semantics
        self._graph = lower(load_run_graph(path), "xnnpack")
        self.metadata: Metadata | None = self._graph.metadata
        self.input = _describe_input(path, self._graph)
        self.num_outputs = self._graph.tensors[self._graph.outputs[0]].shape[-1]
        self.output_kind: OutputKind = "logits"

    def run(self, images: FloatArray) -> FloatArray:
        """Outputs [N, num_outputs] of normalised images [N, H, W, 3]."""
        source, target = self._graph.tensors[self._graph.inputs[0]], self._graph.outputs[0]
        qparams = source.qparams
        values = images if qparams is None else qparams.quantize(images).astype(source.dtype)
        outputs = run(self._graph, {source.name: values}, self._semantics)[target]
        qparams = self._graph.tensors[target].qparams
        reals = outputs if qparams is None else qparams.dequantize(outputs)
        return np.asarray(reals, np.float32).reshape(len(images), self.num_outputs)


def _describe_input(path: Path, graph: QuantGraph) -> InputDescription:
    if len(graph.inputs) != 1 or len(graph.outputs) != 1:
        raise ModelFileError(
            f"{path}: {len(graph.inputs)} inputs and {len(graph.outputs)} outputs; expected one each"
        )
    tensor = graph.tensors[graph.inputs[0]]
    if len(tensor.shape) != 4 or tensor.shape[1] != tensor.shape[2] or tensor.shape[3] != 3:
        raise ModelFileError(f"{path}: input shape {list(tensor.shape)}; expected [1, side, side, 3]")
    return InputDescription(tensor.shape[1], tensor.dtype)
