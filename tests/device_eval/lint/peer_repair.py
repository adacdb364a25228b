"""Repairs the findings of lint in a .tflite file of TFLiteConverter, to see whether they were the cause.

Run it with the peer, the file to write and any of: dead, logits, floor.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

HARD_SWISH = schema.BuiltinOperator.HARD_SWISH
LAYERS = (schema.BuiltinOperator.CONV_2D, schema.BuiltinOperator.DEPTHWISE_CONV_2D)


def load(path: Path) -> Any:
    """The model as objects."""
    return schema.ModelT.InitFromPackedBuf(path.read_bytes(), 0)


def save(model: Any, path: Path) -> Path:
    """The objects as a file."""
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    path.write_bytes(bytes(builder.Output()))
    return path


def kind(model: Any, op: Any) -> int:
    """Number of its builtin operator."""
    code = model.operatorCodes[op.opcodeIndex]
    return max(code.builtinCode, code.deprecatedBuiltinCode)


def grid(model: Any, tensor: int) -> tuple[float, int]:
    """Scale and zero point of a per-tensor int8 tensor."""
    quantization = model.subgraphs[0].tensors[tensor].quantization
    return float(quantization.scale[0]), int(quantization.zeroPoint[0])


def set_grid(model: Any, tensor: int, scale: float, zero_point: int) -> None:
    """Give `tensor` a grid; the biases of layers that read it are requantized, their real values stay."""
    graph = model.subgraphs[0]
    quantization = graph.tensors[tensor].quantization
    quantization.scale, quantization.zeroPoint = np.float32([scale]), np.int64([zero_point])
    for op in graph.operators:
        if op.inputs[0] != tensor or kind(model, op) not in LAYERS:
            continue
        weight, bias = (graph.tensors[i] for i in op.inputs[1:3])
        buffer = model.buffers[bias.buffer]
        reals = np.asarray(buffer.data, np.uint8).view(np.int32) * np.float64(bias.quantization.scale)
        bias.quantization.scale = np.float32(scale) * np.float32(weight.quantization.scale)
        steps = np.rint(reals / bias.quantization.scale)
        buffer.data = np.clip(steps, -(2**30), 2**30).astype(np.int32).view(np.uint8)


def hard_swish_inputs(model: Any) -> dict[int, int]:
    """Index of each h-swish: its input tensor."""
    ops = model.subgraphs[0].operators
    return {i: int(op.inputs[0]) for i, op in enumerate(ops) if kind(model, op) == HARD_SWISH}


def floor_hard_swish(model: Any, tensor: int) -> None:
    """Let the grid of an h-swish input end at -3 and keep its upper end."""
    scale, zero_point = grid(model, tensor)
    high = scale * (127 - zero_point)
    new_zero_point = round(-128 + 3 / ((high + 3) / 255))
    # Both ends must be covered: everything below -3 is rounded to the lower one.
    set_grid(model, tensor, max(3 / (new_zero_point + 128), high / (127 - new_zero_point)), new_zero_point)


def revive(model: Any, op_index: int) -> None:
    """Raise a layer's dead output scale to one step of its exact result."""
    graph = model.subgraphs[0]
    op = graph.operators[op_index]
    x_scale, _ = grid(model, int(op.inputs[0]))
    largest = float(np.max(graph.tensors[op.inputs[1]].quantization.scale))
    set_grid(model, int(op.outputs[0]), x_scale * largest, -128)


def widen_logits(model: Any) -> None:
    """Let the logits reach from -6 to 13; RESHAPE and DEQUANTIZE after the classifier follow."""
    graph = model.subgraphs[0]
    for op in graph.operators[110:112]:
        set_grid(model, int(op.outputs[0]), 19 / 255, -128 + round(6 * 255 / 19))


def floor_all(model: Any) -> None:
    """All h-swish inputs."""
    for tensor in hard_swish_inputs(model).values():
        floor_hard_swish(model, tensor)


REPAIRS: dict[str, Callable[[Any], None]] = {
    "dead": lambda model: revive(model, 56),
    "logits": widen_logits,
    "floor": floor_all,
}

if __name__ == "__main__":
    source, target, *names = sys.argv[1:]
    peer = load(Path(source))
    for name in names:
        REPAIRS[name](peer)
    save(peer, Path(target))
