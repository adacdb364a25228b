"""`qmnv3 predict`: what it prints and writes, and refuses."""

import json
from pathlib import Path

import onnx
from cli_command import Cli, assert_refused, untouched
from export.tflite_sketch import mobilenet_v3_chain
from onnx import TensorProto, helper

from qmnv3.export.tflite import write_tflite
from qmnv3.runs import save_run


def test_predict_prints_and_writes_json(tmp_path: Path, cli: Cli) -> None:
    graph = mobilenet_v3_chain(quantized=True).graph("logits")
    save_run(tmp_path / "RUN", graph, mobilenet_v3_chain(quantized=False).graph("logits"), {}, {})
    target = tmp_path / "p.json"
    done = cli("predict", tmp_path / "RUN", "--json", target)
    assert done.code == 0 and done.stderr == "", done.stderr
    assert "predicted latency on one large core, batch 1 (not measured)" in done.stdout
    value = json.loads(target.read_text())
    assert value["command"] == "predict" and value["environment"]["versions"]["numpy"]
    assert [model["precision"] for model in value["models"]] == ["float32", "int8"]
    first = value["models"][0]["predicted"][0]
    assert first["device"] == "Pixel 1" and first["fitted_to"] == 22
    assert first["interval_ms"][0] < first["predicted_ms"] < first["interval_ms"][1]
    assert f"{first['predicted_ms']:.1f}" in done.stdout
    assert "errors where a whole family was left out of the fit" in done.stdout
    assert first["leave_one_out"]["median_percent"] <= 5
    assert set(first["families_left_out"]) == {"multipliers", "resolutions", "V3-Large", "V3-Small", "V2"}
    assert value["models"][1]["weight_bytes"] < value["models"][0]["weight_bytes"]


def open_resolution(path: Path) -> Path:
    nodes = [helper.make_node("GlobalAveragePool", ["image"], ["y"])]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, "h", "w"])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3, 1, 1])
    graph = helper.make_graph(nodes, "open", [image], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(onnx.ModelProto.SerializeToString(model))
    return path


def test_predict_of_bad_input(tmp_path: Path, cli: Cli) -> None:
    good, junk = tmp_path / "good.tflite", tmp_path / "junk.tflite"
    write_tflite(mobilenet_v3_chain(quantized=True).graph("logits"), good)
    junk.write_bytes(b"junk")
    (tmp_path / "empty").mkdir()
    opened = open_resolution(tmp_path / "open.onnx")
    with untouched(tmp_path):
        for model, text in (
            (tmp_path / "gone.tflite", "No such file"),
            (junk, f"{junk}: not a TFLite model"),
            (tmp_path / "empty", "not a RUN folder"),
            (tmp_path / "model.pb", "unknown model format"),
            (opened, f"{opened}: input image has no fixed size"),
        ):
            assert_refused(cli("predict", good, model, "--json", tmp_path / "out" / "p.json"), text)
        assert_refused(cli("predict", good, "--json", tmp_path), f"{tmp_path}: Is a directory")
