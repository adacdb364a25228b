"""Conversion to QuantGraph: float parents equal torch in ONNX Runtime, integers by hand and in LiteRT."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from quant.nets import TinyNet, randomize
from torch import nn

from calibration.config import PtqConfig, WeightConfig
from calibration.ptq import calibrate
from qmnv3.errors import PrepareError
from qmnv3.export.onnx_qdq import write_onnx
from qmnv3.ir import Metadata, QuantGraph
from qmnv3.lowering import lower
from qmnv3.models.padding import Conv2dSame
from qmnv3.preprocessing import Preprocessing
from qmnv3.quant.convert import convert
from qmnv3.quant.prepare import prepare

SPEC = Preprocessing(12, 12)


def images(count: int = 16) -> np.ndarray:
    return np.random.default_rng(0).uniform(-2, 2, (count, 12, 12, 3)).astype(np.float32)


def graphs(model: nn.Module, config: PtqConfig = PtqConfig()) -> tuple[QuantGraph, QuantGraph]:  # noqa: B008
    result = calibrate(model.eval(), SPEC, lambda: [images()], config)
    return convert(result.model, Metadata()), convert(result.parent, Metadata(), "float32")


def run_onnx(graph: QuantGraph, path: Path) -> np.ndarray:
    write_onnx(lower(graph, "ort", "float32"), path)
    session = onnxruntime.InferenceSession(str(path))
    return session.run(None, {"image": images().transpose(0, 3, 1, 2)})[0]


def reference(model: nn.Module) -> np.ndarray:
    return model.eval()(torch.from_numpy(images()).permute(0, 3, 1, 2)).detach().numpy()


def sequence(*layers: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


LAYERS = {
    "symmetric stride 2": lambda: sequence(nn.Conv2d(3, 4, 3, 2, 1)),
    "tensorflow stride 2": lambda: sequence(Conv2dSame(3, 4, 3, 2)),
    "same": lambda: sequence(nn.Conv2d(3, 4, 5, padding="same")),
    "valid": lambda: sequence(nn.Conv2d(3, 4, 3, padding="valid")),
    "dilated": lambda: sequence(nn.Conv2d(3, 4, 3, padding=2, dilation=2)),
    "depthwise": lambda: sequence(nn.Conv2d(3, 3, (3, 5), 1, (1, 2), groups=3)),
    "linear on a map": lambda: nn.Sequential(
        nn.Conv2d(3, 4, 3, 4), nn.ReLU(), nn.Flatten(), nn.Linear(36, 5)
    ),
    "standalone hard-sigmoid": lambda: sequence(nn.Conv2d(3, 4, 3), nn.Hardswish(), nn.Hardsigmoid()),
    "swish": lambda: sequence(nn.Conv2d(3, 4, 3), nn.SiLU(), nn.Conv2d(4, 5, 1)),
    "sigmoid of h-swish": lambda: sequence(nn.Conv2d(3, 4, 3), nn.Hardswish(), nn.Sigmoid()),
    "tiny net": lambda: randomize(TinyNet()),
}


@pytest.mark.parametrize("name", LAYERS)
def test_float_parent_equals_torch_and_int8_is_near(name: str, tmp_path: Path) -> None:
    model = LAYERS[name]()
    int8, float32 = graphs(model)
    expected = reference(model)
    np.testing.assert_allclose(run_onnx(float32, tmp_path / "f.onnx"), expected, atol=1e-5, rtol=1e-4)
    error = np.abs(run_onnx(int8, tmp_path / "q.onnx") - expected).max()
    assert 0 < error <= 0.05 * np.ptp(expected)


def test_hard_sigmoid_after_a_layer_goes_into_its_scales_and_bias() -> None:
    model = sequence(nn.Conv2d(3, 2, 1), nn.Hardsigmoid())
    weight = np.array([[127, -64, 1], [2, 127, 0]], np.float32) / 127
    model[0].weight.data = torch.from_numpy(weight).reshape(2, 3, 1, 1)
    model[0].bias.data = torch.tensor([0.6, -3.0])
    int8, _ = graphs(model, PtqConfig(level=1))
    tensors = int8.tensors
    np.testing.assert_array_equal(tensors["0.weight"].data.reshape(2, 3), np.rint(weight * 127))
    np.testing.assert_allclose(tensors["0.weight"].qparams.scale, 1 / 127 / 6, rtol=1e-6)
    real_bias = tensors["0.bias"].qparams.dequantize(tensors["0.bias"].data)
    np.testing.assert_allclose(real_bias, [0.6 / 6 + 0.5, 0.0], atol=1e-5)
    assert (float(tensors["0"].qparams.scale), int(tensors["0"].qparams.zero_point)) == (1 / 256, -128)


def test_per_tensor_weights_have_one_scale() -> None:
    config = PtqConfig(weights=WeightConfig(granularity="per_tensor"))
    int8, _ = graphs(sequence(nn.Conv2d(3, 4, 3)), config)
    assert int8.tensors["0.weight"].qparams.axis is None
    assert int8.tensors["0.bias"].qparams.scale.shape == ()


def test_a_large_bias_on_a_nearly_dead_channel_fits_int32(tmp_path: Path) -> None:
    model = sequence(nn.Conv2d(3, 2, 1))
    model[0].weight.data[0] = 1e-12
    model[0].bias.data = torch.tensor([5.0, 0.1])
    int8, _ = graphs(model, PtqConfig(level=1))
    bias = int8.tensors["0.bias"]
    assert np.abs(bias.data.astype(np.int64)).max() <= 2**30
    np.testing.assert_allclose(bias.qparams.dequantize(bias.data), [5.0, 0.1], rtol=1e-3)
    np.testing.assert_allclose(run_onnx(int8, tmp_path / "q.onnx"), reference(model), atol=0.05)


def test_converting_before_calibrating_names_the_site() -> None:
    with pytest.raises(PrepareError, match="0: has no scale yet; calibrate"):
        convert(prepare(sequence(nn.Conv2d(3, 4, 3)), SPEC), Metadata())
