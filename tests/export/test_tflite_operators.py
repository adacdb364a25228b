"""Every operation of an exported file computes what torch computes, in three LiteRT kernel sets."""

from collections.abc import Callable

import numpy as np
import pytest
from tflite_sketch import (
    RESOLVERS,
    Sketch,
    interpreter,
    mobilenet_v3_chain,
    real,
    run,
    run_all,
    torch_result,
)

from qmnv3.errors import ExportError
from qmnv3.export.tflite import build_tflite
from qmnv3.ir import (
    Add,
    Dequantize,
    Flatten,
    HardSwish,
    Logistic,
    Mean,
    Op,
    Pad,
    Padding,
    QParams,
    QuantGraph,
    Quantize,
    Tensor,
)
from qmnv3.ir.graph import DType

FLOAT_TOLERANCE = 1e-5  # summation order of float kernels; values here are below 10

Case = Callable[[Sketch], str]
THREE, SIXTH = np.full((1,), 3.0), np.full((1,), 1 / 6)
CASES: dict[str, Case] = {
    "conv 1x1": lambda s: s.conv(s.image(1, 5, 4, 8), 6),
    "conv 3x3 same": lambda s: s.conv(s.image(1, 7, 6, 3), 8, 3),
    "conv 3x3 stride 2 relu": lambda s: s.conv(s.image(1, 8, 8, 3), 8, 3, 2, "relu"),
    "conv 3x3 stride 2 odd size relu6": lambda s: s.conv(s.image(1, 9, 7, 3), 8, 3, 2, "relu6"),
    "conv valid": lambda s: s.conv(s.image(1, 7, 6, 3), 8, 3, padding=Padding()),
    "conv dilated same": lambda s: s.conv(s.image(1, 9, 9, 3), 4, 3, dilation=2),
    "conv per tensor": lambda s: s.conv(s.image(1, 5, 4, 8), 6, per_channel=False),
    "depthwise 3x3": lambda s: s.conv(s.image(1, 7, 6, 5), None, 3),
    "depthwise 5x5 stride 2 relu": lambda s: s.conv(s.image(1, 14, 14, 8), None, 5, 2, "relu"),
    "depthwise valid": lambda s: s.conv(s.image(1, 7, 6, 5), None, 3, padding=Padding()),
    "depthwise dilated": lambda s: s.conv(s.image(1, 9, 9, 5), None, 3, dilation=2),
    "depthwise per tensor": lambda s: s.conv(s.image(1, 7, 6, 5), None, 3, per_channel=False),
    "add": lambda s: s.add(s.image(1, 4, 4, 8), s.image(1, 4, 4, 8, name="other")),
    "add constant relu6": lambda s: s.add(s.image(1, 4, 4, 8), s.constant("three", THREE), "relu6"),
    "mul": lambda s: s.mul(s.image(1, 4, 4, 8), s.image(1, 4, 4, 8, name="other")),
    "mul gate": lambda s: s.mul(s.image(1, 4, 4, 8), s.image(1, 1, 1, 8, name="gate", low=0.0)),
    "mul constant": lambda s: s.mul(s.image(1, 4, 4, 8), s.constant("sixth", SIXTH), "relu"),
    "mean": lambda s: s.unary(Mean, s.image(1, 7, 7, 8)),
    "pad": lambda s: s.unary(Pad, s.image(1, 4, 5, 3), padding=Padding(1, 2, 3, 4)),
    "flatten": lambda s: s.unary(Flatten, s.image(1, 1, 1, 12)),
    "hard swish": lambda s: s.unary(HardSwish, s.image(1, 6, 6, 8, low=-5.0)),
    "sigmoid": lambda s: s.unary(Logistic, s.image(1, 6, 6, 8, low=-9.0)),
}  # fmt: skip


def assert_close(graph: QuantGraph, op: Op, inputs: list[np.ndarray], got: np.ndarray) -> None:
    """`got` is torch's result on the real values of `inputs`: to 1 LSB in integers, closely in float."""
    wanted = torch_result(op, [real(graph.tensors[n], v) for n, v in zip(op.inputs, inputs, strict=True)])
    output = graph.tensors[op.output]
    assert got.shape == wanted.shape and got.dtype == np.dtype(output.dtype)
    if output.qparams is None:
        np.testing.assert_allclose(got, wanted, rtol=FLOAT_TOLERANCE, atol=FLOAT_TOLERANCE, err_msg=op.name)
    else:
        difference = np.abs(got.astype(np.int32) - output.qparams.quantize(wanted))
        assert difference.max() <= 1, f"{op.name}: {difference.max()} LSB"


def constants_of(graph: QuantGraph) -> dict[str, np.ndarray]:
    return {t.name: t.data for t in graph.tensors.values() if t.data is not None}


@pytest.mark.parametrize("resolver", RESOLVERS)
@pytest.mark.parametrize("quantized", [True, False], ids=["int8", "float32"])
@pytest.mark.parametrize("name", CASES)
def test_one_operation_equals_torch(name: str, quantized: bool, resolver: str) -> None:
    sketch = Sketch(quantized)
    graph = sketch.graph(CASES[name](sketch))
    feed = sketch.feed()
    (op,) = graph.ops

    got = run(build_tflite(graph), feed, resolver)[op.output]

    values = {**constants_of(graph), **feed}
    assert_close(graph, op, [values[n] for n in op.inputs], got)


@pytest.mark.parametrize("target", ["int8", "uint8"])
@pytest.mark.parametrize("source", ["uint8", "float32", "int8"])
@pytest.mark.parametrize("resolver", RESOLVERS)
def test_quantize_and_dequantize_round_once(source: str, target: str, resolver: str) -> None:
    sketch = Sketch(quantized=True)
    image = sketch.image(1, 6, 6, 3, dtype=source)
    quantized = sketch.add_op(Quantize("quantize", (image,), "quantize"), dtype=target)
    graph = sketch.graph(quantized, sketch.unary(Dequantize, quantized))
    feed = sketch.feed()

    got = run(build_tflite(graph), feed, resolver)

    assert_close(graph, graph.ops[0], [feed[image]], got[graph.outputs[0]])
    assert_close(graph, graph.ops[1], [got[graph.outputs[0]]], got[graph.outputs[1]])


@pytest.mark.parametrize("hard_swish_op", [False, True], ids=["add_mul", "hard_swish_op"])
@pytest.mark.parametrize("quantized", [True, False], ids=["int8", "float32"])
@pytest.mark.parametrize("resolver", ["reference", "builtin"])
def test_every_operation_of_a_mobilenet_v3_equals_torch(
    resolver: str, quantized: bool, hard_swish_op: bool
) -> None:
    sketch = mobilenet_v3_chain(quantized, hard_swish_op=hard_swish_op)
    graph = sketch.graph("logits")

    values = run_all(build_tflite(graph), sketch.feed(), resolver)

    for op in graph.ops:
        assert_close(graph, op, [values[n] for n in op.inputs], values[op.output])


@pytest.mark.parametrize("quantized", [True, False], ids=["int8", "float32"])
def test_a_mobilenet_v3_is_one_xnnpack_partition_at_any_batch(quantized: bool) -> None:
    sketch = mobilenet_v3_chain(quantized)
    model, image = build_tflite(sketch.graph("logits")), sketch.feed()["image"]
    single = run(model, {"image": image}, "xnnpack")["logits"]
    made = interpreter(model, "xnnpack")
    source, sink = made.get_input_details()[0]["index"], made.get_output_details()[0]["index"]

    for batch in (1, 3):
        made.resize_tensor_input(source, (batch, *image.shape[1:]), strict=True)
        made.allocate_tensors()
        made.set_tensor(source, np.repeat(image, batch, axis=0))
        made.invoke()
        delegates = [op for op in made._get_ops_details() if op["op_name"] == "DELEGATE"]
        # One delegate node from the graph's input to its output leaves nothing outside it.
        assert len(delegates) == 1
        assert source in delegates[0]["inputs"] and list(delegates[0]["outputs"]) == [sink]
        np.testing.assert_allclose(
            made.get_tensor(sink), np.repeat(single, batch, 0), rtol=FLOAT_TOLERANCE, atol=FLOAT_TOLERANCE
        )


@pytest.mark.parametrize("quantized", [True, False], ids=["int8", "float32"])
def test_batch_resize_on_reference_kernels(quantized: bool) -> None:
    sketch = mobilenet_v3_chain(quantized)
    model, image = build_tflite(sketch.graph("logits")), sketch.feed()["image"]
    other = np.ascontiguousarray(image[:, ::-1])
    made = interpreter(model, "reference")
    source = made.get_input_details()[0]["index"]
    made.resize_tensor_input(source, (2, *image.shape[1:]))
    made.allocate_tensors()
    made.set_tensor(source, np.concatenate([image, other]))
    made.invoke()

    singles = [run(model, {"image": x}, "reference")["logits"] for x in (image, other)]

    np.testing.assert_array_equal(
        made.get_tensor(made.get_output_details()[0]["index"]), np.concatenate(singles)
    )


@pytest.mark.parametrize(("dtype", "limit"), [("int8", 2.0**19), ("int16", 2.0**14)])
def test_an_add_that_litert_aborts_on_is_refused(dtype: DType, limit: float) -> None:
    ends = np.iinfo(dtype).min, np.iinfo(dtype).max

    def graph(ratio: float) -> QuantGraph:
        grids = [QParams.per_tensor(scale, 0, *ends) for scale in (1.0, 1.0 / ratio)]
        tensors = [Tensor(name, (1, 4, 4, 3), dtype, q) for name, q in zip("xy", grids, strict=True)]
        return QuantGraph({t.name: t for t in tensors}, (Add("sum", ("x", "x"), "y"),), ("x",), ("y",))

    with pytest.raises(ExportError, match=f"sum: input scale 1 is not below {limit:g} times the output"):
        build_tflite(graph(limit))
    ones = np.ones((1, 4, 4, 3), dtype)
    loaded = run(build_tflite(graph(0.99 * limit)), {"x": ones}, "reference")["y"]
    assert (loaded == min(int(2 * 0.99 * limit), ends[1])).all()
