"""prepare: one FakeQuantize per deployed tensor, unchanged float results, errors that name the node."""

import pytest
import torch
import torch.nn.functional as F
from quant.nets import TinyNet, randomize
from torch import nn

from qmnv3.errors import PrepareError
from qmnv3.preprocessing import Preprocessing
from qmnv3.quant.affine import SIGMOID_QPARAMS
from qmnv3.quant.fake_quant import activation_sites, fake_quant
from qmnv3.quant.prepare import prepare
from qmnv3.quant.sites import read_sites

SPEC = Preprocessing(32, 36)


def test_switched_off_it_computes_the_float_model() -> None:
    model = randomize(TinyNet())
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(prepare(model, SPEC)(x), model(x), atol=1e-5, rtol=1e-4)


def test_every_deployed_tensor_has_one_site() -> None:
    sites = read_sites(prepare(randomize(TinyNet()), SPEC))
    described = [(s.kind, s.activation) for s in sites]
    assert described == [
        ("input", "none"),
        ("layer", "none"),
        ("hard_swish", "none"),
        ("layer", "none"),
        ("hard_swish", "none"),
        ("layer", "relu"),
        ("mean", "none"),
        ("layer", "relu"),
        ("layer", "hard_sigmoid"),
        ("mul", "none"),
        ("layer", "none"),
        ("add", "none"),
        ("mean", "none"),
        ("layer", "none"),
        ("hard_swish", "none"),
        ("layer", "none"),
    ]
    assert len({s.name for s in sites}) == len(sites)


def test_hard_sigmoid_has_the_fixed_grid() -> None:
    sites = activation_sites(prepare(randomize(TinyNet()), SPEC))
    assert sites["se.expand"].qparams == SIGMOID_QPARAMS
    assert float(SIGMOID_QPARAMS.scale) == 1 / 256
    assert int(SIGMOID_QPARAMS.zero_point) == -128


def test_the_original_model_is_untouched() -> None:
    model = randomize(TinyNet())
    before = {k: v.clone() for k, v in model.state_dict().items()}
    prepare(model, SPEC)
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[k], after[k]) for k in before)


def test_weights_are_rounded_per_channel_when_enabled() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1, bias=False))
    model[0].weight.data = torch.tensor([1.0, 10.0, 0.1, 5.0]).reshape(4, 1, 1, 1) * torch.rand(4, 3, 1, 1)
    prepared = prepare(model, SPEC)
    with fake_quant(prepared):
        prepared(torch.zeros(1, 3, 32, 32))  # activations have no grid yet and pass
        got = prepared(torch.eye(3).reshape(3, 3, 1, 1).expand(3, 3, 32, 32))[:, :, 0, 0].T
    step = model[0].weight.flatten(1).abs().amax(1, keepdim=True) / 127
    # The identity image is itself rounded to the input grid: 1 is off by at most half a step of 0.02.
    weight = model[0].weight.flatten(1)
    assert ((got - weight).abs() <= step * 0.51 + weight.abs() * 0.011).all()


class _Wrap(nn.Module):
    def __init__(self, function) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(self.conv(x))


@pytest.mark.parametrize(
    "swish", [nn.SiLU(), nn.SiLU(inplace=True), F.silu, lambda x: F.silu(input=x), lambda x: x * x.sigmoid()]
)
def test_swish_is_a_sigmoid_on_its_fixed_grid_and_a_product(swish) -> None:
    model, x = _Wrap(swish), torch.randn(2, 3, 32, 32)
    prepared = prepare(model, SPEC)
    torch.testing.assert_close(prepared(x), F.silu(model.conv(x)))
    sites = {site.kind: site for site in read_sites(prepared)}
    assert list(sites) == ["input", "layer", "logistic", "mul"]
    assert sites["logistic"].inputs == ("conv",)
    assert set(sites["mul"].inputs) == {"conv", sites["logistic"].name}
    assert sites["logistic"].fake_quant.qparams == SIGMOID_QPARAMS


def test_swish_sites_are_named_after_the_module() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.SiLU())
    assert [site.name for site in read_sites(prepare(model, SPEC))][2:] == ["_1_sigmoid", "_1_swish"]


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (_Wrap(lambda x: F.gelu(x)), "gelu"),
        (nn.Sequential(nn.Conv2d(3, 4, 1), nn.GELU()), "GELU 1"),
        (nn.Sequential(nn.Conv2d(3, 4, 1), nn.MaxPool2d(2)), "MaxPool2d 1"),
        (nn.Sequential(nn.Conv2d(3, 6, 1), nn.Conv2d(6, 6, 1, groups=2)), "groups=2 with 6 to 6"),
        (nn.Sequential(nn.Conv2d(3, 4, 1), nn.Hardswish(), nn.BatchNorm2d(4)), "BatchNorm2d 2"),
        (nn.Sequential(nn.Conv2d(3, 4, 1), nn.AdaptiveAvgPool2d(2)), "global average pooling"),
        (nn.Sequential(nn.Conv2d(3, 4, 1), nn.Hardswish(), nn.ReLU()), "relu must directly follow"),
        (_Wrap(lambda x: x + 1.0), "add needs two tensors"),
        (_Wrap(lambda x: x if x.sum() > 0 else -x), "torch.fx cannot trace"),
        (_Wrap(lambda x: (x, x)), "returns tuple"),
        (nn.Conv2d(4, 4, 1), "cannot run a 3x32x32 image"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_quantized_is_named(model: nn.Module, message: str) -> None:
    with pytest.raises(PrepareError, match=message) as error:
        prepare(model, SPEC)
    assert "\n" not in str(error.value)


def test_nan_weight_is_named() -> None:
    model = randomize(TinyNet())
    model.expand[0].weight.data[3, 0] = float("nan")
    with pytest.raises(PrepareError, match=r"expand\.0\.weight"):
        prepare(model, SPEC)
