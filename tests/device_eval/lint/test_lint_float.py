"""Float operations: what lint calls float must be what the runtime computes in float."""

import re
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from ai_edge_litert import schema_py_generated as schema
from onnx import helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from tiny_tflite import TinyTflite, linted

from device_eval.lint import lint, read_model
from device_eval.onnx_operations import optimized_operations

MAP = (1, 4, 4, 4)


def convert(model: TinyTflite, x: int, name: str, grid: tuple[float, int] | None) -> int:
    shape = tuple(model.graph.tensors[x].shape)
    if grid is None:
        y = model.tensor(name, shape, dtype="float32")
        return model.op("DEQUANTIZE", [x], y, schema.DequantizeOptionsT())
    return model.op("QUANTIZE", [x], model.tensor(name, shape, *grid), schema.QuantizeOptionsT())


def float_op(model: TinyTflite, kind: str, x: int, name: str) -> int:
    y = model.tensor(name, tuple(model.graph.tensors[x].shape), dtype="float32")
    return model.op(kind, [x], y)


def test_island_between_integers_names_its_operations() -> None:
    model = TinyTflite()
    x = model.tensor("x", MAP, 0.1)
    a = convert(model, model.binary("MUL", x, x, "a", (0.1, 0)), "a_float", None)
    b = float_op(model, "ABS", float_op(model, "EXP", a, "exp"), "abs")
    y = model.binary("MUL", convert(model, b, "c", (0.1, 0)), x, "y", (0.1, 0))
    (found,) = [f for f in linted(model, [x], y) if f.rule == "float-island"]
    assert found.severity == "warning" and found.where == "op 2 EXP exp"
    assert "EXP, ABS in float between integer operations" in found.what


def test_float_input_and_output_are_no_island() -> None:
    model = TinyTflite()
    x = model.tensor("x", MAP, dtype="float32")
    inside = convert(model, x, "x_int8", (0.1, 0))
    y = convert(model, model.binary("MUL", inside, inside, "z", (0.1, 0)), "y", None)
    assert linted(model, [x], y) == []


def test_float_tail_is_a_note() -> None:
    model = TinyTflite()
    x = model.tensor("x", MAP, 0.1)
    y = float_op(model, "EXP", convert(model, model.binary("MUL", x, x, "z", (0.1, 0)), "z_float", None), "y")
    (found,) = [f for f in linted(model, [x], y) if f.rule == "float-island"]
    assert found.severity == "note" and "EXP in float at the network's end" in found.what


def test_float_model_is_one_error() -> None:
    model = TinyTflite()
    x = model.tensor("x", MAP, dtype="float32")
    (found,) = linted(model, [x], float_op(model, "EXP", x, "y"))
    assert found.severity == "error" and "nothing is quantized" in found.what


class Images(CalibrationDataReader):
    def __init__(self) -> None:
        rng = np.random.default_rng(1)
        self.images = iter([{"x": rng.uniform(-1, 1, (1, 3, 8, 8)).astype(np.float32)} for _ in range(4)])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.images, None)


def network(path: Path) -> Path:
    """Convolutions with relu, h-swish and relu6, squeeze-and-excite, a depthwise layer and a classifier."""

    rng = np.random.default_rng(0)

    def conv(x: str, y: str, channels: int, depth: int, size: int, group: int = 1) -> onnx.NodeProto:
        weight = rng.normal(0, 0.5, (channels, depth // group, size, size)).astype(np.float32)
        initializers.extend(
            [
                numpy_helper.from_array(weight, f"{y}.weight"),
                numpy_helper.from_array(rng.normal(0, 0.5, channels).astype(np.float32), f"{y}.bias"),
            ]
        )
        pads = [size // 2] * 4
        return helper.make_node("Conv", [x, f"{y}.weight", f"{y}.bias"], [y], y, pads=pads, group=group)

    initializers = [numpy_helper.from_array(np.float32(v), name) for name, v in (("zero", 0), ("six", 6))]
    initializers.append(numpy_helper.from_array(rng.normal(0, 1, (8, 5)).astype(np.float32), "fc"))
    nodes = [
        conv("x", "stem", 8, 3, 3),
        helper.make_node("HardSwish", ["stem"], ["stem_act"], "stem_act"),
        conv("stem_act", "dw", 8, 8, 3, 8),
        helper.make_node("Relu", ["dw"], ["dw_act"], "dw_act"),
        helper.make_node("GlobalAveragePool", ["dw_act"], ["pooled"], "pooled"),
        conv("pooled", "se", 8, 8, 1),
        helper.make_node("HardSigmoid", ["se"], ["gate"], "gate", alpha=1 / 6, beta=0.5),
        helper.make_node("Mul", ["dw_act", "gate"], ["excited"], "excited"),
        conv("excited", "project", 8, 8, 1),
        helper.make_node("Add", ["project", "stem_act"], ["sum"], "sum"),
        conv("sum", "last", 8, 8, 1),
        helper.make_node("Clip", ["last", "zero", "six"], ["last_act"], "last_act"),
        helper.make_node("GlobalAveragePool", ["last_act"], ["features"], "features"),
        helper.make_node("Flatten", ["features"], ["flat"], "flat"),
        helper.make_node("MatMul", ["flat", "fc"], ["y"], "y"),
    ]
    values = [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
        for name, shape in (("x", (1, 3, 8, 8)), ("y", (1, 5)))
    ]
    graph = helper.make_graph(nodes, "network", values[:1], values[1:], initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)
    return path


@pytest.fixture(params=[("QDQ", True), ("QDQ", False), ("QOperator", True), ("QOperator", False)], ids=str)
def quantized(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, bool]:
    """What ONNX Runtime's quantize_static makes of `network`, and whether weights are per channel."""
    form, per_channel = request.param
    path = tmp_path / "quantized.onnx"
    quantize_static(
        network(tmp_path / "float.onnx"),
        path,
        Images(),
        quant_format=QuantFormat[form],
        per_channel=per_channel,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )
    return path, per_channel


def test_floats_of_quantize_static_are_those_onnx_runtime_keeps(quantized: tuple[Path, bool]) -> None:
    path, _ = quantized
    counted = Counter(op.native for op in read_model(path).ops if op.float_reason is not None)
    # ONNX Runtime writes HardSwish as HardSigmoid and Mul.
    expected = Counter({"HardSigmoid": counted["HardSigmoid"] + counted["HardSwish"]}) + Counter(
        {name: n for name, n in counted.items() if name not in ("HardSigmoid", "HardSwish")}
    )
    expected["Mul"] += counted["HardSwish"]
    kept = optimized_operations(path).float_ops
    kept.pop("Transpose", None)
    assert dict(expected) == kept


def test_findings_of_quantize_static(quantized: tuple[Path, bool]) -> None:
    path, per_channel = quantized
    report = lint(path)
    islands = [f for f in report.findings if f.rule == "float-island"]
    assert any("HardSwish" in f.what for f in islands) and any("HardSigmoid" in f.what for f in islands)
    depthwise = [f for f in report.findings if f.rule == "per-tensor-weights" and "dw" in f.where]
    assert bool(depthwise) == (not per_channel)
    assert [f.what for f in report.findings if f.rule == "metadata"] == ["nothing in its metadata_props"]


def test_layers_are_read_alike_from_qdq_and_qoperator(tmp_path: Path) -> None:
    models = []
    for form in (QuantFormat.QDQ, QuantFormat.QOperator):
        path = tmp_path / f"{form}.onnx"
        quantize_static(network(tmp_path / "float.onnx"), path, Images(), quant_format=form, per_channel=True)
        models.append(read_model(path))
    kinds = [
        [op.kind for op in m.ops if op.kind in ("Conv", "DepthwiseConv", "FullyConnected")] for m in models
    ]
    assert kinds[0] == kinds[1] == ["Conv", "DepthwiseConv", "Conv", "Conv", "Conv", "FullyConnected"]


def test_dynamic_quantization_is_float(tmp_path: Path) -> None:
    from onnxruntime.quantization import quantize_dynamic

    quantize_dynamic(network(tmp_path / "float.onnx"), tmp_path / "dynamic.onnx")
    report = lint(tmp_path / "dynamic.onnx")
    (found,) = (f for f in report.findings if f.rule == "float-island")
    assert found.severity == "error" and re.search(r"dynamically quantized: .*\d ConvInteger", found.what)


@pytest.mark.parametrize("activations", [QuantType.QUInt8, QuantType.QInt8], ids=str)
def test_layers_that_onnx_runtime_does_not_fuse(tmp_path: Path, activations: QuantType) -> None:
    """int8 activations are quantized, yet ONNX Runtime keeps some layers in float on x86."""
    path = tmp_path / "quantized.onnx"
    given = {"quant_format": QuantFormat.QDQ, "per_channel": True, "weight_type": QuantType.QInt8}
    quantize_static(network(tmp_path / "float.onnx"), path, Images(), activation_type=activations, **given)
    kept = optimized_operations(path).float_ops
    found = [f.what for f in lint(path).findings if f.rule == "float-layers"]
    expected = [
        f"ONNX Runtime computes {kept[kind]} of {count} quantized {kind} in float here (activations: "
        for kind, count in (("Conv", 5), ("MatMul", 1), ("Add", 1))
        if kind in kept
    ]
    assert [what.partition("int8)")[0].removesuffix("u") for what in sorted(found)] == sorted(expected)
    assert bool(found) == (activations == QuantType.QInt8)
