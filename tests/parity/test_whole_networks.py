"""Whole MobileNetV3 networks: the integer reference against LiteRT at every tensor, one XNNPACK partition."""

from pathlib import Path

import numpy as np
import pytest
from ai_edge_litert.interpreter import OpResolverType
from parity.networks import Quantized, litert_tensors, random_network
from reference.litert_oracle import needs_x86

from device_eval.partitions import delegate_partitions
from qmnv3.export.tflite import write_tflite
from qmnv3.lowering import lower
from qmnv3.reference import run


@pytest.fixture(
    scope="module",
    params=[
        ("small", {}),
        ("large", {}),
        ("small", {"nonlinearity": "swish@16"}),
        ("small", {"last_stage": "original", "squeeze_excite": "none"}),
        ("small", {"last_stage": "efficient_bn", "squeeze_excite": "input"}),
    ],
    ids=str,
)
def network(request: pytest.FixtureRequest) -> Quantized:
    return random_network(*request.param)


def image(seed: int = 1, count: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(-128, 128, (count, 224, 224, 3)).astype(np.int8)


@pytest.mark.parametrize("target", ["xnnpack", "tflite-builtin"])
def test_every_tensor_equals_litert_reference_kernels(network: Quantized, target) -> None:
    graph, x = lower(network.graph, target), image()
    ours = run(graph, {"image": x}, "tflite", keep=True)
    theirs = litert_tensors(graph, x, OpResolverType.BUILTIN_REF)
    assert theirs.keys() == {op.output for op in graph.ops}
    for op in graph.ops:  # in execution order: the first difference is the cause
        np.testing.assert_array_equal(ours[op.output], theirs[op.output], err_msg=op.name)
    assert len(np.unique(ours["logits"])) > 50  # a saturated or dead network would prove nothing


@needs_x86
def test_logits_equal_the_xnnpack_delegate(network: Quantized) -> None:
    graph = lower(network.graph, "xnnpack")
    for seed in range(3):
        x = image(seed)
        theirs = litert_tensors(graph, x, OpResolverType.AUTO)["logits"]
        np.testing.assert_array_equal(run(graph, {"image": x}, "xnnpack")["logits"], theirs)


def test_xnnpack_takes_each_whole_network_as_one_partition(network: Quantized, tmp_path: Path) -> None:
    write_tflite(lower(network.graph, "xnnpack"), tmp_path / "model.tflite")
    partitions = delegate_partitions(tmp_path / "model.tflite")
    assert (partitions.count, partitions.undelegated) == (1, ())


def test_a_batch_equals_its_images_one_by_one(network: Quantized) -> None:
    graph, x = lower(network.graph, "xnnpack"), image(count=2)
    together = run(graph, {"image": x}, "tflite")["logits"]
    alone = [run(graph, {"image": x[i : i + 1]}, "tflite")["logits"][0] for i in range(2)]
    np.testing.assert_array_equal(together, np.stack(alone))
