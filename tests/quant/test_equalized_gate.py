"""Equalized networks in integers: LiteRT's kernels bit for bit, one XNNPACK partition, ONNX Runtime near."""

import copy
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from ai_edge_litert.interpreter import OpResolverType
from parity.networks import litert_tensors
from quant.nets import TinyNet, randomize
from reference.litert_oracle import needs_x86
from torch import fx

from calibration import ranges
from calibration.config import EqualizationConfig, PtqConfig
from calibration.ptq import calibrate, observe
from calibration.scale_groups import scale, scale_groups
from calibration.statistics import to_nchw
from device_eval.partitions import delegate_partitions
from qmnv3.data import find_images, load_batches, sample
from qmnv3.errors import PrepareError
from qmnv3.export.onnx_qdq import write_onnx
from qmnv3.export.tflite import write_tflite
from qmnv3.ir import DepthwiseConv2d, Metadata, QuantGraph
from qmnv3.lowering import Target, lower
from qmnv3.models.network import build_model
from qmnv3.models.weights import load_model
from qmnv3.preprocessing import Preprocessing
from qmnv3.quant.convert import convert
from qmnv3.quant.fake_quant import fake_quant
from qmnv3.reference import run

# As in tests/parity: mean logit difference in output steps (of the median image, for in an untrained network
# a rounding tie in an early layer may grow to 10), share of equal top-1.
ONNX_LSB, ONNX_AGREEMENT = 1.0, 0.98
FAKE_QUANT_LSB, FAKE_QUANT_AGREEMENT = 2.0, 0.93
GATES = {"tiny": 3, "small": 19}

Subject = tuple[str, fx.GraphModule, QuantGraph, np.ndarray]


def scaled_by_anything(name: str) -> tuple[fx.GraphModule, np.ndarray]:
    """Every group of a random network scaled by factors between 1/4 and 8, then ranges searched."""
    if name == "tiny":
        model = randomize(TinyNet())
    else:
        model = randomize(build_model(name, width=0.35, num_classes=10, head_width=64))
    images = np.random.default_rng(0).uniform(-2, 2, (16, 32, 32, 3)).astype(np.float32)
    config = PtqConfig(level=1)
    seen = observe(model, Preprocessing(32, 36), lambda: [images], (config,))
    graph = copy.deepcopy(seen.parent)
    for group in scale_groups(graph):
        scale(group, torch.exp2(torch.linspace(-2.0, 3.0, group.channels)))
    return ranges.apply(graph, seen.statistics, config), images


def real_network(data_pack: Path) -> tuple[fx.GraphModule, np.ndarray]:
    """MobileNetV3-Small with real weights, calibrated on 40 photos, and 10 others to compare on."""
    loaded = load_model("small", data_pack / "weights/v3_small_imagenet.safetensors")
    photos = find_images(data_pack / "imagenet/calib", classes=False)
    batches = load_batches(photos, loaded.preprocessing, 10, indices=sample(photos, 50, 0))
    *used, unseen = [batch.images for batch in batches]
    config = PtqConfig(level=3, equalization=EqualizationConfig(max_slowdown=10.0))
    return calibrate(loaded.model, loaded.preprocessing, lambda: used, config).model, unseen


@pytest.fixture(scope="module", params=["tiny", "small", "real weights"])
def subject(request: pytest.FixtureRequest) -> Subject:
    name = request.param
    if name == "real weights":
        frozen, images = real_network(request.getfixturevalue("data_pack"))
    else:
        frozen, images = scaled_by_anything(name)
    return name, frozen, convert(frozen, Metadata()), images


def quantized_images(graph: QuantGraph, images: np.ndarray) -> np.ndarray:
    return graph.tensors["image"].qparams.quantize(images).astype(np.int8)


def test_every_h_swish_has_its_depthwise_gate(subject: Subject) -> None:
    name, _, canonical, _ = subject
    gates = [op for op in canonical.ops if isinstance(op, DepthwiseConv2d) and op.name.endswith(".gate")]
    assert len(gates) == GATES[name] if name in GATES else len(gates) > 0
    for op in gates:
        output = canonical.tensors[op.output].qparams
        np.testing.assert_allclose(output.dequantize([-128, 127]), [0.0, 1.0], atol=1e-6)


@pytest.mark.parametrize("target", ["xnnpack", "tflite-builtin"])
def test_every_tensor_equals_litert_reference_kernels(subject: Subject, target: Target) -> None:
    _, _, canonical, images = subject
    graph = lower(canonical, target)
    x = quantized_images(graph, images[:1])
    ours = run(graph, {"image": x}, "tflite", keep=True)
    theirs = litert_tensors(graph, x, OpResolverType.BUILTIN_REF)
    assert theirs.keys() == {op.output for op in graph.ops}
    for op in graph.ops:
        np.testing.assert_array_equal(ours[op.output], theirs[op.output], err_msg=op.name)


@needs_x86
def test_logits_equal_the_xnnpack_delegate(subject: Subject) -> None:
    _, _, canonical, images = subject
    graph = lower(canonical, "xnnpack")
    for image in quantized_images(graph, images[:4]):
        theirs = litert_tensors(graph, image[None], OpResolverType.AUTO)["logits"]
        np.testing.assert_array_equal(run(graph, {"image": image[None]}, "xnnpack")["logits"], theirs)


def test_xnnpack_takes_all_as_one_partition(subject: Subject, tmp_path: Path) -> None:
    write_tflite(lower(subject[2], "xnnpack"), tmp_path / "model.tflite")
    partitions = delegate_partitions(tmp_path / "model.tflite")
    assert (partitions.count, partitions.undelegated, partitions.refused) == (1, (), None)


def reference_steps(canonical: QuantGraph, images: np.ndarray) -> np.ndarray:
    graph = lower(canonical, "xnnpack")
    return run(graph, {"image": quantized_images(graph, images)}, "xnnpack")["logits"].astype(np.int32)


def check(steps: np.ndarray, expected: np.ndarray, mean_lsb: float, agreement: float) -> None:
    assert np.median(np.abs(steps - expected).mean(1)) <= mean_lsb
    # A tie in the integers may fall either way.
    chosen = np.take_along_axis(expected, steps.argmax(1)[:, None], 1)[:, 0]
    assert (chosen >= expected.max(1) - 1).mean() >= agreement


def test_onnxruntime_is_near(subject: Subject, tmp_path: Path) -> None:
    _, _, canonical, images = subject
    write_onnx(lower(canonical, "ort", "float32"), tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    logits = session.run(None, {"image": images.transpose(0, 3, 1, 2)})[0]
    steps = canonical.tensors["logits"].qparams.quantize(logits)
    check(steps, reference_steps(canonical, images), ONNX_LSB, ONNX_AGREEMENT)


def test_fake_quant_is_near(subject: Subject) -> None:
    _, frozen, canonical, images = subject
    with torch.inference_mode(), fake_quant(frozen):
        logits = frozen(to_nchw(images)).numpy()
    steps = canonical.tensors["logits"].qparams.quantize(logits)
    check(steps, reference_steps(canonical, images), FAKE_QUANT_LSB, FAKE_QUANT_AGREEMENT)


def test_an_equalized_network_is_no_float_parent() -> None:
    frozen, _ = scaled_by_anything("tiny")
    with pytest.raises(PrepareError, match=r"stem\.2: is equalized; convert the float parent"):
        convert(frozen, Metadata(), "float32")
