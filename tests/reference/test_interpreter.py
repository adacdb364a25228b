import numpy as np
import pytest
from litert_oracle import run_litert
from single_op import grid

from qmnv3.errors import GraphError
from qmnv3.ir import (
    Add,
    Conv2d,
    Dequantize,
    HardSigmoid,
    HardSwish,
    Logistic,
    Mean,
    Mul,
    Op,
    Padding,
    QParams,
    QuantGraph,
    Quantize,
    Tensor,
)
from qmnv3.ir.shapes import output_shape
from qmnv3.reference import hard_sigmoid_i8, run

SHAPE = (1, 7, 6, 3)


def assemble(tensors: list[Tensor], steps: list[tuple[Op, QParams | None, str]]) -> QuantGraph:
    """`tensors` (inputs and constants) and then the operations, each with its output's grid and dtype."""
    known = {tensor.name: tensor for tensor in tensors}
    for op, output, dtype in steps:
        shape = output_shape(op, [known[name].shape for name in op.inputs])
        known[op.output] = Tensor(op.output, shape, dtype, output)
    inputs = tuple(tensor.name for tensor in tensors if tensor.data is None)
    return QuantGraph(known, tuple(op for op, _, _ in steps), inputs, (steps[-1][0].output,))


def squeeze_and_excite() -> QuantGraph:
    """Float in and out: stem, h-swish, mean, ADD-and-MUL gate, product. All of it TFLite has kernels for."""
    rng = np.random.default_rng(0)
    x = grid(0.02, 3)
    weight = QParams(rng.uniform(0.001, 0.01, 8), np.zeros(8), -127, 127, 0)
    kernel = rng.integers(-127, 128, (8, 3, 3, 3), dtype=np.int8)
    bias = rng.integers(-500, 500, 8, dtype=np.int32)
    tensors = [
        Tensor("image", SHAPE, "float32"),
        Tensor("w", kernel.shape, "int8", weight, kernel),
        Tensor("b", (8,), "int32", QParams.bias(x, weight), bias),
        Tensor("three", (1,), "int8", grid(3 / 127, 0), np.array([127], np.int8)),
    ]
    return assemble(
        tensors,
        [
            (Quantize("quantize", ("image",), "x"), x, "int8"),
            (
                Conv2d("stem", ("x", "w", "b"), "stem", (2, 2), Padding(1, 1, 0, 1), (1, 1), "relu"),
                grid(0.05, -100),
                "int8",
            ),
            (HardSwish("act", ("stem",), "act"), grid(0.04, -120), "int8"),
            (Mean("pool", ("act",), "pool"), grid(0.03, -128), "int8"),
            (Add("gate", ("pool", "three"), "gate", "relu6"), grid(6 / 255, -128), "int8"),
            (Mul("scale", ("act", "gate"), "scaled"), grid(0.2, -115), "int8"),
            (Dequantize("dequantize", ("scaled",), "y"), None, "float32"),
        ],
    )


def images(count: int) -> np.ndarray:
    return np.random.default_rng(1).normal(0, 1, (count, *SHAPE[1:])).astype(np.float32)


@pytest.mark.parametrize("semantics", ["tflite", "xnnpack"])
def test_a_batch_gives_what_its_images_give(semantics: str) -> None:
    graph, batch = squeeze_and_excite(), images(5)
    together = run(graph, {"image": batch}, semantics)["y"]
    assert together.shape == (5, 4, 3, 8) and np.unique(together).size > 20
    for number in range(5):
        alone = run(graph, {"image": batch[number : number + 1]}, semantics)["y"]
        np.testing.assert_array_equal(together[number : number + 1], alone)


def test_float_in_and_out_equals_litert() -> None:
    graph, image = squeeze_and_excite(), images(1)
    expected = run_litert(graph, {"image": image}, "tflite").outputs["y"]
    np.testing.assert_array_equal(run(graph, {"image": image}, "tflite")["y"], expected, strict=True)


def test_keep_returns_every_activation_and_no_constant() -> None:
    graph = squeeze_and_excite()
    kept = run(graph, {"image": images(2)}, "tflite", keep=True)
    assert set(kept) == {"image", "x", "stem", "act", "pool", "gate", "scaled", "y"}
    for name, value in kept.items():
        assert value.dtype == graph.tensors[name].dtype
        assert value.shape[1:] == graph.tensors[name].shape[1:]


def test_hard_sigmoid_runs_alike_in_both_semantics() -> None:
    x = grid(0.05, 10)
    graph = assemble(
        [Tensor("x", SHAPE, "int8", x)],
        [(HardSigmoid("gate", ("x",), "y"), grid(1 / 256, -128), "int8")],
    )
    q = np.random.default_rng(2).integers(-128, 128, SHAPE, dtype=np.int8)
    for semantics in ("tflite", "xnnpack"):
        np.testing.assert_array_equal(run(graph, {"x": q}, semantics)["y"], hard_sigmoid_i8(q, x))


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, r"image: graph input missing; given were \[\]"),
        (
            {"image": np.zeros(SHAPE, np.int8)},
            r"image: input is int8\[1, 7, 6, 3\], .* float32\[N, 7, 6, 3\]",
        ),
        ({"image": np.zeros((1, 3, 7, 6), np.float32)}, r"image: input is float32\[1, 3, 7, 6\]"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(inputs: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(GraphError, match=message):
        run(squeeze_and_excite(), inputs, "tflite")


def test_a_float_graph_is_refused() -> None:
    graph = assemble([Tensor("x", SHAPE, "float32")], [(HardSwish("act", ("x",), "y"), None, "float32")])
    with pytest.raises(GraphError, match="act: tensor 'x' is float32"):
        run(graph, {"x": np.zeros(SHAPE, np.float32)}, "tflite")


@pytest.mark.parametrize("kind", [HardSigmoid, Logistic])
def test_a_sigmoid_on_another_grid_is_refused(kind: type[HardSigmoid] | type[Logistic]) -> None:
    graph = assemble(
        [Tensor("x", SHAPE, "int8", grid(0.05, 0))],
        [(kind("gate", ("x",), "y"), grid(1 / 128, -128), "int8")],
    )
    with pytest.raises(GraphError, match=f"gate: {kind.__name__} output must have scale 1/256"):
        run(graph, {"x": np.zeros(SHAPE, np.int8)}, "tflite")
