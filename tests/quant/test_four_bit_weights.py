"""4-bit weights: 15 levels in int8, best scales, integers that survive conversion and every runtime."""

import numpy as np
import pytest
import torch
from ai_edge_litert.interpreter import OpResolverType
from parity.networks import litert_tensors
from quant.nets import TinyNet, randomize

from calibration.config import PtqConfig
from calibration.ptq import calibrate
from qmnv3.ir import Metadata, QuantGraph
from qmnv3.lowering import lower
from qmnv3.preprocessing import Preprocessing
from qmnv3.quant.affine import fake_quantize, least_squares_qparams, symmetric_qparams
from qmnv3.quant.convert import convert
from qmnv3.quant.fake_quant import QuantWeight, WeightFakeQuantize
from qmnv3.reference import run

SPEC = Preprocessing(32, 32)
RECIPE = PtqConfig.model_validate({"weights": {"bits": 4}})


def images(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-2, 2, (count, 32, 32, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def graph() -> QuantGraph:
    frozen = calibrate(randomize(TinyNet()), SPEC, lambda: [images(8)], RECIPE).model
    return convert(frozen, Metadata("tiny", SPEC))


def test_integers_fill_15_levels(graph: QuantGraph) -> None:
    weights = [t for name, t in graph.tensors.items() if name.endswith(".weight") and ".gate." not in name]
    assert weights
    for weight in weights:
        assert weight.dtype == "int8" and weight.data.min() >= -7 and weight.data.max() <= 7
    assert {-7, 7} <= set(np.unique(np.concatenate([w.data.ravel() for w in weights])))


def test_litert_computes_the_same(graph: QuantGraph) -> None:
    lowered = lower(graph, "tflite")
    x = graph.tensors["image"].qparams.quantize(images(1, 1)).astype(np.int8)
    ours = run(lowered, {"image": x}, "tflite")
    theirs = litert_tensors(lowered, x, OpResolverType.BUILTIN_REF)
    np.testing.assert_array_equal(ours["logits"], theirs["logits"])


def test_scales_are_as_good_as_brute_force() -> None:
    weight = torch.randn(6, 1000, generator=torch.Generator().manual_seed(0))
    found = least_squares_qparams(weight, axis=0, qmax=7)
    error = (fake_quantize(weight, found) - weight).square().sum(1).numpy()
    for row, value in zip(weight.numpy(), error, strict=True):
        scales = np.linspace(0.1, 1, 2000)[:, None] * np.abs(row).max() / 7
        brute = np.square(np.clip(np.rint(row / scales), -7, 7) * scales - row).sum(1).min()
        assert value <= 1.02 * brute  # 36 candidates against 2000
    largest = symmetric_qparams(weight.abs().amax(1).numpy(), axis=0, qmax=7)
    assert error.sum() < 0.8 * float((fake_quantize(weight, largest) - weight).square().sum())


@pytest.mark.parametrize("axis", [0, None])
def test_a_channel_of_zeros_takes_the_largest_scale(axis: int | None) -> None:
    weight = torch.tensor([[0.0, 0.0], [1.0, -2.0]])
    scale = least_squares_qparams(weight, axis=axis, qmax=7).scale
    assert (scale == scale.max()).all() and scale.max() > 0.05


def test_a_frozen_grid_does_not_follow_the_weight() -> None:
    quantizer, weight = WeightFakeQuantize(0), torch.tensor([[1.0, -0.5]])
    quantizer.freeze(weight)
    assert quantizer.qparams(weight / 2) == WeightFakeQuantize(0).qparams(weight)


def test_a_frozen_grids_integers_survive_conversion() -> None:
    model = calibrate(randomize(TinyNet()), SPEC, lambda: [images(8)], PtqConfig()).model
    generator = np.random.default_rng(0)
    expected = {}
    for path, module in model.named_modules():
        if isinstance(module, QuantWeight):
            module.weight_fake_quant.freeze(module.layer.weight)
            grid = module.weight_fake_quant.frozen
            integers = generator.integers(-60, 61, tuple(module.layer.weight.shape))
            module.layer.weight.copy_(torch.from_numpy(grid.dequantize(integers)))
            expected[path] = integers
    graph = convert(model, Metadata("tiny", SPEC))
    for path, integers in expected.items():
        data = graph.tensors[f"{path}.weight"].data
        depthwise = data.shape[0] == 1 and data.shape[3] == len(integers)
        order = (3, 0, 1, 2) if depthwise else (0, 3, 1, 2)
        np.testing.assert_array_equal(data.transpose(order).reshape(integers.shape), integers)
