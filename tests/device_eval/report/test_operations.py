"""Profiled operations are found in the model file, whatever runtimes make of their names."""

from pathlib import Path
from typing import Any

import pytest
import result_files as files
from colour_models import write_colour_onnx

from device_eval.lint.description import Carried, Model, Op, Tensor
from device_eval.report import build, gather
from device_eval.report.sections.operations import cost_of, find

OUTPUTS = ("features.1", "features.1.2", "mul", "mul_1", "")


@pytest.mark.parametrize(
    ("name", "output"),
    [
        ("mul", "mul"),
        ("mul:Mul", "mul"),
        ("mul_1:Mul", "mul_1"),
        ("mul_12:Mul", None),
        ("[mul_1]:7", "mul_1"),
        ("features.1.2_nchwc", "features.1.2"),
        ("features.1.2/float:Conv_token_45", "features.1.2"),
        ("features.1;relu", "features.1"),
        ("features.12", None),
        ("Transpose", None),
    ],
)
def test_names(name: str, output: str | None) -> None:
    ops = tuple(Op(i, "Mul", "Mul", ("x",), (output,)) for i, output in enumerate(OUTPUTS))
    model = Model(Path("m"), "onnx", {}, ops, ("x",), ("mul",), Carried(False, False))
    found = find(model, name)
    assert (found.outputs[0] if found is not None else None) == output


def test_a_convolution_costs_what_it_computes_and_moves(tmp_path: Path) -> None:
    """3 x 3 taps, 4 channels to 8, 10 x 10 outputs in float: worked by hand."""
    tensors = {
        "x": Tensor("x", (1, 10, 10, 4), "float32"),
        "w": Tensor("w", (8, 3, 3, 4), "float32"),
        "y": Tensor("y", (1, 10, 10, 8), "float32"),
    }
    op = Op(0, "Conv", "CONV_2D", ("x", "w"), ("y",), weight_axis=0)
    model = Model(Path("m"), "tflite", tensors, (op,), ("x",), ("y",), Carried(False, False))
    kind, cost = cost_of(model, "[y]:0") or ("", None)
    assert kind == "Conv" and cost is not None
    assert cost.macs == 10 * 10 * 8 * 9 * 4
    assert cost.bytes_moved == 4 * (400 + 288 + 800)


def profiled(path: Path, size: int) -> dict[str, Any]:
    odd, even = {"kind": "Odd", "name": "odd"}, {"kind": "Even", "name": "even"}
    profile = [{**odd, "mean_us": 30.0}, {**even, "mean_us": 10.0}]
    latency = files.latency(str(path), "ONNX Runtime", [1, 2, 3], profile=profile)
    return files.benchmark(latency, models=[files.structure(str(path), size_bytes=size)])


def test_shares_of_the_time_need_no_model(tmp_path: Path) -> None:
    path = files.write(tmp_path / "b.json", profiled(Path("m.onnx"), 1))
    section = next(s for s in build(gather([path])).sections if s.id == "operations")
    by_kind = section.tables[0].rows
    assert by_kind == (("Odd", 1, 30.0, 75.0), ("Even", 1, 10.0, 25.0))
    assert section.figures == ()
    assert section.notes == ("Give m.onnx too for the multiply-adds of its operations.",)


def test_a_file_of_the_same_name_and_another_size_is_not_taken(tmp_path: Path) -> None:
    model = write_colour_onnx(tmp_path / "m.onnx")
    for size, notes in ((model.stat().st_size, 0), (model.stat().st_size + 1, 1)):
        path = files.write(tmp_path / "b.json", profiled(Path("elsewhere/m.onnx"), size))
        section = next(s for s in build(gather([path, model])).sections if s.id == "operations")
        assert len(section.notes) == notes
