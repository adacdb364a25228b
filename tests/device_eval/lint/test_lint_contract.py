"""What TFLite takes for granted, checked against what LiteRT does with the file."""

from pathlib import Path

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from tiny_tflite import TinyTflite, invoke, linted

from device_eval.lint import Finding
from device_eval.partitions import delegate_partitions
from qmnv3.errors import ModelFileError

MAP = (1, 4, 4, 4)


def of_rule(found: list[Finding], rule: str) -> list[Finding]:
    return [finding for finding in found if finding.rule == rule]


def loads(model: TinyTflite, path: Path, x: int, y: int) -> bool:
    try:
        delegate_partitions(model.write(path, [x], [y]))
    except ModelFileError:
        return False
    return True


@pytest.mark.parametrize("kind", ["LOGISTIC", "SOFTMAX"])
@pytest.mark.parametrize(("scale", "zero_point"), [(1 / 256, -128), (1 / 255, -128)])
def test_fixed_output_grid(tmp_path: Path, kind: str, scale: float, zero_point: int) -> None:
    model = TinyTflite()
    x, y = model.tensor("x", (1, 8), 0.1), model.tensor("y", (1, 8), scale, zero_point)
    options = None
    if kind == "SOFTMAX":
        options = schema.SoftmaxOptionsT()
        options.beta = 1.0
    model.op(kind, [x], y, options)
    refused = not loads(model, tmp_path / "m.tflite", x, y)
    assert bool(of_rule(linted(model, [x], y), "fixed-grid")) == refused == (scale == 1 / 255)


@pytest.mark.parametrize("zero_point", [0, 3])
def test_int8_weights_with_a_zero_point(tmp_path: Path, zero_point: int) -> None:
    model = TinyTflite()
    x = model.tensor("x", MAP, 0.1)
    weight = np.full((4, 1, 1, 4), 9)
    y = model.conv("y", x, weight, [0.1] * 4, (0.4, 0), weight_zero_point=zero_point)
    refused = not loads(model, tmp_path / "m.tflite", x, y)
    assert bool(of_rule(linted(model, [x], y), "weight-zero-point")) == refused == bool(zero_point)


@pytest.mark.parametrize("factor", [1.0, 2.0])
def test_bias_scale_that_the_kernel_ignores(factor: float) -> None:
    """Real bias 1.0 by its declared scale; LiteRT adds it at input scale x weight scale."""
    model = TinyTflite()
    x = model.tensor("x", MAP, 0.1)
    y = model.conv("y", x, np.full((4, 1, 1, 4), 9), [0.1] * 4, (0.01, 0), bias=round(1 / (0.01 * factor)))
    model.graph.tensors[2].quantization.scale *= np.float32(factor)
    found = of_rule(linted(model, [x], y), "bias-scale")
    got = 0.01 * float(invoke(model.bytes([x], [y]), np.zeros(MAP, np.int8)).flat[0])
    assert got == pytest.approx(1 / factor, abs=0.011)
    assert bool(found) == (factor != 1.0)


@pytest.mark.parametrize("kind", ["RESHAPE", "MAX_POOL_2D", "AVERAGE_POOL_2D"])
@pytest.mark.parametrize("factor", [1.0, 2.0])
def test_operation_that_copies_integers(kind: str, factor: float) -> None:
    model = TinyTflite()
    x = model.tensor("x", MAP, 0.1)
    if kind == "RESHAPE":
        shape = model.tensor("shape", (2,), dtype="int32", data=[1, 64])
        y = model.op(kind, [x, shape], model.tensor("y", (1, 64), 0.1 * factor))
    else:
        y = model.pool(kind, x, "y", (0.1 * factor, 0))
    copied = invoke(model.bytes([x], [y]), np.full(MAP, 50, np.int8))
    assert (copied == 50).all(), "LiteRT does not requantize here"
    assert bool(of_rule(linted(model, [x], y), "pass-through")) == (factor != 1.0)
