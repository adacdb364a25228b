"""int16 tensors chosen by calibration: which, what they gain, and that LiteRT computes the same."""

import copy

import numpy as np
import pytest
import torch
from ai_edge_litert.interpreter import OpResolverType
from parity.networks import litert_tensors
from pydantic import ValidationError
from quant.nets import TinyNet, randomize
from torch import nn

from calibration import mixed_precision
from calibration.config import Int16Config, PtqConfig
from calibration.logit_errors import Interval
from calibration.mixed_precision import choose, measure_kl
from calibration.ptq import Calibration, Observed, observe, quantize
from calibration.statistics import to_nchw
from qmnv3.errors import CalibrationError
from qmnv3.ir import Metadata
from qmnv3.lowering import int16_tensors, lower
from qmnv3.preprocessing import Preprocessing
from qmnv3.quant.convert import convert
from qmnv3.quant.fake_quant import fake_quant
from qmnv3.quant.prepare import prepare
from qmnv3.quant.sites import read_sites
from qmnv3.reference import run

SPEC = Preprocessing(32, 36)
IMAGES = np.random.default_rng(0).uniform(-2, 2, (48, 32, 32, 3)).astype(np.float32)


def recipe(level: int = 3, **int16: object) -> PtqConfig:
    return PtqConfig.model_validate({"level": level, "int16": int16})


@pytest.fixture(scope="module")
def observed() -> Observed:
    torch.manual_seed(0)
    net = randomize(TinyNet())
    net.head[4].weight.data *= 20.0  # a network that knows what it sees
    return observe(net, SPEC, lambda: [IMAGES], (recipe(),))


def int16_names(calibration: Calibration) -> set[str]:
    return {s.name for s in read_sites(calibration.model) if s.fake_quant.qparams.qmax == 32767}


def test_none_by_default(observed: Observed) -> None:
    result = quantize(observed, recipe())
    assert int16_names(result) == set() and result.to_json()["int16"] is None


def test_named_sites_become_int16_and_the_gain_is_told(observed: Observed) -> None:
    plain, mixed = (quantize(observed, recipe(2, sites=names)) for names in ((), ("stem.0", "stem.2")))
    assert int16_names(mixed) == {"stem.0", "stem.2"}
    report = mixed.to_json()["int16"]
    assert [site["site"] for site in report["sites"]] == ["stem.0", "stem.2"]
    assert report["kl_before"]["estimate"] == measure_kl(plain.model, plain.statistics).estimate
    assert report["kl_after"]["estimate"] == measure_kl(mixed.model, mixed.statistics).estimate
    assert report["kl_after"]["estimate"] < report["kl_before"]["estimate"]
    # The h-swish reads the convolution's tensor: its operation is paid for once.
    alone = quantize(observed, recipe(2, sites=("stem.2",))).to_json()["int16"]["sites"][0]
    assert report["sites"][1]["cost_us"] < alone["cost_us"]


def test_count_takes_sites_that_gain(observed: Observed) -> None:
    plain, mixed = (quantize(observed, recipe(2, count=n, max_slowdown=1e3)) for n in (0, 3))
    assert 1 <= len(int16_names(mixed)) <= 3
    assert measure_kl(mixed.model, mixed.statistics).estimate < (
        measure_kl(plain.model, plain.statistics).estimate
    )


def test_a_wide_tensor_holds_the_whole_observed_range(observed: Observed) -> None:
    mixed = quantize(observed, recipe(1, sites=("project.0", "stem.0", "se.expand")))
    by_name = {s.name: s for s in read_sites(mixed.model)}
    scale = {name: float(site.fake_quant.qparams.scale) for name, site in by_name.items()}
    seen = mixed.statistics.channels(by_name["project.0"])
    assert scale["project.0"] == pytest.approx(float(torch.maximum(-seen.low, seen.high).max()) / 32767)
    # Below -3 h-swish is 0, so nothing there needs a place on its input's grid.
    top = float(mixed.statistics.channels(by_name["stem.0"]).high.max())
    assert scale["stem.0"] == pytest.approx(max(top, 3.0) / 32767)
    assert scale["se.expand"] == 1 / 32768


def test_choice_by_gain_for_time() -> None:
    """0 gains most, but its 64 channels are slow; 3 gains nothing for sure; 4 was not measured."""
    model = nn.Sequential(
        nn.Conv2d(3, 64, 3), nn.Conv2d(64, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.AdaptiveAvgPool2d(1)
    )
    sites = read_sites(prepare(model.append(nn.Flatten()).eval(), SPEC))
    assert [site.name for site in sites] == ["image", "0", "1", "3", "4"]
    added = {"0": Interval(0.5, 0.4, 0.6), "1": Interval(0.3, 0.2, 0.4), "3": Interval(0.1, -0.1, 0.3)}
    assert choose(sites, added, 1.0, Int16Config(count=3, max_slowdown=1e9)) == ("1", "0")
    assert choose(sites, added, 1.0, Int16Config(count=1, max_slowdown=1e9)) == ("1",)
    assert choose(sites, added, 1.0, Int16Config(count=3, max_slowdown=0.0)) == ()
    assert choose(sites, added, 1.0, Int16Config(count=3, max_slowdown=1e9, min_gain=0.4)) == ("0",)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("stem.1", r"int16: 'stem.1' is no tensor of this network; did you mean 'stem"),
        ("image", "int16: image is the network's input, which is int8; leave it int8"),
        ("head.4", "int16: head.4 is the network's output"),
    ],
)
def test_refused_before_the_images_are_read(name: str, message: str) -> None:
    def unread() -> list[np.ndarray]:
        raise AssertionError("the images were read")

    with pytest.raises(CalibrationError, match=message):
        observe(randomize(TinyNet()), SPEC, unread, (recipe(sites=[name]),))


def test_an_average_that_overflows_is_refused() -> None:
    model = nn.Sequential(nn.Conv2d(3, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Conv2d(2, 2, 1), nn.Flatten())
    prepared = prepare(model.eval(), Preprocessing(256, 256))
    for name in ("0", "1"):
        with pytest.raises(CalibrationError, match=f"{name} touches an average over 256x256 pixels"):
            mixed_precision.check(prepared, recipe(sites=[name]))


def test_what_a_sigmoid_reads_or_makes_is_refused() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 2, 1), nn.SiLU(), nn.Conv2d(2, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    prepared = prepare(model.eval(), SPEC)
    for name in ("0", "_1_sigmoid"):
        with pytest.raises(
            CalibrationError, match=f"int16: {name} touches a sigmoid, which runs in 8 bits only"
        ):
            mixed_precision.check(prepared, recipe(sites=[name]))
    mixed_precision.check(prepared, recipe(sites=["_1_swish"]))


def test_sites_and_count_exclude_each_other() -> None:
    with pytest.raises(ValidationError, match="give sites or count, not both"):
        Int16Config(sites=("a",), count=1)


@pytest.mark.parametrize("names", [("stem.0", "stem.2"), ("mul",), ("expand.0",), ("head.2",)])
@pytest.mark.parametrize("level", [1, 3])
def test_litert_computes_what_was_chosen(observed: Observed, names: tuple[str, ...], level: int) -> None:
    """End to end: converted, run by LiteRT, and as near to the simulation as rounding ties allow."""
    result = quantize(observed, recipe(level, sites=names))
    canonical = convert(result.model, Metadata())
    assert set(names) <= set(int16_tensors(canonical))  # an equalized h-swish has its gate beside it
    graph = lower(canonical, "xnnpack")
    x = graph.tensors["image"].qparams.quantize(IMAGES[:1]).astype(np.int8)
    ours = run(graph, {"image": x}, "tflite")["logits"]
    np.testing.assert_array_equal(ours, litert_tensors(graph, x, OpResolverType.BUILTIN_REF)["logits"])
    with fake_quant(result.model), torch.inference_mode():
        simulated = result.model(to_nchw(IMAGES[:1])).numpy()
    step = float(canonical.tensors["logits"].qparams.scale)
    real = graph.tensors["logits"].qparams.dequantize(ours)
    # Half-steps inside the network may fall the other way.
    assert np.abs(real - simulated).max() <= 3 * step


def test_the_gate_of_hard_swish_follows(observed: Observed) -> None:
    """A 16-bit h-swish is nearer to float than 255 gate levels allow, on either side of it."""
    x = torch.linspace(-2.9, 2.9, 1001)
    exact = nn.functional.hardswish(x)
    errors = {}
    for names in ((), ("stem.0",), ("stem.2",)):
        model = copy.deepcopy(quantize(observed, recipe(1, sites=names)).model)
        gate = next(s.hard_swish for s in read_sites(model) if s.name == "stem.2")
        gate.enabled = True
        errors[names] = float((gate(x[None]) - exact).abs().max())
    assert errors["stem.0",] == errors["stem.2",] < errors[()] / 50
