"""Multiply-adds, bytes and arena of graphs small enough to count by hand, and of the paper's V3-Small."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from colour_models import SPEC, colour_graph, write_colour_onnx
from export.tflite_sketch import Sketch

from device_eval.latency.structure import arena_bytes, structure
from device_eval.lint.readers import read_model
from qmnv3.export.tflite import write_tflite
from qmnv3.ir import Conv2d, Metadata, Padding, QParams, QuantGraph, Tensor
from qmnv3.lowering import lower

IMAGE = 8 * 8 * 3


def test_the_colour_graph_counted_by_hand(tmp_path: Path) -> None:
    write_tflite(colour_graph(), tmp_path / "m.tflite")
    found = structure(tmp_path / "m.tflite")
    assert found.macs == 64 * 3 * 3  # 8x8 positions, 3 channels from 3
    convolution = IMAGE + 3 * 3 + 3 * 4 + IMAGE
    pooling = IMAGE + 2 * 4 + 3  # two axes as int32
    flatten = 3 + 2 * 4 + 3  # a shape of two int32
    assert found.bytes_moved == convolution + pooling + flatten
    assert found.size_bytes == (tmp_path / "m.tflite").stat().st_size


@pytest.mark.parametrize("padding", ["SAME", "symmetric"])
def test_zeros_that_complete_pixel_pairs_are_no_multiply_adds(tmp_path: Path, padding: str) -> None:
    sketch = Sketch(quantized=True)
    given = {} if padding == "SAME" else {"padding": Padding(1, 1, 1, 1)}
    stem = sketch.graph(sketch.conv(sketch.image(1, 8, 8, 3), 5, 3, 2, **given))
    write_tflite(lower(stem, "xnnpack"), tmp_path / "m.tflite")
    found = structure(tmp_path / "m.tflite")
    pad = {} if padding == "SAME" else {"PAD": 1}
    assert found.op_counts == {"RESHAPE": 1, "CONV_2D": 1} | pad
    assert found.macs == 4 * 4 * 5 * 27


def test_types_of_unknown_size_have_no_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.tflite"
    write_tflite(colour_graph(), path)
    model = read_model(path)
    packed = replace(model.tensors["weight"], dtype="other", data=None)
    changed = replace(model, tensors={**model.tensors, "weight": packed})
    monkeypatch.setattr("device_eval.latency.structure.read_model", lambda _: changed)
    found = structure(path)
    assert found.bytes_moved is None and found.macs == 64 * 3 * 3


def test_onnx_tells_no_arena(tmp_path: Path) -> None:
    found = structure(write_colour_onnx(tmp_path / "m.onnx"))
    assert found.arena_bytes is None and found.macs == 0


def test_arena_of_a_chain_of_three(tmp_path: Path) -> None:
    """The second and third activation, 4 and 32 channels wide, live while the input's room is kept."""
    write_tflite(_chain(4, 32), tmp_path / "m.tflite")
    pixels = 8 * 8
    # TFLite never gives a graph input's room away; the widest step needs input, 4 and 32 channels at once.
    least = pixels * (3 + 4 + 32)
    assert least <= arena_bytes(tmp_path / "m.tflite") <= least + 3 * 64  # offsets are rounded to 64


def test_multiply_adds_of_the_paper(data_pack: Path) -> None:
    """Table 3 of the MobileNetV3 paper: V3-Small has 56 million, V2 300."""
    for name, millions in (("google_v3_small_qat_uint8", 56), ("google_v2_1.0_qat_uint8", 300)):
        found = structure(data_pack / "peers" / f"{name}.tflite")
        assert found.macs is not None and abs(found.macs / 1e6 - millions) < 0.01 * millions


def _chain(*widths: int) -> QuantGraph:
    """1x1 convolutions of an 8x8 image, one after the other."""
    grid = QParams(np.float32(2 / 255), np.int32(0))
    tensors, ops, before, channels = [Tensor("image", (1, 8, 8, 3), "int8", grid)], [], "image", 3
    for width in widths:
        scale = np.full(width, 1 / 64, np.float32)
        weight = QParams(scale, np.zeros(width, np.int32), -127, 127, axis=0)
        bias = QParams(grid.scale * scale, np.zeros(width, np.int32), -(2**31), 2**31 - 1, axis=0)
        ones = np.ones((width, 1, 1, channels), np.int8)
        name = f"wide{width}"
        tensors += [
            Tensor(f"{name}.weight", ones.shape, "int8", weight, ones),
            Tensor(f"{name}.bias", (width,), "int32", bias, np.zeros(width, np.int32)),
            Tensor(name, (1, 8, 8, width), "int8", grid),
        ]
        ops.append(Conv2d(f"{name}.conv", (before, f"{name}.weight", f"{name}.bias"), name))
        before, channels = name, width
    return QuantGraph(
        {t.name: t for t in tensors}, tuple(ops), ("image",), (before,), Metadata("chain", SPEC, ())
    )
