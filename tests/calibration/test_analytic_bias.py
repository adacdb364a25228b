"""Analytic bias correction against Monte Carlo through torch's own layers, and on real weights."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from quant.nets import TinyNet, randomize
from torch import nn

from calibration.analytic_bias import clipped_mean, correct, hard_swish_mean, swish_mean
from calibration.config import PtqConfig
from calibration.ptq import calibrate
from calibration.scale_groups import scale, scale_groups
from calibration.statistics import to_nchw
from qmnv3.data.folder import find_images
from qmnv3.data.loader import load_batches
from qmnv3.models.weights import load_model
from qmnv3.preprocessing import Preprocessing
from qmnv3.quant.fake_quant import QuantWeight, fake_quant
from qmnv3.quant.prepare import prepare
from qmnv3.quant.sites import read_sites

SAMPLES = 400_000
# Five standard errors of the Monte Carlo mean of values with a std of up to 4.
MONTE_CARLO = 5 * 4 / SAMPLES**0.5
MEANS = np.array([-5.0, -3.0, -1.0, 0.0, 0.5, 2.0, 4.0, 9.0])
STDS = np.array([0.5, 2.0, 1.0, 0.0, 3.0, 4.0, 1.0, 4.0])


@pytest.mark.parametrize("activation", [nn.ReLU(), nn.ReLU6(), nn.Hardswish(), nn.SiLU()])
def test_expected_activation_is_monte_carlo_mean(activation: nn.Module) -> None:
    samples = np.random.default_rng(0).normal(size=(SAMPLES, 1)) * STDS + MEANS
    expected = activation(torch.from_numpy(samples)).mean(0).numpy()
    std = STDS.clip(min=1e-12)
    if isinstance(activation, nn.Hardswish):
        found = hard_swish_mean(MEANS, std)
    elif isinstance(activation, nn.SiLU):
        found = swish_mean(MEANS, std)
    else:
        found = clipped_mean(MEANS, std, 0.0, 6.0 if isinstance(activation, nn.ReLU6) else np.inf)
    np.testing.assert_allclose(found, expected, atol=MONTE_CARLO)


class Promising(nn.Module):
    """Two layers whose first has a BatchNorm that tells the truth about a normal input."""

    def __init__(self, activation: nn.Module, second: nn.Conv2d) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 8, 1, bias=False), nn.BatchNorm2d(8)
        self.activation, self.second = activation, second

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.activation(self.norm(self.first(x)))
        return torch.flatten(nn.functional.adaptive_avg_pool2d(self.second(x), 1), 1)


SECOND = {
    "pointwise": nn.Conv2d(8, 6, 1, bias=False),
    "depthwise": nn.Conv2d(8, 8, 3, 2, 1, groups=8),
    "dense": nn.Conv2d(8, 6, 5, 1, 2),
}


@pytest.mark.parametrize("second", SECOND)
@pytest.mark.parametrize("activation", [nn.ReLU(), nn.ReLU6(), nn.Hardswish(), nn.SiLU(), nn.Identity()])
def test_mean_output_of_rounded_weights_is_float_again(activation: nn.Module, second: str) -> None:
    """Independent normal pixels: the promise holds exactly, so the correction must too, borders included."""
    torch.manual_seed(0)
    model = Promising(activation, copy.deepcopy(SECOND[second]))
    nn.init.normal_(model.norm.weight, 1.0, 0.5)
    nn.init.normal_(model.norm.bias)
    model.second.weight.data[:, :1] *= 30.0  # one large weight makes the grid coarse for all others
    images = torch.randn(4000, 3, 6, 6)
    model.norm.momentum = None
    model.train()(images)
    prepared = prepare(model.eval(), Preprocessing(6, 6), "per_tensor")
    for site in read_sites(prepared):  # round weights alone: no grid on any activation
        site.fake_quant.qparams = None

    def mean_error() -> torch.Tensor:
        with torch.no_grad(), fake_quant(prepared):
            return (prepared(images) - model(images)).mean(0).abs().max()

    first = prepared.get_submodule("first")
    assert isinstance(first, QuantWeight)
    first.forward = first.layer.forward  # the first layer's own rounding is not known from any promise
    before = mean_error()
    report = correct(prepared)
    assert report.corrected == ("second",)
    assert report.empirical == ("first",)
    assert mean_error() < 0.05 * before


def test_equalization_scales_the_expected_input() -> None:
    prepared = prepare(randomize(TinyNet()), Preprocessing(32, 32))
    equalized = copy.deepcopy(prepared)
    for group in scale_groups(equalized):
        scale(group, 2.0 ** torch.randint(-3, 4, (group.channels,)))  # exact: the per-channel grids follow
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(equalized(x), prepared(x), atol=1e-4, rtol=1e-4)
    correct(prepared)
    correct(equalized)
    plain, scaled = (next(s for s in read_sites(m) if s.depthwise) for m in (prepared, equalized))
    # Scaled by powers of two, a depthwise layer's rounding stays the same.
    expected = plain.layer.bias * scaled.fake_quant.factors
    torch.testing.assert_close(scaled.layer.bias, expected, atol=1e-6, rtol=1e-5)


def test_what_no_batch_norm_promises_is_named() -> None:
    report = correct(prepare(randomize(TinyNet()), Preprocessing(32, 32)))
    # Read the image, the SE gate's product, and tensors after it; head.0 reads a residual sum's mean.
    assert report.empirical == ("stem.0", "se.expand", "project.0")
    assert report.corrected == ("expand.0", "depthwise.0", "se.reduce", "head.0", "head.4")
    assert not correct(prepare(TinyNet().eval(), Preprocessing(32, 32))).corrected


def test_recipe_chooses_the_method() -> None:
    images = np.random.default_rng(0).standard_normal((8, 32, 32, 3), np.float32)
    config = PtqConfig.model_validate({"bias_correction": {"method": "analytic"}})
    result = calibrate(randomize(TinyNet()), Preprocessing(32, 32), lambda: [images], config)
    report = result.to_json()["analytic_bias"]
    assert len(report["corrected"]) == 5
    assert len(report["empirical"]) == 3


def test_what_no_batch_norm_promises_is_corrected_on_the_images() -> None:
    """Those three get a bias of their own, all others keep what the promise gives."""
    images = np.random.default_rng(0).standard_normal((64, 32, 32, 3), np.float32)
    net = randomize(TinyNet())
    # The same equalization with and without bias correction.
    given = {"bias_correction": {"method": "analytic"}, "equalization": {"always": True}, "batch_size": 64}
    config = PtqConfig.model_validate(given)
    result = calibrate(net, Preprocessing(32, 32), lambda: [images], config)
    level2 = calibrate(net, Preprocessing(32, 32), lambda: [images], config.model_copy(update={"level": 2}))
    expected = copy.deepcopy(level2.model)
    correct(expected)
    for site, promised in zip(read_sites(result.model), read_sites(expected), strict=True):
        if site.layer is not None:
            same = torch.equal(site.layer.bias, promised.layer.bias)
            assert same == (site.name not in ("stem.0", "se.expand", "project.0"))


def test_real_weights_per_tensor_lose_less(data_pack: Path) -> None:
    """V2's weights on one grid per tensor: logits come nearer float's, in the mean most of all."""
    loaded = load_model("v2", data_pack / "weights/v2_imagenet.safetensors")
    folder = find_images(data_pack / "imagenet/calib", classes=False)
    batch = next(iter(load_batches(folder, loaded.preprocessing, 24, indices=range(0, 960, 40))))
    images = to_nchw(batch.images)
    prepared = prepare(loaded.model, loaded.preprocessing, "per_tensor")
    for site in read_sites(prepared):
        site.fake_quant.qparams = None
    with torch.no_grad():
        expected = prepared(images)
        errors = []
        for corrected in (False, True):
            if corrected:
                correct(prepared)
            with fake_quant(prepared):
                errors.append(prepared(images) - expected)
    means = [float(error.mean(0).square().mean()) for error in errors]
    squares = [float(error.square().mean()) for error in errors]
    assert means[1] < 0.7 * means[0]
    assert squares[1] < 0.5 * squares[0]
