"""QuantGraph's own rules, printing, and saving and loading without loss."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from qmnv3.errors import GraphError
from qmnv3.ir import (
    Add,
    Cast,
    Conv2d,
    Flatten,
    Metadata,
    Padding,
    PixelPairs,
    QParams,
    QuantGraph,
    Quantize,
    Tensor,
    load_graph,
    save_graph,
)
from qmnv3.preprocessing import Preprocessing


def small_graph() -> QuantGraph:
    rng = np.random.default_rng(0)
    x, y = QParams.per_tensor(0.1, 3), QParams.per_tensor(1 / 3, -128)
    w = QParams(rng.uniform(0.01, 0.1, 4), np.zeros(4), -127, 127, 0)
    tensors = [
        Tensor("image", (1, 6, 6, 3), "int8", x),
        Tensor("w", (4, 3, 3, 3), "int8", w, rng.integers(-127, 128, (4, 3, 3, 3)).astype(np.int8)),
        Tensor("b", (4,), "int32", QParams.bias(x, w), rng.integers(-99, 99, 4).astype(np.int32)),
        Tensor("y", (1, 3, 3, 4), "int8", y),
    ]
    op = Conv2d("conv", ("image", "w", "b"), "y", (2, 2), Padding(0, 1, 0, 1), activation="relu")
    return QuantGraph({t.name: t for t in tensors}, (op,), ("image",), ("y",), Metadata("net"))


def changed(graph: QuantGraph, name: str, **fields) -> dict[str, Tensor]:
    return {**graph.tensors, name: replace(graph.tensors[name], **fields)}


def test_round_trip_keeps_every_bit(tmp_path: Path) -> None:
    spec = Preprocessing(32, 40, (0.1, 0.2, 1 / 3), (0.5, 0.5, 0.7), "bicubic")
    graph = replace(small_graph(), metadata=Metadata("n", spec, ("a", "b")))
    save_graph(graph, tmp_path / "int8")
    loaded = load_graph(tmp_path / "int8")
    assert (loaded.ops, loaded.inputs, loaded.outputs) == (graph.ops, graph.inputs, graph.outputs)
    assert loaded.metadata == graph.metadata
    for name, tensor in graph.tensors.items():
        assert loaded.tensors[name].qparams == tensor.qparams
        if tensor.data is not None:
            np.testing.assert_array_equal(loaded.tensors[name].data, tensor.data)
    save_graph(loaded, tmp_path / "again")
    for suffix in (".json", ".safetensors"):
        assert (tmp_path / f"int8{suffix}").read_bytes() == (tmp_path / f"again{suffix}").read_bytes()


def test_printing_names_operations_and_grids() -> None:
    text = str(small_graph())
    assert "Conv2d" in text
    assert "scale=0.333333 zero_point=-128" in text


@pytest.mark.parametrize("suffix", [".json", ".safetensors"])
@pytest.mark.parametrize("damage", ["missing", "truncated"])
def test_damaged_files_are_one_clear_error(tmp_path: Path, suffix: str, damage: str) -> None:
    save_graph(small_graph(), tmp_path / "int8")
    file = tmp_path / f"int8{suffix}"
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:40])
    with pytest.raises(GraphError, match="not a readable QuantGraph"):
        load_graph(tmp_path / "int8")


def test_a_flipped_bit_in_the_constants_is_noticed(tmp_path: Path) -> None:
    save_graph(small_graph(), tmp_path / "int8")
    file = tmp_path / "int8.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(GraphError, match="not those it was saved with"):
        load_graph(tmp_path / "int8")


def test_wrong_bias_scale_is_refused() -> None:
    graph = small_graph()
    bias = graph.tensors["b"].qparams
    with pytest.raises(GraphError, match="bias scale"):
        replace(graph, tensors=changed(graph, "b", qparams=bias.scaled(1.01)))


def test_wrong_shape_is_refused_with_both() -> None:
    graph = small_graph()
    with pytest.raises(GraphError, match=r"\(1, 4, 3, 4\), computed \(1, 3, 3, 4\)"):
        replace(graph, tensors=changed(graph, "y", shape=(1, 4, 3, 4)))


def test_order_and_single_producer_are_checked() -> None:
    graph = small_graph()
    late = Add("sum", ("z", "y"), "y")
    with pytest.raises(GraphError, match="'z' does not exist"):
        replace(graph, ops=(*graph.ops, late))
    with pytest.raises(GraphError, match="two producers"):
        replace(graph, ops=graph.ops * 2)


def test_pass_through_must_share_its_grid() -> None:
    y = Tensor("y", (1, 1, 1, 4), "int8", QParams.per_tensor(0.1, 0))
    z = Tensor("z", (1, 4), "int8", QParams.per_tensor(0.2, 0))
    with pytest.raises(GraphError, match="must share"):
        QuantGraph({"y": y, "z": z}, (Flatten("flat", ("y",), "z"),), ("y",), ("z",))


def test_pixel_pairs_need_an_even_width() -> None:
    image = Tensor("image", (1, 2, 5, 3), "int8", QParams.per_tensor(0.1, 0))
    pairs = replace(image, name="pairs", shape=(1, 2, 2, 6))
    op = PixelPairs("pairs", ("image",), "pairs")
    with pytest.raises(GraphError, match="pairs: PixelPairs needs an even width, got 5"):
        QuantGraph({"image": image, "pairs": pairs}, (op,), ("image",), ("pairs",))


def test_int16_is_symmetric() -> None:
    with pytest.raises(GraphError, match="t: int16 has one scale and zero point 0"):
        Tensor("t", (1,), "int16", QParams.per_tensor(1.0, 3, -32768, 32767))


def test_an_operation_has_one_type() -> None:
    a = Tensor("a", (1, 2), "int8", QParams.per_tensor(0.1, 0))
    b = Tensor("b", (1, 2), "int16", QParams.per_tensor(0.1, 0, -32768, 32767))
    with pytest.raises(GraphError, match="sum: Add input is int16, int8 but output is int16"):
        QuantGraph({"a": a, "b": b, "c": replace(b, name="c")}, (Add("sum", ("b", "a"), "c"),), "ab", "c")
    with pytest.raises(GraphError, match="up: Cast turns int8 into int16, not int16 into int8"):
        QuantGraph({"a": a, "b": b}, (Cast("up", ("b",), "a"),), ("b",), ("a",))
    image = Tensor("image", (1, 2), "float32")
    with pytest.raises(GraphError, match="q: Quantize of float32 makes 8 bits"):
        QuantGraph({"image": image, "b": b}, (Quantize("q", ("image",), "b"),), ("image",), ("b",))


def int16_graph(bias_type: str) -> QuantGraph:
    graph = small_graph()
    wide = QParams.per_tensor(0.1, 0, -32768, 32767)
    bias = graph.tensors["b"]
    tensors = graph.tensors | {
        "image": replace(graph.tensors["image"], dtype="int16", qparams=wide),
        "b": replace(bias, dtype=bias_type, data=bias.data.astype(bias_type)),
        "y": replace(graph.tensors["y"], dtype="int16", qparams=wide),
    }
    return replace(graph, tensors=tensors)


@pytest.mark.parametrize("bias_type", ["int32", "int64"])
def test_an_int16_convolution_survives_saving(tmp_path: Path, bias_type: str) -> None:
    graph = int16_graph(bias_type)
    save_graph(graph, tmp_path / "int16")
    loaded = load_graph(tmp_path / "int16")
    assert {n: t.dtype for n, t in loaded.tensors.items()} == {n: t.dtype for n, t in graph.tensors.items()}
    np.testing.assert_array_equal(loaded.tensors["b"].data, graph.tensors["b"].data, strict=True)
    assert loaded.tensors["y"].qparams == graph.tensors["y"].qparams


def test_bias_types_belong_to_their_activations() -> None:
    graph = small_graph()
    bias = graph.tensors["b"]
    with pytest.raises(GraphError, match="conv: needs int8 weight and int32 bias, has int8 and int64"):
        replace(graph, tensors=changed(graph, "b", dtype="int64", data=bias.data.astype(np.int64)))


def test_integers_need_qparams_and_floats_have_none() -> None:
    with pytest.raises(GraphError, match="only integers"):
        Tensor("t", (1,), "int8")
    with pytest.raises(GraphError, match="only integers"):
        Tensor("t", (1,), "float32", QParams.per_tensor(1.0, 0))
