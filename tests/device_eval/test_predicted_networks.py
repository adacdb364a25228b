"""What is predicted of networks and files: the same in every form, and what is doubtful named."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from export.tflite_sketch import mobilenet_v3_chain
from torch import nn

from device_eval.lint.readers.run import describe_graph
from device_eval.paper.table4 import TABLE4
from device_eval.predictor import Prediction, predict, predict_graph, predict_path
from device_eval.predictor.costs import Cost
from device_eval.predictor.fit import fitted
from device_eval.predictor.published import (
    PIXELS,
    Network,
    network_costs,
)
from qmnv3.export.onnx_qdq import write_onnx
from qmnv3.export.tflite import write_tflite
from qmnv3.lowering import lower
from qmnv3.models.network import build_model
from qmnv3.runs import save_run

HERE = Path("graph")


@pytest.fixture(scope="module")
def forms(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Prediction]:
    """One float network in all forms, its integers as RUN and files."""
    folder = tmp_path_factory.mktemp("forms")
    floats = mobilenet_v3_chain(quantized=False, hard_swish_op=True).graph("logits")
    integers = mobilenet_v3_chain(quantized=True).graph("logits")
    save_run(folder / "RUN", integers, floats, {}, {})
    write_tflite(floats, folder / "float.tflite")
    write_onnx(floats, folder / "float.onnx")
    write_tflite(integers, folder / "int8.tflite")
    write_onnx(integers, folder / "int8.onnx")
    files = ("float.tflite", "float.onnx", "int8.tflite", "int8.onnx")
    run_float, run_int8 = predict_path(folder / "RUN")
    return {"RUN float": run_float, "RUN int8": run_int8} | {f: predict_path(folder / f)[0] for f in files}


def test_a_network_costs_the_same_in_every_format(forms: dict[str, Prediction]) -> None:
    assert forms["RUN float"].precision == "float32"
    for name in ("float.tflite", "float.onnx"):
        assert forms[name].precision == "float32"
        assert forms[name].cost.macs == forms["RUN float"].cost.macs
        assert forms[name].cost.activations == forms["RUN float"].cost.activations
    for name in ("RUN int8", "int8.tflite", "int8.onnx"):
        assert forms[name].precision == "int8"
        assert forms[name].cost.macs == forms["RUN float"].cost.macs
    assert forms["int8.tflite"].cost.activations == forms["RUN int8"].cost.activations


def test_h_swish_costs_the_same_as_operation_and_as_add_and_mul() -> None:
    """The chain's ADD, MUL and MUL by 1/6 has one more pass of 2 elements; nothing else differs."""
    composed = predict_graph(mobilenet_v3_chain(quantized=False).graph("logits"), HERE)
    single = predict_graph(mobilenet_v3_chain(quantized=False, hard_swish_op=True).graph("logits"), HERE)
    outputs = single.by_kind["HardSwish"].activations // 5
    assert composed.cost.activations == single.cost.activations + 2 * outputs
    assert composed.cost.macs == single.cost.macs


def test_pixel_pairs_cost_what_the_pixels_do() -> None:
    """As exported for XNNPACK, where the stem's kernel has 36 places for 27 weights."""
    graph = mobilenet_v3_chain(quantized=True).graph("logits")
    plain, pairs = (predict_graph(lower(graph, target), HERE) for target in ("tflite-builtin", "xnnpack"))
    assert pairs.counts["Reshape"] == plain.counts["Reshape"] + 1
    assert pairs.cost.macs == plain.cost.macs
    assert pairs.cost.activations == plain.cost.activations
    assert pairs.cost.constants == plain.cost.constants + 16 * (36 - 27)


def test_a_far_away_network_is_said_to_be_one(forms: dict[str, Prediction]) -> None:
    assert any(note.startswith("extrapolated:") for note in forms["float.tflite"].notes)
    assert any("only 4 published latencies" in note for note in forms["int8.tflite"].notes)


def test_swish_in_8_bits_takes_15_percent_longer() -> None:
    """As 5.2 says; torch counts the places. In float, where memory dominates, it takes no longer."""
    sites: list[int] = []
    model = build_model("large").eval()
    for module in model.modules():
        if isinstance(module, nn.Hardswish):
            module.register_forward_hook(lambda _, __, output: sites.append(output.numel()))
    with torch.no_grad():
        model(torch.zeros(1, 3, 224, 224))
    h_swish = network_costs()[Network("large")]
    swish = h_swish + Cost(sigmoids=sum(sites))
    for pixel in PIXELS:
        eight, floats = fitted(pixel, "int8"), fitted(pixel, "float32")
        assert eight.ms(swish) == pytest.approx(1.15 * eight.ms(h_swish))
        assert floats.ms(swish) == floats.ms(h_swish)


@pytest.mark.parametrize(("quantized", "rests_on"), [(False, "which dominate"), (True, "15 % longer")])
def test_a_prediction_of_swish_says_what_it_rests_on(quantized: bool, rests_on: str) -> None:
    graph = mobilenet_v3_chain(quantized=quantized, hard_swish_op=True).graph("logits")
    described = describe_graph(graph, HERE)
    ops = tuple(replace(op, kind="Logistic") if op.kind == "HardSwish" else op for op in described.ops)
    prediction = predict(replace(described, ops=ops))
    outputs = [described.output(op) for op in ops if op.kind == "Logistic"]
    elements = sum(int(np.prod(output.shape)) for output in outputs if output is not None)
    assert elements and prediction.cost.sigmoids == elements
    (note,) = [note for note in prediction.notes if "swish" in note]
    assert note.startswith(f"{len(outputs)} Logistic: no latency of swish was published; ")
    assert rests_on in note
    per_million = fitted(1, prediction.precision).ms_per_million
    priced = elements / 1e6 * (2 * per_million["activations"] + per_million.get("sigmoids", 0))
    assert prediction.devices[0].by_kind_ms["Logistic"] == pytest.approx(priced)
    assert ("sigmoids" in per_million) == quantized


def test_v2_as_google_quantized_it_costs_what_ours_does(data_pack: Path) -> None:
    (prediction,) = predict_path(data_pack / "peers" / "google_v2_1.0_qat_uint8.tflite")
    assert prediction.precision == "int8"
    # Google's has a class more, "background".
    assert prediction.cost.macs == network_costs()[Network("v2")].macs + 1280
    paper = next(row for row in TABLE4 if row.network == "V2 1.0")
    for device, ms in zip(
        prediction.devices, (paper.pixel1_ms, paper.pixel2_ms, paper.pixel3_ms), strict=True
    ):
        assert device.interval_ms[0] <= ms <= device.interval_ms[1]
