"""Which operations ONNX Runtime really executes, and which of them are still float."""

import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import onnx

from device_eval.runners.onnx import load_session, session_options


@dataclass(frozen=True)
class OnnxOperations:
    """Operation counts of the graph after ONNX Runtime's optimizer, most frequent first.

    `float_ops` counts those that produce float32, dequantization itself not included.
    """

    op_counts: dict[str, int]
    float_ops: dict[str, int]


def optimized_operations(path: Path) -> OnnxOperations:
    """Optimize `path` as a session would and count what is left; ModelFileError when it cannot be loaded."""
    with tempfile.TemporaryDirectory() as folder:
        optimized = Path(folder) / "optimized.onnx"
        options = session_options(threads=1)
        options.optimized_model_filepath = str(optimized)
        load_session(path, options)
        graph = onnx.load(optimized).graph
    all_ops = Counter(node.op_type for node in graph.node)
    float_ops = Counter(node.op_type for node in _float_nodes(graph) if node.op_type != "DequantizeLinear")
    return OnnxOperations(dict(all_ops.most_common()), dict(float_ops.most_common()))


def _float_nodes(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    # ONNX Runtime's own operators have no shape inference, but all take their element type from input 0.
    float_type = onnx.TensorProto.FLOAT
    floats = {tensor.name for tensor in graph.initializer if tensor.data_type == float_type}
    floats |= {value.name for value in graph.input if value.type.tensor_type.elem_type == float_type}
    nodes = []
    for node in graph.node:
        quantizes = node.op_type in ("QuantizeLinear", "ConvInteger", "MatMulInteger")
        if node.op_type == "DequantizeLinear" or (not quantizes and node.input and node.input[0] in floats):
            floats |= set(node.output)
            nodes.append(node)
    return nodes
