"""The .tflite file itself: bytes, tables, quantization parameters, versions, signature and refusals."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from tflite_sketch import Sketch, interpreter, mobilenet_v3_chain

from qmnv3.errors import ExportError
from qmnv3.export.tflite import build_tflite, write_tflite
from qmnv3.ir import (
    Dequantize,
    Flatten,
    HardSigmoid,
    HardSwish,
    Mean,
    Metadata,
    Pad,
    Padding,
    QParams,
    QuantGraph,
    Quantize,
    Tensor,
    load_graph,
    save_graph,
)

NAMES = {code: name for name, code in vars(schema.BuiltinOperator).items() if not name.startswith("_")}


def versions(data: bytes) -> dict[str, int]:
    """Version of each builtin operator in a .tflite file."""
    codes = schema.ModelT.InitFromPackedBuf(data).operatorCodes
    return {NAMES[max(c.builtinCode, c.deprecatedBuiltinCode)]: c.version for c in codes}


def metadata_of(model: schema.ModelT) -> dict[str, bytes]:
    return {m.name.decode(): model.buffers[m.buffer].data.tobytes() for m in model.metadata}


def everything(quantized: bool) -> QuantGraph:
    """A graph with every operation the writer knows."""
    s = Sketch(quantized)
    x = s.image(1, 8, 8, 3, dtype="uint8" if quantized else None)
    x = s.unary(Quantize, x) if quantized else x
    x = s.unary(Pad, x, padding=Padding(0, 1, 0, 1))
    x = s.unary(HardSwish, s.conv(x, 8, 3, 2, padding=Padding()))
    x = s.add(x, s.mul(x, s.conv(s.unary(Mean, s.conv(x, None, 3)), 8)))
    x = s.unary(Flatten, s.unary(Mean, x))
    x = s.unary(Dequantize, x) if quantized else x
    return s.graph(x)


@pytest.mark.parametrize("quantized", [True, False], ids=["int8", "float32"])
def test_the_same_graph_gives_the_same_bytes(quantized: bool, tmp_path: Path) -> None:
    graph = replace(
        mobilenet_v3_chain(quantized).graph("logits"),
        metadata=Metadata("twice", labels=tuple("abcdefghij")),
    )
    save_graph(graph, tmp_path / "graph")
    write_tflite(graph, tmp_path / "model.tflite")

    assert (tmp_path / "model.tflite").read_bytes() == build_tflite(graph)
    assert build_tflite(load_graph(tmp_path / "graph")) == build_tflite(graph)


def test_every_buffer_starts_at_a_multiple_of_16() -> None:
    data = build_tflite(mobilenet_v3_chain(True).graph("logits"))
    model = schema.Model.GetRootAs(data, 0)
    buffers = [model.Buffers(i) for i in range(model.BuffersLength())]
    starts = [b._tab.Vector(b._tab.Offset(4)) for b in buffers if not b.DataIsNone()]

    assert data[4:8] == b"TFL3" and buffers[0].DataIsNone()
    assert len(starts) > 50
    assert {start % 16 for start in starts} == {0}


@pytest.mark.parametrize("quantized", [True, False], ids=["int8", "float32"])
def test_litert_sees_exactly_our_grids_shapes_and_constants(quantized: bool) -> None:
    graph = everything(quantized)
    made = interpreter(build_tflite(graph), "reference", keep_all=True)
    details = {d["name"]: d for d in made.get_tensor_details()}

    for tensor in graph.tensors.values():
        detail = details[tensor.name]
        grid = detail["quantization_parameters"]
        assert tuple(detail["shape"]) == tensor.shape and detail["dtype"] == np.dtype(tensor.dtype)
        if tensor.qparams is None:
            assert grid["scales"].size == 0
        else:
            np.testing.assert_array_equal(grid["scales"], tensor.qparams.scale.reshape(-1))
            np.testing.assert_array_equal(grid["zero_points"], tensor.qparams.zero_point.reshape(-1))
            assert grid["quantized_dimension"] == (tensor.qparams.axis or 0)
        if tensor.data is not None:
            np.testing.assert_array_equal(made.get_tensor(detail["index"]), tensor.data)
        else:
            assert tuple(detail["shape_signature"]) == (-1, *tensor.shape[1:])


def test_identical_constants_share_a_buffer_unless_their_grids_differ() -> None:
    s = Sketch(quantized=True)
    x, three = s.image(1, 2, 2, 4), np.full((1,), 3.0)
    first, again = s.constant("first", three), s.constant("again", three)
    wider = s.constant("wider", 2 * three)
    s.unary(Mean, s.add(s.add(s.add(x, first), again), wider))
    s.unary(Mean, s.ops[-1].output)
    model = schema.ModelT.InitFromPackedBuf(build_tflite(s.graph(s.ops[-1].output)))
    buffer = {t.name.decode(): t.buffer for t in model.subgraphs[0].tensors}

    assert np.array_equal(s.tensors["first"].data, s.tensors["wider"].data)
    assert buffer["first"] == buffer["again"] != buffer["wider"]
    assert buffer["mean3/axes"] == buffer["mean4/axes"]
    assert buffer[x] == buffer["mean3"] == 0


def test_model_level_fields() -> None:
    graph = everything(quantized=True)
    model = schema.ModelT.InitFromPackedBuf(build_tflite(graph))
    (subgraph,), (signature,) = model.subgraphs, model.signatureDefs

    assert (model.version, subgraph.name, signature.signatureKey) == (3, b"main", b"serving_default")
    assert [m.name.decode() for m in signature.inputs] == list(graph.inputs)
    assert [m.name.decode() for m in signature.outputs] == list(graph.outputs)
    assert [m.tensorIndex for m in signature.inputs] == list(subgraph.inputs)
    assert all(c.builtinCode == c.deprecatedBuiltinCode < 127 for c in model.operatorCodes)
    assert metadata_of(model)["min_runtime_version"] == b"1.15.0".ljust(16, b"\0")


def test_signature_runner_names_are_the_graphs() -> None:
    s = Sketch(quantized=False)
    y = s.add(s.image(1, 2, 2, 3), s.image(1, 2, 2, 3, name="shift"))
    runner = interpreter(build_tflite(s.graph(y)), "xnnpack").get_signature_runner("serving_default")

    got = runner(image=np.ones((1, 2, 2, 3), np.float32), shift=np.full((1, 2, 2, 3), 0.5, np.float32))

    np.testing.assert_array_equal(got[y], np.full((1, 2, 2, 3), 1.5, np.float32))


def test_operator_versions_equal_tensorflows_converter(data_pack: Path) -> None:
    theirs = versions((data_pack / "peers/v3_small_ptq_int8.tflite").read_bytes())
    ours = versions(build_tflite(everything(quantized=True)))
    shared = ours.keys() & theirs.keys()

    assert shared >= {
        "QUANTIZE",
        "CONV_2D",
        "DEPTHWISE_CONV_2D",
        "HARD_SWISH",
        "MEAN",
        "MUL",
        "ADD",
        "RESHAPE",
    }
    assert {name: ours[name] for name in shared} == {name: theirs[name] for name in shared}


def test_float_operators_are_version_1_except_dilated_depthwise() -> None:
    assert set(versions(build_tflite(everything(quantized=False))).values()) == {1}
    s = Sketch(quantized=False)
    assert versions(build_tflite(s.graph(s.conv(s.image(1, 9, 9, 4), None, 3, dilation=2)))) == {
        "DEPTHWISE_CONV_2D": 2
    }


def test_mul_that_scales_up_is_version_3() -> None:
    # op_version.cc: input scales' product over the output scale of 1 or more.
    s = Sketch(quantized=True)
    product = s.mul(s.image(1, 2, 2, 3), s.image(1, 2, 2, 3, name="other"))
    graph = s.graph(product)
    coarse = graph.tensors["image"].qparams.scale * graph.tensors["other"].qparams.scale
    saturating = replace(graph.tensors[product], qparams=QParams(coarse, 0))

    assert versions(build_tflite(graph)) == {"MUL": 2}
    tensors = {**graph.tensors, product: saturating}
    assert versions(build_tflite(replace(graph, tensors=tensors))) == {"MUL": 3}


def test_hard_sigmoid_is_refused() -> None:
    s = Sketch(quantized=True)
    x = s.image(1, 2, 2, 3)
    s.tensors["gate"] = Tensor("gate", (1, 2, 2, 3), "int8", QParams(1 / 256, -128))
    graph = QuantGraph(s.tensors, (HardSigmoid("features.4.gate", (x,), "gate"),), (x,), ("gate",))

    with pytest.raises(ExportError, match=r"features\.4\.gate: TFLite has no HardSigmoid.*lower the graph"):
        build_tflite(graph)


@pytest.mark.parametrize("padding", [Padding(1, 1, 1, 1), Padding(1, 0, 1, 0), Padding(0, 1, 0, 0)])
def test_padding_that_is_neither_same_nor_valid_is_refused(padding: Padding) -> None:
    s = Sketch(quantized=True)
    graph = s.graph(s.conv(s.image(1, 8, 8, 3), 4, 3, 2, padding=padding))

    with pytest.raises(ExportError, match=r"conv0: padding top=.*neither SAME nor VALID.*Pad"):
        build_tflite(graph)


def test_same_padding_counts_the_dilated_window() -> None:
    s = Sketch(quantized=False)
    graph = s.graph(s.conv(s.image(1, 9, 9, 3), 4, 3, padding=Padding(1, 1, 1, 1), dilation=2))

    with pytest.raises(ExportError, match="neither SAME nor VALID"):
        build_tflite(graph)


def test_uint8_inside_the_graph_is_refused() -> None:
    s = Sketch(quantized=True)
    graph = s.graph(s.add_op(Mean("pool", (s.image(1, 4, 4, 3, dtype="uint8"),), "pool"), dtype="uint8"))

    with pytest.raises(ExportError, match="pool: Mean input is uint8; put a Quantize to int8 before it"):
        build_tflite(graph)


def test_activation_that_saturates_before_its_dtype_is_refused() -> None:
    s = Sketch(quantized=True)
    graph = s.graph(s.unary(Mean, s.image(1, 4, 4, 3)))
    narrow = replace(graph.tensors["mean0"], qparams=QParams(0.1, 0, -127, 127))

    with pytest.raises(ExportError, match=r"mean0: range \[-127, 127\]; TFLite int8"):
        build_tflite(replace(graph, tensors={**graph.tensors, "mean0": narrow}))


def test_weight_scales_along_the_wrong_axis_are_refused() -> None:
    s = Sketch(quantized=True)
    graph = s.graph(s.conv(s.image(1, 4, 4, 4), 4))
    weight = graph.tensors["conv0/weight"]
    turned = replace(weight, qparams=QParams(weight.qparams.scale, weight.qparams.zero_point, axis=3))

    with pytest.raises(ExportError, match="conv0: conv0/weight has scales along axis 3; TFLite needs axis 0"):
        build_tflite(replace(graph, tensors={**graph.tensors, weight.name: turned}))


def test_asymmetric_weights_are_refused() -> None:
    s = Sketch(quantized=True)
    graph = s.graph(s.conv(s.image(1, 4, 4, 4), 4, per_channel=False))
    weight = graph.tensors["conv0/weight"]
    shifted = replace(weight, qparams=QParams(weight.qparams.scale, 5))

    with pytest.raises(ExportError, match="conv0: conv0/weight has a zero point; TFLite needs symmetric"):
        build_tflite(replace(graph, tensors={**graph.tensors, weight.name: shifted}))


def test_a_failed_export_leaves_no_file(tmp_path: Path) -> None:
    s = Sketch(quantized=True)
    graph = s.graph(s.conv(s.image(1, 8, 8, 3), 4, 3, 2, padding=Padding(1, 1, 1, 1)))

    with pytest.raises(ExportError):
        write_tflite(graph, tmp_path / "model.tflite")
    assert list(tmp_path.iterdir()) == []
