"""Whole files: partitions, metadata, and one network in all formats that qmnv3 writes."""

from pathlib import Path

import pytest
from ai_edge_litert import schema_py_generated as schema
from export.tflite_sketch import mobilenet_v3_chain
from tiny_tflite import TinyTflite, linted

from device_eval.lint import Finding, lint
from device_eval.partitions import delegate_partitions
from qmnv3.errors import GraphError
from qmnv3.export.onnx_qdq import write_onnx
from qmnv3.export.tflite import write_tflite
from qmnv3.ir import Add, Metadata, QParams, QuantGraph, Tensor
from qmnv3.runs import save_run

MAP = (1, 4, 4, 4)


def of_rule(found: list[Finding], rule: str) -> list[Finding]:
    return [finding for finding in found if finding.rule == rule]


def test_operations_outside_the_delegate_by_reason(tmp_path: Path) -> None:
    model = TinyTflite()
    x = model.tensor("x", MAP, 0.04)
    a = model.hard_swish(model.binary("MUL", x, x, "a", (0.04, 0)), "b", (0.04, 0))
    b = model.hard_swish(model.binary("MUL", a, a, "c", (0.04, 0)), "d", (0.04, 0))
    c = model.binary("ADD", b, model.tensor("tiny", (1,), 1e-9, data=1), "e", (0.04, 0))
    y = model.pool("AVERAGE_POOL_2D", model.binary("MUL", c, c, "f", (0.04, 0)), "y", (0.04, 0))
    truth = delegate_partitions(model.write(tmp_path / "m.tflite", [x], [y]))
    found = of_rule(linted(model, [x], y), "partitions")
    assert found[0].what == f"{truth.count} XNNPACK partitions with {truth.delegated_ops} of 7 operations"
    reasons = {f.where: f.what for f in found[1:]}
    assert reasons == {
        "2 HARD_SWISH: ops 1, 3": "outside XNNPACK: XNNPACK has no 8-bit HARD_SWISH",
        "op 4 ADD e": "outside XNNPACK: ratio 2.5e-08, XNNPACK takes [0.000977, 256)",
        "op 6 AVERAGE_POOL_2D y": "outside XNNPACK: XNNPACK has no 8-bit AVERAGE_POOL_2D",
    }
    assert [index for index, _ in truth.undelegated] == [1, 3, 4, 6]


def test_softmax_at_the_end_leaves_one_partition_and_a_note() -> None:
    model = TinyTflite()
    x, y = model.tensor("x", (1, 8), 0.1), model.tensor("y", (1, 8), 1 / 256, -128)
    options = schema.SoftmaxOptionsT()
    options.beta = 1.0
    model.op("SOFTMAX", [model.binary("MUL", x, x, "a", (0.1, 0))], y, options)
    found = of_rule(linted(model, [x], y), "partitions")
    assert [f.severity for f in found] == ["note", "note"]


def test_one_whole_partition_is_no_finding() -> None:
    model = TinyTflite()
    x = model.tensor("x", MAP, 0.1)
    assert linted(model, [x], model.binary("MUL", x, x, "y", (0.1, 0))) == []


def chain(labels: tuple[str, ...]) -> QuantGraph:
    return mobilenet_v3_chain(quantized=True).graph("logits", metadata=Metadata("chain", labels=labels))


LABELS = tuple(f"class {i}" for i in range(10))


@pytest.mark.parametrize("labels", [LABELS, ()])
def test_metadata_of_our_files(tmp_path: Path, labels: tuple[str, ...]) -> None:
    graph = chain(labels)
    write_tflite(graph, tmp_path / "m.tflite")
    write_onnx(graph, tmp_path / "m.onnx")
    for name in ("m.tflite", "m.onnx"):
        found = of_rule(list(lint(tmp_path / name).findings), "metadata")
        assert [f.what for f in found] == ([] if labels else ["no labels in its metadata"])


def test_metadata_that_is_missing_or_damaged(tmp_path: Path) -> None:
    model = TinyTflite()
    x = model.tensor("x", MAP, 0.1)
    path = model.write(tmp_path / "m.tflite", [x], [model.binary("MUL", x, x, "y", (0.1, 0))])
    (found,) = of_rule(list(lint(path).findings), "metadata")
    assert found.severity == "warning" and found.what == "no normalization in its metadata"
    write_tflite(chain(LABELS), path)
    content = path.read_bytes()
    path.write_bytes(content[: content.rindex(b"PK\x03\x04")])
    (found,) = of_rule(list(lint(path).findings), "metadata")
    assert found.severity == "error" and "labels.txt is missing or damaged" in found.what


def test_run_tflite_and_onnx_of_one_graph_give_the_same_findings(tmp_path: Path) -> None:
    graph = chain(LABELS)
    save_run(tmp_path / "RUN", graph, mobilenet_v3_chain(quantized=False).graph("logits"), {}, {})
    write_tflite(graph, tmp_path / "m.tflite")
    write_onnx(graph, tmp_path / "m.onnx")
    found = {}
    for name in ("RUN", "m.tflite", "m.onnx"):
        report = lint(tmp_path / name)
        assert report.count("error") == 0
        # XNNPACK's limits hold for TFLite alone, and ONNX has one more operation, at its input.
        places = [f for f in report.findings if f.where.startswith("op ") and f.rule != "requantization"]
        found[name] = sorted((f.rule, f.severity, f.where.split()[-1], f.what) for f in places)
    assert found["RUN"] == found["m.tflite"] == found["m.onnx"]
    assert any(rule == "h-swish-range" for rule, *_ in found["RUN"]), "the sketch's ranges are not floored"


def test_folder_that_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(GraphError, match="not a RUN folder"):
        lint(tmp_path)


def test_int16_around_h_swish_is_only_slow(tmp_path: Path) -> None:
    """int16 has no zero point: its range reaches below -3 by necessity, and its steps are fine enough."""
    model = TinyTflite()
    x = model.tensor("x", MAP, 12 / 32767, dtype="int16")
    three = model.tensor("three", (1,), 3 / 32767, dtype="int16", data=32767)
    gate = model.binary("ADD", x, three, "gate", (6 / 32767, 0), "relu6")
    y = model.binary("MUL", x, gate, "y", (72 / 32767, 0))
    found = linted(model, [x], y)
    assert {f.rule for f in found} == {"partitions"}
    assert {f.what for f in found[1:]} == {"outside XNNPACK: XNNPACK has no 16-bit kernels"}


def test_a_run_that_cannot_be_exported_is_explained(tmp_path: Path) -> None:
    """What the export refuses, since TFLite would abort on it, is what one comes to lint for."""
    tensors = [
        Tensor(name, MAP, "int8", QParams.per_tensor(s, 0)) for name, s in (("x", 1.0), ("y", 2.0**-20))
    ]
    graph = QuantGraph({t.name: t for t in tensors}, (Add("sum", ("x", "x"), "y"),), ("x",), ("y",))
    save_run(tmp_path / "RUN", graph, mobilenet_v3_chain(quantized=False).graph("logits"), {}, {})
    found = list(lint(tmp_path / "RUN").findings)
    (ratio,) = of_rule(found, "requantization")
    assert ratio.severity == "error" and ratio.why == "TFLite aborts the process that loads the file"
    (refused,) = of_rule(found, "partitions")
    assert refused.severity == "error" and "as an int8 ADD needs" in refused.what
