"""h-swish, hard-sigmoid and sigmoid over all 256 inputs and many grids."""

import numpy as np
import pytest
import torch
from litert_oracle import needs_x86, run_litert
from single_op import grid, hard_swish_grids, one_op, random_grid

from qmnv3.errors import GraphError
from qmnv3.ir import HardSwish, Logistic, QParams, QuantGraph, Tensor
from qmnv3.reference import SemanticsName, hard_sigmoid_i8, hard_swish_i8, run

EVERY_INPUT = np.arange(-128, 128).astype(np.int8).reshape(1, 16, 16, 1)


def hard_swish_graph(source: QParams, output: QParams) -> QuantGraph:
    x = Tensor("x", EVERY_INPUT.shape, "int8", source)
    return one_op(HardSwish("hard_swish", ("x",), "y"), [x], output)


def on_grid(real: torch.Tensor, output: QParams) -> np.ndarray:
    return output.quantize(real.numpy())


@pytest.mark.parametrize(
    ("low", "high", "pairs"), [(1e-3, 0.3, 1500), (1e-5, 1e-3, 200), (0.3, 10.0, 200)], ids=str
)
def test_hard_swish_equals_litert_byte_for_byte(low: float, high: float, pairs: int) -> None:
    rng = np.random.default_rng(0)
    for _ in range(pairs):
        source, output = hard_swish_grids(rng, low, high)
        expected = run_litert(hard_swish_graph(source, output), {"x": EVERY_INPUT}, "tflite")
        np.testing.assert_array_equal(
            hard_swish_i8(EVERY_INPUT, source, output), expected.outputs["y"], err_msg=f"{source} {output}"
        )


def test_hard_swish_equals_litert_on_grids_unrelated_to_its_range() -> None:
    rng = np.random.default_rng(1)
    for _ in range(100):
        source = random_grid(rng)
        output = random_grid(rng, float(source.scale) * 10 ** rng.uniform(-2, 1))
        expected = run_litert(hard_swish_graph(source, output), {"x": EVERY_INPUT}, "tflite")
        np.testing.assert_array_equal(
            hard_swish_i8(EVERY_INPUT, source, output), expected.outputs["y"], err_msg=f"{source} {output}"
        )


def test_hard_swish_is_within_one_step_of_the_float_function() -> None:
    """The float function, computed by torch in double, put on the output grid."""
    rng = np.random.default_rng(2)
    for _ in range(4000):
        source, output = hard_swish_grids(rng)
        real = torch.from_numpy(source.dequantize(EVERY_INPUT).astype(np.float64))
        expected = on_grid(torch.nn.functional.hardswish(real), output)
        error = hard_swish_i8(EVERY_INPUT, source, output).astype(np.int32) - expected
        assert np.abs(error).max() <= 1, f"{source} {output}"


def test_hard_swish_refuses_the_output_scale_that_litert_refuses() -> None:
    source, output = grid(0.128, 0), grid(0.001, 0)
    with pytest.raises(GraphError, match=r"output scale 0\.001 must be above 1/128"):
        hard_swish_i8(EVERY_INPUT, source, output)
    with pytest.raises(RuntimeError, match="output_multiplier_exponent"):
        run_litert(hard_swish_graph(source, output), {"x": EVERY_INPUT}, "tflite")


def test_hard_sigmoid_is_within_one_step_of_the_float_function() -> None:
    """And almost always equal to it: only inputs that fall on a tie may round either way."""
    rng = np.random.default_rng(3)
    output, unequal, grids = grid(1 / 256, -128), 0, 4000
    for _ in range(grids):
        source = random_grid(rng, 10 ** rng.uniform(-5, 2))
        real = torch.from_numpy(source.dequantize(EVERY_INPUT).astype(np.float64))
        expected = on_grid(torch.nn.functional.hardsigmoid(real), output)
        error = hard_sigmoid_i8(EVERY_INPUT, source).astype(np.int32) - expected
        assert np.abs(error).max() <= 1, f"{source}"
        unequal += np.count_nonzero(error)
    assert unequal <= 1e-4 * grids * EVERY_INPUT.size


def test_hard_sigmoid_at_its_corners() -> None:
    source = grid(1.0, 0)
    q = np.array([-128, -3, 0, 3, 127], np.int8)
    # 0, 0, a half, and one, which the grid [0, 255/256] saturates.
    assert hard_sigmoid_i8(q, source).tolist() == [-128, -128, 0, 127, 127]


@pytest.mark.parametrize("semantics", ["tflite", pytest.param("xnnpack", marks=needs_x86)])
@pytest.mark.parametrize(
    ("scale", "zero_point"), [(0.12072428, 3), (0.0025449394, -113), (0.004344787, 46), (0.16043237, 126)]
)
def test_a_sigmoid_on_a_tie_rounds_as_the_runtime_does(
    scale: float, zero_point: int, semantics: SemanticsName
) -> None:
    """Grids with an entry so near a tie that the order of float32 roundings decides."""
    source = Tensor("x", EVERY_INPUT.shape, "int8", grid(scale, zero_point))
    graph = one_op(Logistic("op", ("x",), "y"), [source], grid(1 / 256, -128))
    expected = run_litert(graph, {"x": EVERY_INPUT}, semantics).outputs["y"]
    np.testing.assert_array_equal(run(graph, {"x": EVERY_INPUT}, semantics)["y"], expected)


def test_activations_keep_the_shape() -> None:
    q = np.zeros((2, 3, 4, 5), np.int8)
    assert hard_sigmoid_i8(q, grid(0.1, 0)).shape == q.shape
    assert hard_swish_i8(q, grid(0.1, 0), grid(0.1, 0)).shape == q.shape
