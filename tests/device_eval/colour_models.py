"""A classifier anyone can check by eye: the output is the mean of each colour channel."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper
from PIL import Image

from qmnv3.ir import Conv2d, Flatten, Mean, Metadata, QParams, QuantGraph, Tensor
from qmnv3.preprocessing import Preprocessing

SIDE = 8
SPEC = Preprocessing(SIDE, SIDE, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
COLOURS = {"a_red": (255, 0, 0), "b_green": (0, 255, 0), "c_blue": (0, 0, 255)}


def colour_folder(root: Path, per_class: int = 2, wrong: int = 0) -> Path:
    """`per_class` solid images of each colour; the first `wrong` red ones are really blue."""
    for name, colour in COLOURS.items():
        (root / name).mkdir(parents=True)
        for index in range(per_class):
            shown = COLOURS["c_blue"] if name == "a_red" and index < wrong else colour
            Image.new("RGB", (SIDE, SIDE), shown).save(root / name / f"{index}.png")
    return root


def colour_graph(labels: tuple[str, ...] = ()) -> QuantGraph:
    """int8 in, int8 out: Mean and Flatten, behind a 1x1 identity convolution."""
    grid = QParams(np.float32(2 / 255), np.int32(0))
    wide = QParams(np.float32(1 / 64), np.int32(0))
    scale = np.full(3, 1 / 64, np.float32)
    weight = QParams(scale, np.zeros(3, np.int32), -127, 127, axis=0)
    bias = QParams(grid.scale * scale, np.zeros(3, np.int32), -(2**31), 2**31 - 1, axis=0)
    identity = (np.eye(3) * 64).astype(np.int8).reshape(3, 1, 1, 3)
    tensors = [
        Tensor("image", (1, SIDE, SIDE, 3), "int8", grid),
        Tensor("weight", (3, 1, 1, 3), "int8", weight, identity),
        Tensor("bias", (3,), "int32", bias, np.zeros(3, np.int32)),
        Tensor("features", (1, SIDE, SIDE, 3), "int8", wide),
        Tensor("pooled", (1, 1, 1, 3), "int8", wide),
        Tensor("logits", (1, 3), "int8", wide),
    ]
    ops = (
        Conv2d("conv", ("image", "weight", "bias"), "features"),
        Mean("pool", ("features",), "pooled"),
        Flatten("flatten", ("pooled",), "logits"),
    )
    metadata = Metadata("colours", SPEC, labels)
    return QuantGraph({t.name: t for t in tensors}, ops, ("image",), ("logits",), metadata)


def write_colour_onnx(path: Path, batch: int | str = "n", softmax: bool = False, gain: float = 1.0) -> Path:
    """Float ONNX without metadata: global average pooling times `gain`, optionally a softmax."""
    nodes = [
        helper.make_node("GlobalAveragePool", ["image"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Mul", ["flat", "gain"], ["scaled"]),
    ]
    if softmax:
        nodes.append(helper.make_node("Softmax", ["scaled"], ["probabilities"]))
    graph = helper.make_graph(
        nodes,
        "colours",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [batch, 3, SIDE, SIDE])],
        [helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.FLOAT, [batch, 3])],
        [helper.make_tensor("gain", TensorProto.FLOAT, [], [gain])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString())
    return path
