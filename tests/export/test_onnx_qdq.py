"""The ONNX file against ONNX Runtime, torch and onnx.checker."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import numpy_helper
from onnx_networks import (
    POSITIVE,
    SIDE,
    SIGNED,
    Network,
    constant_nchw,
    tiny_mobilenet,
    torch_operation,
)

from qmnv3.errors import ExportError, ModelFileError
from qmnv3.export.onnx_qdq import build_onnx, read_metadata, write_onnx
from qmnv3.ir import Add, Conv2d, HardSigmoid, HardSwish, Metadata, Mul, Op, QParams, QuantGraph, Tensor
from qmnv3.preprocessing import Preprocessing

INTEGER_KERNELS = {"QLinearConv", "QLinearAdd", "QLinearMul", "QLinearGlobalAveragePool", "QLinearSigmoid"}
MOVING_KERNELS = {"Transpose", "Flatten", "Reshape", "Pad", "Clip"}
# Accumulation order of float32 sums of at most 400 terms of size about 1.
FLOAT_TOLERANCE = 1e-4
SHIFT = 128  # int8 of the graph is stored as uint8


def session(model: onnx.ModelProto, optimized: Path | None = None) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    if optimized is not None:
        options.optimized_model_filepath = str(optimized)
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def optimized_nodes(model: onnx.ModelProto, folder: Path) -> list[onnx.NodeProto]:
    session(model, folder / "optimized.onnx")
    return list(onnx.load(folder / "optimized.onnx").graph.node)


def images(batch: int) -> np.ndarray:
    return np.random.default_rng(7).normal(0, 0.5, (batch, 3, SIDE, SIDE)).astype(np.float32)


def run_every_tensor(graph: QuantGraph, x: np.ndarray) -> dict[str, np.ndarray]:
    """Every activation of the graph as ONNX Runtime has it, NCHW, integers back to int8."""
    model = build_onnx(graph)
    names = [op.output for op in graph.ops]
    del model.graph.output[:]
    for name in names:
        kind = onnx.TensorProto.FLOAT if graph.tensors[name].dtype == "float32" else onnx.TensorProto.UINT8
        model.graph.output.append(onnx.helper.make_tensor_value_info(name, kind, None))
    found = dict(zip(names, session(model).run(names, {"image": x}), strict=True))
    return {n: (v.astype(np.int16) - SHIFT if v.dtype == np.uint8 else v) for n, v in found.items()} | {
        "image": x
    }


def operand(graph: QuantGraph, name: str, found: dict[str, np.ndarray]) -> torch.Tensor:
    tensor = graph.tensors[name]
    if tensor.data is not None:
        return constant_nchw(tensor)
    value = found[name]
    return torch.from_numpy(tensor.qparams.dequantize(value) if tensor.qparams else value)


@pytest.mark.parametrize("batch", [1, 3])
def test_every_integer_operation_is_within_one_step_of_torch(batch: int) -> None:
    graph = tiny_mobilenet(quantized=True)
    found = run_every_tensor(graph, images(batch))
    for op in graph.ops:
        real = torch_operation(graph, op, [operand(graph, name, found) for name in op.inputs])
        qparams = graph.tensors[op.output].qparams
        if qparams is None:
            np.testing.assert_array_equal(found[op.output], real.numpy())
            continue
        expected = qparams.quantize(real.numpy())
        assert np.abs(found[op.output] - expected).max() <= 1, op.name
        assert (found[op.output] == expected).mean() > 0.99, op.name
        assert len(np.unique(expected)) > 3, f"{op.name} saturates: this test says nothing about it"


def test_a_batch_gives_each_image_what_it_gets_alone() -> None:
    run = session(build_onnx(tiny_mobilenet(quantized=True))).run
    x = images(3)
    together = run(None, {"image": x})[0]
    alone = [run(None, {"image": x[i : i + 1]})[0] for i in range(3)]
    np.testing.assert_array_equal(together, np.concatenate(alone))
    assert not np.array_equal(together[0], together[1])


@pytest.mark.parametrize("batch", [1, 3])
def test_float_network_equals_torch(batch: int) -> None:
    graph = tiny_mobilenet(quantized=False)
    values = {"image": torch.from_numpy(images(batch))}
    for op in graph.ops:
        inputs = [
            values[name] if name in values else constant_nchw(graph.tensors[name]) for name in op.inputs
        ]
        values[op.output] = torch_operation(graph, op, inputs)
    found = session(build_onnx(graph)).run(None, {"image": images(batch)})[0]
    np.testing.assert_allclose(found, values[graph.outputs[0]].numpy(), atol=FLOAT_TOLERANCE)


def test_onnxruntime_runs_everything_in_integer_kernels(tmp_path: Path) -> None:
    graph = tiny_mobilenet(quantized=True)
    kinds = Counter(node.op_type for node in optimized_nodes(build_onnx(graph), tmp_path))
    expected = Counter(type(op).__name__ for op in graph.ops)
    assert kinds["QLinearConv"] == expected["Conv2d"] + expected["DepthwiseConv2d"]
    assert (kinds["QLinearAdd"], kinds["QLinearMul"]) == (expected["Add"], expected["Mul"])
    assert kinds["QLinearGlobalAveragePool"] == expected["Mean"]
    assert kinds["QLinearSigmoid"] == expected["Logistic"] == 1
    assert (kinds["QuantizeLinear"], kinds["DequantizeLinear"]) == (1, 1)
    assert set(kinds) <= INTEGER_KERNELS | MOVING_KERNELS | {"QuantizeLinear", "DequantizeLinear"}


def test_relu_inside_the_grid_stays_integer(tmp_path: Path) -> None:
    net = Network(quantized=True)
    graph = net.finish(net.conv("conv", net.image(), (0.01, -20), 8, 3, activation="relu"))
    kinds = {node.op_type for node in optimized_nodes(build_onnx(graph), tmp_path)}
    assert kinds & {"QLinearConv", "Conv"} == {"QLinearConv"}
    values = run_every_tensor(graph, images(1))["conv"]
    assert (values.min(), values.max()) == (-20, 127)


def test_relu6_inside_the_grid_stays_integer(tmp_path: Path) -> None:
    net = Network(quantized=True)
    shift = net.constant("shift", np.array(5.5), (0.05, 0))
    x = net.image()
    graph = net.finish(net.append(Add("add", (x, shift), "add", "relu6"), (0.05, -20)))
    kinds = {node.op_type for node in optimized_nodes(build_onnx(graph), tmp_path)}
    assert kinds & {"QLinearAdd", "Add"} == {"QLinearAdd"}
    assert run_every_tensor(graph, images(1))["add"].max() == 100  # 6 / 0.05 - 20


def test_narrow_grid_is_never_left() -> None:
    net = Network(quantized=True)
    net.conv("conv", net.image(), SIGNED, 8, 3)
    narrow = QParams(np.float32(0.01), np.int32(0), -100, 90)
    net.tensors["conv"] = replace(net.tensors["conv"], qparams=narrow)
    values = run_every_tensor(net.finish("conv"), images(1))["conv"]
    assert (values.min(), values.max()) == (-100, 90)


def test_file_holds_exactly_the_integers_and_scales_of_the_graph() -> None:
    graph = tiny_mobilenet(quantized=True)
    model = build_onnx(graph)
    held = {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}
    for tensor in graph.tensors.values():
        if tensor.qparams is None:
            continue
        scale, zero_point = held[f"{tensor.name}/scale"], held[f"{tensor.name}/zero_point"]
        assert scale.dtype == np.float32
        np.testing.assert_array_equal(scale, tensor.qparams.scale)
        parameter = tensor.name.endswith((".weight", ".bias"))
        np.testing.assert_array_equal(
            zero_point.astype(int), tensor.qparams.zero_point + (0 if parameter else SHIFT)
        )
    weight = graph.tensors["stem.weight"].data
    np.testing.assert_array_equal(held["stem.weight"], weight.transpose(0, 3, 1, 2))
    depthwise = graph.tensors["b.depthwise.weight"].data
    np.testing.assert_array_equal(held["b.depthwise.weight"], depthwise.transpose(3, 0, 1, 2))
    assert held["stem.weight"].dtype == np.int8
    assert held["stem.bias"].dtype == np.int32


@pytest.mark.parametrize("quantized", [False, True])
def test_file_is_standard_onnx_with_a_dynamic_batch(quantized: bool, tmp_path: Path) -> None:
    write_onnx(tiny_mobilenet(quantized), tmp_path / "model.onnx")
    onnx.checker.check_model(str(tmp_path / "model.onnx"), full_check=True)
    model = onnx.load(tmp_path / "model.onnx")
    assert [(item.domain, item.version) for item in model.opset_import] == [("", 17)]
    assert {node.domain for node in model.graph.node} == {""}
    shapes = [
        [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    ]
    assert shapes == [["batch", 3, SIDE, SIDE], ["batch", 10]]


@pytest.mark.parametrize("quantized", [False, True])
def test_exporting_twice_gives_the_same_bytes(quantized: bool, tmp_path: Path) -> None:
    for name in ("first", "second"):
        write_onnx(tiny_mobilenet(quantized), tmp_path / name)
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()
    write_onnx(tiny_mobilenet(quantized, seed=1), tmp_path / "other")
    assert (tmp_path / "first").read_bytes() != (tmp_path / "other").read_bytes()


def test_metadata_travels_with_the_file(tmp_path: Path) -> None:
    preprocessing = Preprocessing(96, 110, (0.5, 0.4, 0.3), (0.1, 0.2, 0.3), "bicubic")
    metadata = Metadata("näme", preprocessing, ("tench", "großer Hund"))
    write_onnx(replace(tiny_mobilenet(quantized=True), metadata=metadata), tmp_path / "model.onnx")
    assert read_metadata(tmp_path / "model.onnx") == metadata


def test_foreign_file_has_no_metadata(tmp_path: Path) -> None:
    model = build_onnx(tiny_mobilenet(quantized=False))
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "foreign.onnx")
    assert read_metadata(tmp_path / "foreign.onnx") is None


@pytest.mark.parametrize("content", [None, b"", b"not an onnx file", "damaged"])
def test_unreadable_file_is_named(content: bytes | str | None, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    if content == "damaged":
        model = build_onnx(tiny_mobilenet(quantized=False))
        model.metadata_props[0].value = '{"name": "x", "labels": [], "preprocessing": {"side": 3}}'
        onnx.save(model, path)
    elif isinstance(content, bytes):
        path.write_bytes(content)
    with pytest.raises(ModelFileError, match=r"model\.onnx"):
        read_metadata(path)


def with_integer(kind: type[HardSwish | HardSigmoid]) -> QuantGraph:
    net = Network(quantized=True)
    x = net.conv("conv", net.image(), SIGNED, 8)
    return net.finish(net.append(kind("culprit", (x,), "culprit"), SIGNED))


def with_weight_scales_on_the_wrong_axis() -> QuantGraph:
    net = Network(quantized=True)
    x = net.conv("culprit", net.image(8), SIGNED, 8)
    weight = net.tensors["culprit.weight"]
    wrong = replace(weight, qparams=replace(weight.qparams, axis=3))
    net.tensors["culprit.weight"] = wrong
    return net.finish(x)


def with_asymmetric_weight() -> QuantGraph:
    net = Network(quantized=True)
    x = net.conv("culprit", net.image(), SIGNED, 8)
    weight = net.tensors["culprit.weight"]
    shifted = replace(weight.qparams, zero_point=np.ones(8, np.int32))
    net.tensors["culprit.weight"] = replace(weight, qparams=shifted)
    return net.finish(x)


def with_computed_weight() -> QuantGraph:
    net = Network(quantized=False)
    net.conv("first", net.image(), SIGNED, 3)
    net.tensors["bias"] = Tensor("bias", (1,), "float32", None, np.zeros(1, np.float32))
    op = Conv2d("culprit", ("image", "first", "bias"), "culprit")
    return net.finish(net.append(op, SIGNED))


def with_activations_of_two_ranks() -> QuantGraph:
    net = Network(quantized=False)
    net.image()
    net.tensors["vector"] = Tensor("vector", (3,), "float32")
    net.append(Mul("culprit", ("image", "vector"), "culprit"), SIGNED)
    return QuantGraph(net.tensors, tuple(net.ops), ("image", "vector"), ("culprit",))


def with_activation_scales_per_channel() -> QuantGraph:
    net = Network(quantized=True)
    x = net.image()
    y = net.append(Add("culprit", (x, x), "culprit"), POSITIVE)
    scales = QParams(np.ones(3, np.float32), np.zeros(3, np.int32), axis=3)
    net.tensors[y] = replace(net.tensors[y], qparams=scales)
    return net.finish(y)


def with_two_tensors_of_one_name() -> QuantGraph:
    net = Network(quantized=True)
    net.constant("image_q/scale", np.array(2.0), (0.5, 0))
    x = net.image()
    return net.finish(net.append(Add("sum", (x, "image_q/scale"), "sum"), SIGNED))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: with_integer(HardSwish), "culprit: HardSwish on int8 .* target 'ort'"),
        (lambda: with_integer(HardSigmoid), "culprit: HardSigmoid on int8"),
        (with_weight_scales_on_the_wrong_axis, "culprit: weight scales lie on axis 3"),
        (with_asymmetric_weight, r"culprit: weight culprit\.weight must be symmetric"),
        (with_computed_weight, "culprit: weight first and bias bias must be constants"),
        (with_activations_of_two_ranks, r"culprit: activation vector\[3\] must have 4 dimensions"),
        (with_activation_scales_per_channel, "culprit: int8 with 3 scales"),
        (with_two_tensors_of_one_name, "image_q/scale: two different constants"),
    ],
)
def test_what_onnx_cannot_hold_is_named_and_leaves_no_file(
    make: Callable[[], QuantGraph], message: str, tmp_path: Path
) -> None:
    graph = make()
    with pytest.raises(ExportError, match=message):
        write_onnx(graph, tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


def test_unknown_operation_is_named() -> None:
    class Unheard(Conv2d):
        pass

    net = Network(quantized=False)
    graph = net.finish(net.conv("conv", net.image(), SIGNED, 8))
    ops: tuple[Op, ...] = tuple(Unheard(op.name, op.inputs, op.output) for op in graph.ops)
    object.__setattr__(graph, "ops", ops)
    with pytest.raises(ExportError, match="conv: ONNX export does not know the operation Unheard"):
        build_onnx(graph)
