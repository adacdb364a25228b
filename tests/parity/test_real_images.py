"""MobileNetV3-Small with real weights on all of imagenet/val: one set of logits from four implementations."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from parity.networks import Quantized, quantized
from reference.litert_oracle import needs_x86

from calibration.ptq import to_nchw
from device_eval.runners.litert import LitertRunner
from qmnv3.data import find_images, load_batches, sample
from qmnv3.export.onnx_qdq import write_onnx
from qmnv3.export.tflite import write_tflite
from qmnv3.lowering import lower
from qmnv3.models.weights import load_model
from qmnv3.quant.fake_quant import fake_quant
from qmnv3.reference import run

# The bounds: mean logit difference in output steps, share of equal top-1.
MEAN_LSB, AGREEMENT = 1.0, 0.98


@pytest.fixture(scope="module")
def subject(data_pack: Path) -> tuple[Quantized, list[np.ndarray]]:
    loaded = load_model("small", data_pack / "weights/v3_small_imagenet.safetensors")
    spec = loaded.preprocessing
    photos = find_images(data_pack / "imagenet/calib", classes=False)
    batches = load_batches(photos, spec, 20, indices=sample(photos, 200, 0))
    network = quantized(loaded.model, spec, [batch.images for batch in batches])
    validation = find_images(data_pack / "imagenet/val", classes=True)
    return network, [batch.images for batch in load_batches(validation, spec, 50)]


@pytest.fixture(scope="module")
def reference_logits(subject: tuple[Quantized, list[np.ndarray]]) -> np.ndarray:
    """The integer reference in float32 requantization, int32 [650, 1000]."""
    network, images = subject
    graph = lower(network.graph, "xnnpack", "float32")
    return np.concatenate([steps(network, run(graph, {"image": x}, "xnnpack")["logits"]) for x in images])


def steps(network: Quantized, logits: np.ndarray) -> np.ndarray:
    """Logits in output steps (LSB)."""
    qparams = network.graph.tensors["logits"].qparams
    return qparams.quantize(logits)


def check(logits: np.ndarray, reference: np.ndarray) -> None:
    difference = np.abs(logits - reference)
    agreement = (logits.argmax(1) == reference.argmax(1)).mean()
    assert difference.mean() <= MEAN_LSB, f"mean difference {difference.mean():.3f} LSB"
    assert agreement >= AGREEMENT, f"top-1 agreement {agreement:.4f}"


def test_fake_quant_model(subject: tuple[Quantized, list[np.ndarray]], reference_logits: np.ndarray) -> None:
    network, images = subject
    with torch.inference_mode(), fake_quant(network.frozen):
        logits = np.concatenate([network.frozen(to_nchw(x)).numpy() for x in images])
    check(steps(network, logits), reference_logits)


def test_onnxruntime(
    subject: tuple[Quantized, list[np.ndarray]], reference_logits: np.ndarray, tmp_path: Path
) -> None:
    network, images = subject
    write_onnx(lower(network.graph, "ort", "float32"), tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    logits = [session.run(None, {"image": x.transpose(0, 3, 1, 2)})[0] for x in images]
    check(steps(network, np.concatenate(logits)), reference_logits)


@needs_x86
def test_xnnpack_delegate_is_exact(
    subject: tuple[Quantized, list[np.ndarray]], reference_logits: np.ndarray, tmp_path: Path
) -> None:
    network, images = subject
    write_tflite(lower(network.graph, "xnnpack", "float32"), tmp_path / "model.tflite")
    runner = LitertRunner(tmp_path / "model.tflite", "xnnpack", 2)
    logits = np.concatenate([runner.run(x) for x in images])
    np.testing.assert_array_equal(steps(network, logits), reference_logits)
