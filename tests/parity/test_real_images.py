"""MobileNetV3-Small with real weights on all of imagenet/val: one set of logits from four implementations."""

import copy
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
from qmnv3.quant.fake_quant import FakeQuantize, activation_sites, fake_quant
from qmnv3.reference import run

# The bounds aimed at: mean logit difference in output steps, share of equal top-1.
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


def check(logits: np.ndarray, reference: np.ndarray, mean_lsb: float, least_agreement: float) -> None:
    difference = np.abs(logits - reference).mean()
    agreement = (logits.argmax(1) == reference.argmax(1)).mean()
    print(f"mean logit difference {difference:.3f} LSB, top-1 agreement {100 * agreement:.2f} %")
    assert difference <= mean_lsb
    assert agreement >= least_agreement


def test_fake_quant_model_site_by_site(subject: tuple[Quantized, list[np.ndarray]]) -> None:
    """On identical inputs every site equals the reference but for rounding at ties.

    The whole network cannot: float32 rounding moves one byte in 100,000 and each layer doubles what it is
    given, so even two float precisions of this same model end 1.3 LSB apart (docs/parity.md).
    """
    network, images = subject
    x = images[0][:4]
    graph = lower(network.graph, "xnnpack", "float32")
    expected = run(graph, {"image": x}, "xnnpack", keep=True)
    shares = {}

    def compare_then_force(site: FakeQuantize, _: object, output: torch.Tensor) -> torch.Tensor:
        reference = expected["image_int8" if site.site == "image" else site.site]
        channels_first = torch.from_numpy(site.qparams.dequantize(reference)).permute(0, 3, 1, 2)
        wanted = site.qparams.quantize(channels_first.reshape(output.shape).numpy())
        difference = np.abs(site.qparams.quantize(output.numpy()) - wanted)
        assert difference.max() <= 1, site.site
        shares[site.site] = (difference > 0).mean()
        return channels_first.reshape(output.shape)

    sites = activation_sites(network.frozen)
    hooks = [site.register_forward_hook(compare_then_force) for site in sites.values()]
    with torch.inference_mode(), fake_quant(network.frozen):
        network.frozen(to_nchw(x))
    for hook in hooks:
        hook.remove()
    assert shares.keys() == sites.keys()
    # h-swish's input grid ends at -3, so its gate and product hit exact ties by the thousand: which ones, the
    # chosen ranges decide, and a float32 ulp (in XNNPACK's ADD a fixed-point one) decides each.
    assert max(shares.values()) <= 1e-2, max(shares.items(), key=lambda item: item[1])
    assert np.mean(list(shares.values())) <= 2e-4


def fake_quant_logits(network: Quantized, images: list[np.ndarray], dtype: torch.dtype) -> np.ndarray:
    model = copy.deepcopy(network.frozen).to(dtype)
    with torch.inference_mode(), fake_quant(model):
        return steps(network, np.concatenate([model(to_nchw(x).to(dtype)).numpy() for x in images]))


def test_fake_quant_model_end_to_end(
    subject: tuple[Quantized, list[np.ndarray]], reference_logits: np.ndarray
) -> None:
    """Bounds are what amplified ties leave (see above and the next test), not 1 LSB and 98 %."""
    network, images = subject
    check(fake_quant_logits(network, images, torch.float32), reference_logits, 2.0, 0.93)


def test_float_rounding_alone_moves_the_fake_quant_model_as_far(
    subject: tuple[Quantized, list[np.ndarray]],
) -> None:
    """The same model in float32 and float64: no implementation in real arithmetic is closer than this."""
    network, images = subject
    single, double = (fake_quant_logits(network, images[:4], d) for d in (torch.float32, torch.float64))
    check(single, double, 2.0, 0.93)
    assert np.abs(single - double).mean() > 0.5  # if this ever fails, the bounds above can be tightened


def test_onnxruntime(
    subject: tuple[Quantized, list[np.ndarray]], reference_logits: np.ndarray, tmp_path: Path
) -> None:
    network, images = subject
    write_onnx(lower(network.graph, "ort", "float32"), tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    logits = [session.run(None, {"image": x.transpose(0, 3, 1, 2)})[0] for x in images]
    check(steps(network, np.concatenate(logits)), reference_logits, MEAN_LSB, AGREEMENT)


@needs_x86
def test_xnnpack_delegate_is_exact(
    subject: tuple[Quantized, list[np.ndarray]], reference_logits: np.ndarray, tmp_path: Path
) -> None:
    network, images = subject
    write_tflite(lower(network.graph, "xnnpack", "float32"), tmp_path / "model.tflite")
    runner = LitertRunner(tmp_path / "model.tflite", "xnnpack", 2)
    logits = np.concatenate([runner.run(x) for x in images])
    np.testing.assert_array_equal(steps(network, logits), reference_logits)
