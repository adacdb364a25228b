"""A stem that reads pixel pairs gives the integers of the plain one in every LiteRT kernel."""

import numpy as np
import pytest
from export.tflite_sketch import RESOLVERS, Sketch, interpreter, run
from reference.litert_oracle import run_litert

from qmnv3.export.tflite import build_tflite
from qmnv3.ir import Op, Padding, PixelPairs, QuantGraph
from qmnv3.lowering import lower
from qmnv3.lowering.pixel_pairs import kernel_of_pairs

SYMMETRIC, VALID, RIGHT = Padding(1, 1, 1, 1), Padding(), Padding(0, 2, 0, 3)


def stem(
    padding: Padding | None = None, width: int = 24, kernel: int = 3, channels: int = 3, **options: object
) -> tuple[QuantGraph, dict[str, np.ndarray]]:
    """A convolution of stride 2 to 16 channels, SAME unless `padding` is given, and a random image."""
    sketch = Sketch(quantized=True, seed=width)
    image = sketch.image(1, 20, width, channels)
    options = {"stride": 2, **options}
    y = sketch.conv(image, 16, kernel, padding=padding, **options)
    return sketch.graph(y), sketch.feed()


def paired(graph: QuantGraph) -> list[Op]:
    return [op for op in graph.ops if isinstance(op, PixelPairs)]


@pytest.mark.parametrize(
    ("odd_start", "expected"),
    [
        (False, [[1, 2, 3, 4], [5, 6, 0, 0]]),
        (True, [[0, 0, 1, 2], [3, 4, 5, 6]]),
    ],
)
def test_kernel_by_hand(odd_start: bool, expected: list[list[int]]) -> None:
    """One row of three pixels of two channels: each pair holds the channels of its left pixel first."""
    kernel = np.array([[[[1, 2], [3, 4], [5, 6]]]], np.int8)
    np.testing.assert_array_equal(
        kernel_of_pairs(kernel, odd_start), np.array([[expected]], np.int8), strict=True
    )


def test_an_even_kernel_needs_no_zeros_but_for_an_odd_start() -> None:
    kernel = np.array([1, 2, 3, 4], np.int8).reshape(1, 1, 4, 1)
    assert kernel_of_pairs(kernel, odd_start=False).tolist() == [[[[1, 2], [3, 4]]]]
    assert kernel_of_pairs(kernel, odd_start=True).tolist() == [[[[0, 1], [2, 3], [4, 0]]]]


@pytest.mark.parametrize("resolver", RESOLVERS)
@pytest.mark.parametrize("padding", [None, SYMMETRIC, VALID, RIGHT], ids=["SAME", "PAD", "VALID", "right"])
@pytest.mark.parametrize(("kernel", "channels"), [(3, 3), (5, 3), (4, 3), (3, 1), (3, 4), (7, 2)])
def test_the_same_integers(kernel: int, channels: int, padding: Padding | None, resolver: str) -> None:
    graph, feed = stem(padding, kernel=kernel, channels=channels, activation="relu6")
    plain, pairs = (lower(graph, target) for target in ("tflite-builtin", "xnnpack"))
    assert (len(paired(plain)), len(paired(pairs))) == (0, 1)
    (name,) = graph.outputs
    images = [feed["image"], -feed["image"]]
    for image in images:
        got = run(build_tflite(pairs), {"image": image}, resolver)[name]
        np.testing.assert_array_equal(got, run(build_tflite(plain), {"image": image}, resolver)[name])
        assert len(np.unique(got)) > 50


@pytest.mark.parametrize("padding", [None, SYMMETRIC], ids=["SAME", "PAD"])
def test_xnnpack_takes_all_of_it_at_any_batch(padding: Padding | None) -> None:
    graph, feed = stem(padding)
    lowered = lower(graph, "xnnpack")
    single = run_litert(lowered, feed, "xnnpack")
    assert single.delegated
    made = interpreter(build_tflite(lowered), "xnnpack")
    made.resize_tensor_input(made.get_input_details()[0]["index"], (3, *feed["image"].shape[1:]), strict=True)
    made.allocate_tensors()
    made.set_tensor(made.get_input_details()[0]["index"], np.repeat(feed["image"], 3, axis=0))
    made.invoke()
    got = made.get_tensor(made.get_output_details()[0]["index"])
    np.testing.assert_array_equal(got, np.repeat(single.outputs[graph.outputs[0]], 3, axis=0))


def test_symmetric_padding_stays_next_to_the_convolution() -> None:
    """XNNPACK merges a PAD with the convolution after it; a RESHAPE between them costs more than it saves."""
    graph, _ = stem(SYMMETRIC)
    assert [type(op).__name__ for op in lower(graph, "xnnpack").ops] == ["PixelPairs", "Pad", "Conv2d"]


@pytest.mark.parametrize(
    "options",
    [
        {"width": 23},
        {"stride": 1},
        {"kernel": 1},
        {"channels": 5},
        {"dilation": 2},
        {"kernel": 2, "padding": SYMMETRIC},
    ],
    ids=str,
)
def test_what_gains_nothing_stays(options: dict[str, object]) -> None:
    graph, _ = stem(**options)
    lowered, plain = lower(graph, "xnnpack"), lower(graph, "tflite-builtin")
    assert lowered.ops == plain.ops
    assert not paired(lowered)


def test_only_integers_and_only_for_xnnpack() -> None:
    floats = Sketch(quantized=False)
    graph = floats.graph(floats.conv(floats.image(1, 8, 8, 3), 4, 3, 2))
    assert not paired(lower(graph, "xnnpack"))
    assert not paired(lower(stem()[0], "ort"))
