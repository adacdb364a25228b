"""Requantization limits: the rule must say what LiteRT's delegate does with the same file."""

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from tiny_tflite import TinyTflite, linted

from device_eval.lint import lint
from device_eval.partitions import delegate_partitions

MAP = (1, 4, 4, 4)
BELOW, ABOVE = 1 - 1e-4, 1 + 1e-4


def elementwise(kind: str, ratio: float, dtype: str = "int8") -> tuple[TinyTflite, list[int], int]:
    model = TinyTflite()
    if kind == "QUANTIZE":
        a, y = model.tensor("a", MAP, 0.02 * ratio), model.tensor("y", MAP, 0.02)
        return model, [a], model.op(kind, [a], y, schema.QuantizeOptionsT())
    if kind == "MUL":
        a, b, out = model.tensor("a", MAP, 0.5), model.tensor("b", MAP, 0.5), (0.25 / ratio, 0)
    else:
        a, b = (model.tensor(name, MAP, 0.02 * by, dtype=dtype) for name, by in (("a", ratio), ("b", 1.0)))
        out = (0.02, 0)
    return model, [a, b], model.binary(kind, a, b, "y", out)


@pytest.mark.parametrize("side", [BELOW, ABOVE])
@pytest.mark.parametrize(
    ("kind", "limit"),
    [(kind, limit) for kind in ("ADD", "SUB") for limit in (2.0**-10, 2.0**8)]
    + [("MUL", 2.0**-16), ("MUL", 2.0**8), ("QUANTIZE", 2.0**-8), ("QUANTIZE", 2.0**7)],
)
def test_elementwise_ratio_at_a_limit(tmp_path: Path, kind: str, limit: float, side: float) -> None:
    model, inputs, output = elementwise(kind, limit * side)
    left_out = delegate_partitions(model.write(tmp_path / "m.tflite", inputs, [output])).count == 0
    found = [f for f in linted(model, inputs, output) if f.rule == "requantization"]
    assert bool(found) == left_out == ((side == ABOVE) == (limit > 1))
    assert all(f.severity == "warning" and f"op 0 {kind} y" == f.where for f in found)


@pytest.mark.parametrize("depthwise", [False, True])
@pytest.mark.parametrize(
    "ratios", [[255.9] * 4, [256.1, 1.0, 1.0, 1.0], [1.0, 1.0, 1.0, 256.1], 255.9, 256.1]
)
def test_layer_ratio_refuses_the_whole_model(
    tmp_path: Path, depthwise: bool, ratios: float | list[float]
) -> None:
    model = TinyTflite()
    x = model.tensor("x", MAP, 0.1)
    first = model.binary("MUL", x, x, "before", (0.1, 0))
    weight = np.ones((1, 3, 3, 4) if depthwise else (4, 1, 1, 4))
    y = model.conv("y", first, weight, ratios, (0.1, 0), depthwise=depthwise)
    refused = delegate_partitions(model.write(tmp_path / "m.tflite", [x], [y])).refused is not None
    found = linted(model, [x], y)
    errors = {f.rule for f in found if f.severity == "error"}
    assert errors == ({"requantization", "partitions"} if refused else set())
    assert refused == (np.max(ratios) > 256)
    if refused:
        assert f"ratio 256.1 in channel {int(np.argmax(ratios))}" in found[0].what
        assert found[0].where.startswith("op 1 ")


@pytest.mark.parametrize("side", [BELOW, ABOVE])
@pytest.mark.parametrize(("dtype", "limit"), [("int8", 2.0**19), ("int16", 2.0**14)])
def test_sum_that_makes_tflite_abort_is_an_error_not_an_abort(
    tmp_path: Path, dtype: str, limit: float, side: float
) -> None:
    model, inputs, output = elementwise("ADD", limit * side, dtype)
    path = model.write(tmp_path / "abort.tflite", inputs, [output])
    errors = [f.rule for f in linted(model, inputs, output) if f.severity == "error"]
    assert errors == (["requantization", "partitions"] if side == ABOVE else [])
    load = (
        f"from ai_edge_litert.interpreter import Interpreter; Interpreter({str(path)!r}).allocate_tensors()"
    )
    done = subprocess.run([sys.executable, "-c", load], capture_output=True, timeout=60, check=False)
    assert done.returncode == (-signal.SIGABRT if side == ABOVE else 0)


@pytest.mark.parametrize("ratio", [2.0**7 * BELOW, 2.0**7 * ABOVE])
def test_hard_swish_ratio_that_tflite_refuses(tmp_path: Path, ratio: float) -> None:
    model = TinyTflite()
    x = model.tensor("x", MAP, 0.02 * ratio, -128)
    path = model.write(tmp_path / "m.tflite", [x], [model.hard_swish(x, "y", (0.02, -128))])
    report = lint(path)
    refused = [f for f in report.findings if "TFLite refuses to load" in f.why]
    assert bool(refused) == (ratio > 2.0**7)
    unloadable = [f for f in report.findings if f.rule == "partitions" and f.severity == "error"]
    assert bool(unloadable) == bool(refused)
