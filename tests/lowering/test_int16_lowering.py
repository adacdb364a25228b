"""int16 on each target: refused for ONNX Runtime, widened exactly for TFLite, its partitions counted."""

from pathlib import Path

import numpy as np
import pytest
from ai_edge_litert.interpreter import OpResolverType
from parity.networks import litert_tensors
from reference.litert_oracle import run_litert

from device_eval.partitions import delegate_partitions
from qmnv3.errors import ExportError
from qmnv3.export.tflite import write_tflite
from qmnv3.ir import Add, Cast, HardSigmoid, HardSwish, Mul, QParams, QuantGraph, Quantize, Tensor
from qmnv3.lowering import Target, lower

SHAPE = (1, 16, 16, 1)


def grid16(scale: float) -> QParams:
    return QParams.per_tensor(scale, 0, -32768, 32767)


def widened(zero_point: int) -> QuantGraph:
    """int8 x in int16."""
    x = QParams.per_tensor(0.03, zero_point)
    tensors = [Tensor("x", SHAPE, "int8", x), Tensor("y", SHAPE, "int16", grid16(0.03))]
    return QuantGraph({t.name: t for t in tensors}, (Quantize("op", ("x",), "y"),), ("x",), ("y",))


def hard_activation(kind: type[HardSwish] | type[HardSigmoid]) -> QuantGraph:
    """int8 x, widened, through an int16 `kind` and back to int8."""
    y = grid16(1 / 32768) if kind is HardSigmoid else grid16(0.0003)
    tensors = [
        Tensor("x", SHAPE, "int8", QParams.per_tensor(0.05, 20)),
        Tensor("wide", SHAPE, "int16", grid16(0.05)),
        Tensor("y", SHAPE, "int16", y),
        Tensor("z", SHAPE, "int8", QParams.per_tensor(float(y.scale) * 256, -128)),
    ]
    ops = (Quantize("widen", ("x",), "wide"), kind("op", ("wide",), "y"), Quantize("narrow", ("y",), "z"))
    return QuantGraph({t.name: t for t in tensors}, ops, ("x",), ("z",))


@pytest.mark.parametrize("zero_point", [-128, -1, 0, 3, 127])
@pytest.mark.parametrize("target", ["xnnpack", "tflite-builtin"])
def test_widening_is_exact(zero_point: int, target: Target) -> None:
    graph = lower(widened(zero_point), target)
    assert {type(op) for op in graph.ops} == ({Cast} if zero_point == 0 else {Cast, Add})
    every_input = np.arange(-128, 128).astype(np.int8).reshape(SHAPE)
    for semantics in ("tflite", "xnnpack"):
        got = run_litert(graph, {"x": every_input}, semantics).outputs["y"]
        np.testing.assert_array_equal(got, every_input.astype(np.int16) - zero_point)


@pytest.mark.parametrize("target", ["xnnpack", "tflite-builtin"])
@pytest.mark.parametrize("kind", [HardSwish, HardSigmoid])
def test_hard_activations_are_within_a_step_of_the_real_function(
    kind: type[HardSwish] | type[HardSigmoid], target: Target
) -> None:
    graph = lower(hard_activation(kind), target)
    assert not any(isinstance(op, HardSwish | HardSigmoid) for op in graph.ops)
    every_input = np.arange(-128, 128).astype(np.int8).reshape(SHAPE)
    got = litert_tensors(graph, every_input, OpResolverType.BUILTIN_REF)["y"]
    real = 0.05 * (every_input - 20.0)
    gate = np.clip(real + 3, 0, 6) / 6
    expected = grid16(0.0003).quantize(real * gate) if kind is HardSwish else gate * 32768
    # The gate's own rounding, at most 1/2 of 1/32767 of x, is below half a step of y; so is y's.
    assert np.abs(got - np.clip(expected, -32768, 32767)).max() <= 1


def int16_between_operations() -> QuantGraph:
    """As conversion makes it of an int16 tensor y between two operations."""
    tensors = [Tensor(name, SHAPE, "int16", grid16(0.001)) for name in ("x", "y", "z")]
    ops = (Mul("square", ("x", "x"), "y"), Add("double", ("y", "y"), "z"))
    return QuantGraph({t.name: t for t in tensors}, ops, ("x",), ("z",))


def test_onnx_runtime_is_refused_naming_the_tensor() -> None:
    with pytest.raises(ExportError, match=r"x: is int16, as are 2 more; ONNX Runtime .* --format tflite"):
        lower(int16_between_operations(), "ort")


def test_partitions_are_counted_with_what_they_would_be(tmp_path: Path) -> None:
    """One int8 sum on either side of an int16 product: two pieces, and one without int16."""
    q = QParams.per_tensor(0.05, 20)
    tensors = [
        *(Tensor(name, SHAPE, "int8", q) for name in ("x", "a", "c", "d")),
        *(Tensor(name, SHAPE, "int16", grid16(0.05 / 128)) for name in ("fine", "b")),
        Tensor("wide", SHAPE, "int16", grid16(0.05)),
    ]
    ops = (
        Add("first", ("x", "x"), "a"),
        Quantize("widen", ("a",), "wide"),
        Mul("square", ("wide", "wide"), "b"),
        Mul("cube", ("b", "wide"), "fine"),
        Quantize("narrow", ("fine",), "c"),
        Add("last", ("c", "a"), "d"),
    )
    graph = QuantGraph({t.name: t for t in tensors}, ops, ("x",), ("d",))
    write_tflite(lower(graph, "xnnpack"), tmp_path / "m.tflite")
    partitions = delegate_partitions(tmp_path / "m.tflite")
    assert (partitions.count, partitions.int16_ops, partitions.count_without_int16) == (2, 5, 1)
