"""The trainable model against the float model it was made from, and against the frozen one it turns into."""

import copy

import numpy as np
import pytest
import torch
from quant.nets import TinyNet, randomize
from torch import fx, nn

from calibration.config import PtqConfig
from calibration.freeze import freeze
from calibration.ptq import Calibration, calibrate
from qmnv3.models.network import build_model
from qmnv3.preprocessing import Preprocessing
from qmnv3.qat.config import FormsConfig
from qmnv3.qat.model import QatModel
from qmnv3.qat.task import freeze_trained
from qmnv3.quant.fake_quant import fake_quant
from qmnv3.quant.sites import read_sites
from qmnv3.training.task import Diverged

# Float32 sums in another order: BatchNorm's factors are folded in and taken out again.
# torchao's difference there is 0.5.
FLOAT_ROUNDING = 3e-4


def spec(side: int) -> Preprocessing:
    return Preprocessing(side, side, (0.5,) * 3, (0.5,) * 3)


def images(count: int, side: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, side // 8, side // 8, generator=generator) * 2 - 1
    return nn.functional.interpolate(coarse, size=side, mode="bilinear")


def calibrated(model: nn.Module, side: int, level: int = 0) -> Calibration:
    batch = images(16, side).permute(0, 2, 3, 1).numpy().astype(np.float32)
    return calibrate(model, spec(side), lambda: iter([batch]), PtqConfig(level=level, images=16))


def tiny() -> nn.Module:
    """With swish in the head, h-swish elsewhere."""
    torch.manual_seed(0)
    net = TinyNet()
    net.head[2] = nn.SiLU()
    return randomize(net)


def relative(ours: torch.Tensor, expected: torch.Tensor) -> float:
    return float((ours - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize(
    ("name", "nonlinearity"),
    [("large", "paper"), ("v2", "paper"), ("large_minimalistic", "paper"), ("small", "swish")],
)
def test_without_rounding_it_is_the_float_model_in_eval_and_in_training(name: str, nonlinearity: str) -> None:
    """Running statistics included, after two batches. torchao fails this: pytorch/ao#4107, #2980."""
    model = randomize(build_model(name, dropout=0.0, nonlinearity=nonlinearity))
    trainable = QatModel(calibrated(model, 64).model, FormsConfig())
    trainable.quantize(False)
    x = images(4, 64, seed=1)
    with torch.no_grad():
        assert relative(trainable.eval()(x), model.eval()(x)) < FLOAT_ROUNDING
        for seed in (2, 3):
            batch = images(4, 64, seed)
            assert relative(trainable.train()(batch), model.train()(batch)) < FLOAT_ROUNDING
        assert relative(trainable.eval()(x), model.eval()(x)) < FLOAT_ROUNDING


def test_equalized_and_with_corrected_biases_it_starts_as_the_frozen_model() -> None:
    """Up to values that lie exactly between two grid points."""
    calibration = calibrated(tiny(), 64, level=3)
    assert calibration.to_json()["equalization"]
    trainable = QatModel(calibration.model, FormsConfig()).eval()
    trainable.quantize(True)
    assert quantization_gap(trainable, calibration.model, calibration.parent) < 0.2


def test_ranges_are_observed_down_to_where_an_equalized_gate_is_zero() -> None:
    """-3 times what the gate divides a channel by; the tensor is the float model's times its factors."""
    calibration = calibrated(tiny(), 64, level=3)
    trainable = QatModel(calibration.model, FormsConfig(activations="moving_average", momentum=0.0))
    trainable.eval()  # BatchNorm's running statistics are the float model's
    for output in trainable.outputs():
        output.train()
    trainable.quantize(False)
    x = 30.0 * images(8, 64, seed=5)  # far below -3 in all channels
    with torch.no_grad():
        trainable(x)
        trainable.settle()
    gates = [
        site
        for site in read_sites(calibration.model)
        if site.hard_swish and site.hard_swish.factors is not None
    ]
    assert gates
    grids = {name: step.output.grid for name, step in trainable.named_steps()}
    for gate in gates:
        (name,) = gate.inputs
        with torch.no_grad():
            _, kept = trainable.features(x, [name])
        factors = next(s.fake_quant.factors for s in read_sites(calibration.model) if s.name == name)
        low = (kept[name].amin((0, 2, 3)) * factors).maximum(-3.0 * gate.hard_swish.factors).amin()
        assert float((low + 3.0).abs()) > 0.1
        assert float(grids[name].low) == pytest.approx(float(low), rel=1e-4)


def test_what_is_int16_stays_so() -> None:
    config = PtqConfig.model_validate({"level": 0, "images": 16, "int16": {"sites": ["add"]}})
    batch = images(16, 64).permute(0, 2, 3, 1).numpy().astype(np.float32)
    calibration = calibrate(tiny(), spec(64), lambda: iter([batch]), config)
    for activations in ("learned", "moving_average", "clip"):
        frozen = copy.deepcopy(calibration.model)
        freeze_trained(QatModel(calibration.model, FormsConfig(activations=activations)), frozen)
        before, after = (
            {site.name: site.fake_quant.qparams for site in read_sites(model)}
            for model in (calibration.model, frozen)
        )
        assert {name: grid.qmax for name, grid in after.items()} == {
            name: 32767 if name == "add" else 127 for name in before
        }
        assert float(after["add"].scale) == pytest.approx(float(before["add"].scale), rel=1e-4)


def quantization_gap(trainable: nn.Module, frozen: fx.GraphModule, parent: nn.Module) -> float:
    """Mean square of the difference of both, over that of the frozen from the float model."""
    x = images(8, 64, seed=4)
    with torch.no_grad(), fake_quant(frozen):
        difference = (trainable(x) - frozen(x)).square().mean()
        with_noise = frozen(x)
    with torch.no_grad():
        return float(difference / (with_noise - parent(x)).square().mean())


@pytest.mark.parametrize(
    "forms",
    [
        FormsConfig(weights="learned"),
        FormsConfig(activations="moving_average"),
        FormsConfig(activations="clip"),
    ],
    ids=["learned", "moving_average", "clip"],
)
@pytest.mark.parametrize("granularity", ["per_channel", "per_tensor"])
def test_what_was_trained_is_what_the_frozen_model_computes(forms: FormsConfig, granularity: str) -> None:
    model = tiny()
    batch = images(16, 64).permute(0, 2, 3, 1).numpy().astype(np.float32)
    config = PtqConfig.model_validate({"level": 0, "images": 16, "weights": {"granularity": granularity}})
    calibration = calibrate(model, spec(64), lambda: iter([batch]), config)
    trainable = QatModel(calibration.model, forms).train()
    trainable.quantize(True)
    before = [step.output.grid.qparams for _, step in trainable.named_steps()]
    optimizer = torch.optim.Adam(trainable.parameters(), 1e-2)
    losses = []
    for step in range(30):
        if step == 20:
            trainable.freeze_batch_norm()
        x = images(8, 64, seed=step % 4)
        loss = nn.functional.cross_entropy(trainable(x), torch.arange(8) % 4)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        trainable.settle()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.2
    changed = [step.output.grid.qparams for _, step in trainable.named_steps()]
    assert sum(a != b for a, b in zip(before, changed, strict=True)) > len(before) // 2

    frozen = copy.deepcopy(calibration.model)
    freeze(frozen, trainable.write(frozen))
    assert quantization_gap(trainable.eval(), frozen, calibration.parent) < 0.01


@pytest.mark.parametrize(
    ("form", "number", "value"),
    [
        ("learned", "log_high", -1000.0),
        ("learned", "log_high", 1000.0),
        ("clip", "log_clip", 1000.0),
        ("moving_average", "high", torch.inf),
        ("moving_average", "high", torch.nan),
    ],
)
def test_a_range_that_is_none_any_more_is_named(form: str, number: str, value: float) -> None:
    trainable = QatModel(calibrated(tiny(), 32).model, FormsConfig(activations=form))
    site, step = next(
        (name, step)
        for name, step in trainable.named_steps()
        if hasattr(step.output.grid, number) and not getattr(step.output.grid, "two_sided", False)
    )
    with torch.no_grad():
        getattr(step.output.grid, number).fill_(value)
    with pytest.raises(Diverged, match=rf"the range of {site} is no longer one \(.*(0|inf|nan)"):
        trainable.settle()


def test_frozen_batch_norm_no_longer_follows_the_batches() -> None:
    trainable = QatModel(calibrated(tiny(), 64).model, FormsConfig()).eval()
    trainable.quantize(True)
    x = images(4, 64)
    with torch.no_grad():
        expected = trainable(x)
        trainable.freeze_batch_norm()
        trainable.train()(x + 0.5)
        assert torch.equal(trainable.eval()(x), expected)
    assert all(layer.norm is None or int(layer.norm.num_batches_tracked) == 0 for layer in trainable.layers())


def test_bfloat16_holds_every_code_and_learns_alike() -> None:
    """Integers up to 256 are exact in bfloat16; gradients then agree to its 8 bits, added up."""
    calibration = calibrated(tiny(), 64)
    gradients = []
    for enabled in (False, True):
        trainable = QatModel(calibration.model, FormsConfig()).train()
        trainable.quantize(True)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            loss = nn.functional.cross_entropy(trainable(images(16, 64)).float(), torch.arange(16) % 10)
        loss.backward()
        gradients.append(torch.cat([p.grad.flatten() for p in trainable.parameters() if p.dim() > 1]))
    assert nn.functional.cosine_similarity(*gradients, dim=0) > 0.95
