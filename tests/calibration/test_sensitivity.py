"""Sensitivity analysis against plain runs of the whole network, and the work it really executes."""

import copy
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest
import torch
from quant.nets import TinyNet, randomize
from scipy.stats import entropy
from torch import fx, nn

from calibration.config import PtqConfig
from calibration.logit_errors import KL, agreement_interval, compare, mean_interval
from calibration.ptq import Calibration, calibrate
from calibration.sensitivity import Analysis, allocate, analyse
from calibration.statistics import Images, to_nchw
from calibration.sweep import Sweep, Switch, read_switches
from qmnv3.errors import CalibrationError
from qmnv3.models.network import build_model
from qmnv3.preprocessing import Preprocessing
from qmnv3.quant.fake_quant import QuantState, WeightFakeQuantize, set_fake_quant

IMAGES = 40


def pictures(count: int = IMAGES, side: int = 32) -> Iterator[Images]:
    generator = np.random.default_rng(0)
    for start in range(0, count, 7):
        yield generator.uniform(-2, 2, (min(7, count - start), side, side, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def frozen() -> Calibration:
    torch.manual_seed(0)
    config = PtqConfig(level=2, images=IMAGES)
    net = randomize(TinyNet())
    net.head[4].weight.data *= 20.0  # a network that knows what it sees
    return calibrate(net, Preprocessing(32, 36), pictures, config)


def plain_run(prepared: fx.GraphModule, images: torch.Tensor, switch: Switch, others: bool) -> torch.Tensor:
    """The whole network from the start, all rounding set by hand: `switch` not as the `others`."""
    network = copy.deepcopy(prepared)
    set_fake_quant(network, others)
    state = dict(network.named_modules())
    for name, module in prepared.named_modules():
        if isinstance(module, QuantState) and any(module is own for own in switch.modules):
            state[name].enabled = not others
    with torch.inference_mode():
        return network(images)


@pytest.mark.parametrize("rounding", [False, True])
def test_every_fork_equals_a_plain_run_bit_for_bit(frozen: Calibration, rounding: bool) -> None:
    images = to_nchw(next(pictures()))
    switches = read_switches(frozen.model)
    logits, flipped = Sweep(frozen.model).run(images, rounding, switches)
    assert flipped.keys() == set(switches)
    for switch in switches:
        assert torch.equal(flipped[switch], plain_run(frozen.model, images, switch, rounding)), switch.site
    network = copy.deepcopy(frozen.model)
    set_fake_quant(network, rounding)
    assert torch.equal(logits, network(images))
    assert not any(m.enabled for m in frozen.model.modules() if isinstance(m, QuantState))


def test_the_switches_are_all_rounding_there_is(frozen: Calibration) -> None:
    switches = read_switches(frozen.model)
    rounding = [module for module in frozen.model.modules() if isinstance(module, QuantState)]
    assert sorted(id(m) for s in switches for m in s.modules) == sorted(map(id, rounding))
    gates = [s.site for s in switches if len(s.modules) == 2]
    assert gates == ["stem.2", "expand.2", "head.2"]


def row_of(analysis: Analysis, site: str, kind: str, mode: str) -> object:
    return next(r for r in analysis.rows if (r.site, r.kind, r.mode) == (site, kind, mode))


@pytest.mark.parametrize("site", ["stem.0", "expand.2", "se.pool"])
def test_a_row_is_what_a_plain_run_gives(frozen: Calibration, site: str) -> None:
    """With passes to spare every switch sees every image."""
    analysis = analyse(frozen.model, frozen.statistics, passes_per_site=100.0)
    assert {row.images for row in analysis.rows} == {IMAGES} == {analysis.images}
    images = to_nchw(np.concatenate(list(pictures())))
    switch = next(s for s in read_switches(frozen.model) if (s.site, s.kind) == (site, "activation"))
    with torch.inference_mode():
        float_p = frozen.model(images).double().softmax(1).numpy()
    set_fake_quant(frozen.model, True)
    with torch.inference_mode():
        rounded_p = frozen.model(images).double().softmax(1).numpy()
    set_fake_quant(frozen.model, False)
    rounded_kl = entropy(float_p, rounded_p, axis=1).mean()
    for mode, others in (("one", False), ("all_but_one", True)):
        p = plain_run(frozen.model, images, switch, others).double().softmax(1).numpy()
        kl = entropy(float_p, p, axis=1).mean()
        row = row_of(analysis, site, "activation", mode)
        # Batches of another size may sum in another order.
        assert row.kl == pytest.approx(kl, rel=1e-3)
        added = kl if mode == "one" else rounded_kl - kl
        assert row.kl_added.estimate == pytest.approx(added, rel=1e-3, abs=1e-3 * rounded_kl)
        assert row.agreement.estimate == np.mean(p.argmax(1) == float_p.argmax(1))
    assert analysis.kl.estimate == pytest.approx(rounded_kl, rel=1e-3)


def test_the_distance_from_the_float_network_is_told() -> None:
    """A stem whose approximate equalization changes the function: the reference is not float."""
    recipe = PtqConfig.model_validate({"level": 2, "equalization": {"max_slowdown": 0, "min_gain": 0}})
    calibrated = calibrate(randomize(TinyNet()), Preprocessing(32, 36), pictures, recipe)
    assert "approximate" in {row["form"] for row in calibrated.to_json()["equalization"]}
    analysis = analyse(calibrated.model, calibrated.statistics)
    images = to_nchw(np.concatenate(list(pictures())))
    with torch.inference_mode():
        exact, unrounded = (m(images).double().softmax(1) for m in (calibrated.parent, calibrated.model))
        set_fake_quant(calibrated.model, True)
        rounded = calibrated.model(images).double().softmax(1)
    for found, p in ((analysis.reference_kl, unrounded), (analysis.float_kl, rounded)):
        assert found.estimate == pytest.approx(entropy(exact, p, axis=1).mean(), rel=1e-3)
    assert analysis.reference_kl.estimate > 1e-9


def test_rows_come_worst_first(frozen: Calibration) -> None:
    analysis = analyse(frozen.model, frozen.statistics)
    for mode in ("one", "all_but_one"):
        added = [row.kl_added.low for row in analysis.rows if row.mode == mode]
        assert added == sorted(added, reverse=True)
    assert len(analysis.rows) == 2 * len(read_switches(frozen.model))


def test_fisher_information_predicts_what_is_measured(frozen: Calibration) -> None:
    analysis = analyse(frozen.model, frozen.statistics, modes=["one"], passes_per_site=100.0)
    rows = [row for row in analysis.rows if row.predicted_kl and row.kl > 1e-11]
    predicted, measured = np.log([(row.predicted_kl, row.kl) for row in rows]).T
    assert len(rows) >= 15
    assert np.corrcoef(predicted, measured)[0, 1] > 0.8


def executed_by_modules(
    networks: Sequence[fx.GraphModule], act: Callable[[], Analysis]
) -> tuple[int, Analysis]:
    """Work that modules really do meanwhile, seen by hooks: multiply-adds, and 20 per element written."""
    work = 0

    def hook(module: nn.Module, _: object, output: torch.Tensor) -> None:
        nonlocal work
        work += 20 * output.numel()
        if isinstance(module, nn.Conv2d | nn.Linear):
            work += module.weight.numel() * output.numel() // output.shape[1]

    leaves = [
        m
        for prepared in networks
        for m in prepared.modules()
        if not list(m.children()) and not isinstance(m, WeightFakeQuantize)
    ]
    handles = [leaf.register_forward_hook(hook) for leaf in leaves]
    analysis = act()
    for handle in handles:
        handle.remove()
    return work, analysis


@pytest.mark.parametrize("name", ["small", "large", "v2"])
def test_three_passes_for_ten_sites(name: str) -> None:
    """Additions and products are no modules, so hooks see a little less than everything."""
    count = 24

    def images() -> Iterator[Images]:
        return pictures(count, 32)

    config = PtqConfig(level=0, images=count)
    calibration = calibrate(build_model(name, seed=0), Preprocessing(32, 36), images, config)
    one_pass, _ = executed_by_modules(
        [calibration.model], lambda: calibration.model(to_nchw(next(images()))[:1])
    )
    work, analysis = executed_by_modules(
        [calibration.model, calibration.parent],
        lambda: analyse(calibration.model, calibration.statistics),
    )
    passes = work / one_pass / count
    assert analysis.passes == pytest.approx(passes, rel=0.03)
    assert 0.2 * analysis.sites < analysis.passes <= 0.3 * analysis.sites
    assert {row.images for row in analysis.rows} >= {2}
    assert max(row.images for row in analysis.rows) > 2


def test_work_counts_multiply_adds(frozen: Calibration) -> None:
    """A pointwise convolution of 8 to 24 channels on 16x16: 8 * 24 * 256, and 20 for each of 24 * 256."""
    sweep = Sweep(frozen.model)
    nodes = [str(node.target) for node in frozen.model.graph.nodes]
    assert sweep._work[nodes.index("expand.0")] == 8 * 24 * 256 + 20 * 24 * 256
    assert sweep._work[nodes.index("depthwise.0")] == 9 * 24 * 256 + 20 * 24 * 256


def test_allocation_is_neymans() -> None:
    """Equal prices: in proportion to the spread. A price of 4 halves the sample. Bounds hold."""
    spread, cost = np.array([1.0, 2.0, 4.0]), np.ones(3)
    assert allocate(spread, cost, 70.0, 1000) == [10, 20, 40]
    assert allocate(np.ones(2), np.array([1.0, 4.0]), 120.0, 1000) == [40, 20]
    assert allocate(spread, cost, 70.0, 15) == [15, 15, 15]
    assert allocate(spread, cost, 1.0, 15) == [1, 1, 1]
    assert allocate(np.zeros(2), np.ones(2), 20.0, 15) == [1, 1]
    assert allocate(np.zeros(2), np.ones(2), 30.0, 15) == [15, 15]


def test_one_image_is_too_few() -> None:
    calibration = calibrate(
        randomize(TinyNet()), Preprocessing(32, 36), lambda: pictures(1), PtqConfig(level=1)
    )
    with pytest.raises(CalibrationError, match="1 image is too few"):
        analyse(calibration.model, calibration.statistics)


def test_compare_against_scipy() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 5, 7, generator=generator)
    expected = entropy(a.softmax(1).double(), b.softmax(1).double(), axis=1)
    np.testing.assert_allclose(compare(a, b)[:, KL], expected, rtol=1e-5)


def test_intervals() -> None:
    """Agreement's by Wilson: 95 of 100 lie in [0.8882, 0.9785] (Newcombe 1998's tables, to four digits)."""
    values = np.zeros((100, 4))
    values[:95, 3] = 1.0
    found = agreement_interval(values)
    assert (found.estimate, round(found.low, 4), round(found.high, 4)) == (0.95, 0.8882, 0.9785)
    assert mean_interval(np.array([3.0])).low is None
    mean = mean_interval(np.array([1.0, 3.0]))
    assert (mean.estimate, mean.high) == (2.0, pytest.approx(2.0 + 1.96))
