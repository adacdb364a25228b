"""Statistics: exact ends, a uniform sample, and Fisher information against the explicit Jacobian."""

import copy
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from quant.nets import TinyNet, randomize
from scipy import stats
from torch import fx, nn

from calibration.observers import ChannelObserver
from calibration.scale_groups import scale, scale_groups
from calibration.statistics import Images, ImageSource, collect, to_nchw
from qmnv3.errors import CalibrationError
from qmnv3.preprocessing import Preprocessing
from qmnv3.quant.fake_quant import FakeQuantize
from qmnv3.quant.prepare import prepare
from qmnv3.quant.sites import read_sites

CHANNELS, BOTH = frozenset({"channels"}), frozenset({"channels", "fisher"})


def source(count: int, batch: int, side: int = 32) -> ImageSource:
    values = np.random.default_rng(0).uniform(-2, 2, (count, side, side, 3)).astype(np.float32)

    def images() -> Iterator[Images]:
        for start in range(0, count, batch):
            yield values[start : start + batch]

    return images


@pytest.fixture(scope="module")
def network() -> fx.GraphModule:
    return prepare(randomize(TinyNet()), Preprocessing(32, 36)).requires_grad_(False)


def test_channel_ends_are_exact(network: fx.GraphModule) -> None:
    images = source(10, 4)
    statistics = collect(network, images, CHANNELS)
    everything = to_nchw(np.concatenate(list(images())))
    seen: dict[str, torch.Tensor] = {}
    sites = read_sites(network)
    hooks = [
        site.fake_quant.register_forward_hook(lambda module, _, output: seen.update({module.site: output}))
        for site in sites
    ]
    with torch.inference_mode():
        network(everything)
    for hook in hooks:
        hook.remove()
    for site in sites:
        values = seen[site.name]
        over = (0, 2, 3) if values.dim() == 4 else (0,)
        channels = statistics.channels(site)
        torch.testing.assert_close(channels.low, values.amin(over))
        torch.testing.assert_close(channels.high, values.amax(over))
    assert statistics.count == 10


def observed(batches: int, per_image: int, seed: int = 0) -> torch.Tensor:
    """Rows sampled from 8 images a batch; the two channels are the position's number and its negative."""
    observer = ChannelObserver(seed, per_image)
    for index in range(batches):
        numbers = torch.arange(index * 8 * 256, (index + 1) * 8 * 256, dtype=torch.float32)
        maps = numbers.reshape(8, 1, 16, 16)
        observer.update(torch.cat([maps, -maps], 1))
    return observer.channels().rows


def test_rows_are_positions_drawn_uniformly() -> None:
    rows = observed(batches=40, per_image=64)
    np.testing.assert_array_equal(rows[:, 1], -rows[:, 0])
    numbers = rows[:, 0].double().numpy()
    assert stats.kstest(numbers / (40 * 8 * 256), "uniform").pvalue > 1e-3
    # Within an image as well, and no image more often than another.
    assert stats.kstest(numbers % 256 / 256, "uniform").pvalue > 1e-3
    assert stats.chisquare(np.bincount((numbers // (8 * 256)).astype(int), minlength=40)).pvalue > 1e-3


def test_rows_follow_the_seed_alone() -> None:
    torch.manual_seed(1)
    first = observed(3, 16)
    torch.manual_seed(2)
    assert torch.equal(first, observed(3, 16))
    assert not torch.equal(first, observed(3, 16, seed=1))


def test_the_number_of_rows_is_bounded() -> None:
    assert len(observed(20, 64)) == len(observed(40, 64)) == 2048
    assert len(observed(1, 16)) == 8 * 16


def test_the_first_rows_are_of_all_images_however_these_came() -> None:
    """Searches look at the first rows only. One batch of 32 images, and 8 batches of 4."""
    maps = torch.arange(32 * 256, dtype=torch.float32).reshape(32, 1, 16, 16).expand(32, 512, 16, 16)
    for batches in (maps.split(32), maps.split(4)):
        observer = ChannelObserver(0, 64)
        for batch in batches:
            observer.update(batch)
        rows = observer.channels().rows
        assert len(rows) == 512
        images = np.bincount((rows[:128, 0] // 256).int().numpy(), minlength=32)
        assert stats.chisquare(images).pvalue > 1e-3


def test_what_else_is_collected_does_not_matter(network: fx.GraphModule) -> None:
    alone, together = (collect(network, source(8, 4), needs) for needs in (CHANNELS, BOTH))
    assert not alone.has_fisher and together.has_fisher
    for site in read_sites(network):
        np.testing.assert_array_equal(alone.channels(site).rows, together.channels(site).rows)


def test_statistics_follow_equalization(network: fx.GraphModule) -> None:
    """What is derived for scaled tensors equals what a second pass sees of them."""
    scaled = copy.deepcopy(network)
    statistics = collect(scaled, source(8, 4), BOTH)
    for group in scale_groups(scaled):
        scale(group, torch.exp2(torch.linspace(-2, 3, group.channels)))
    factors: dict[str, torch.Tensor | None] = {}
    for module in scaled.modules():  # so that the second pass takes the tensors as they come
        if isinstance(module, FakeQuantize):
            factors[module.site], module.factors = module.factors, None
    again = collect(scaled, source(8, 4), BOTH)
    for site in read_sites(scaled):
        expected, expected_fisher = again.channels(site), again.fisher(site)
        site.fake_quant.factors = factors[site.name]
        got = statistics.channels(site)
        for ours, theirs in zip(
            (got.low, got.high, got.rows, statistics.fisher(site)),
            (expected.low, expected.high, expected.rows, expected_fisher),
            strict=True,
        ):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_nan_is_named_after_its_tensor() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1), nn.AdaptiveAvgPool2d(1))
    model[2].weight.data.fill_(3e38)
    graph = prepare(model.eval(), Preprocessing(8, 8)).requires_grad_(False)
    for needs in (CHANNELS, BOTH):
        with pytest.raises(CalibrationError, match=r"^2: NaN or infinity"):
            collect(graph, lambda: [np.full((1, 8, 8, 3), 4.0, np.float32)], needs)


@pytest.fixture(scope="module")
def linear() -> fx.GraphModule:
    torch.manual_seed(3)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    model[3].weight.data.mul_(3.0)
    return prepare(model.eval(), Preprocessing(2, 2)).requires_grad_(False)


def test_fisher_equals_the_expectation_over_all_classes(linear: fx.GraphModule) -> None:
    """The Jacobian of log-softmax worked out, y summed over exactly; the sampled y is right within 6 %."""
    images = np.random.default_rng(1).normal(size=(40, 2, 2, 3)).astype(np.float32)
    statistics = collect(linear, lambda: (images for _ in range(150)), frozenset({"fisher"}))
    with torch.inference_mode():
        probabilities = linear(to_nchw(images)).double().softmax(1)
    weight = linear.get_submodule("3").layer.weight.detach().double()
    on_logits = torch.eye(3).double()[None] - probabilities[:, None, :]  # [image, y, class]
    on_mean = on_logits @ weight
    expected = {
        "3": (probabilities[:, :, None] * on_logits.square()).sum(1).mean(0),
        "1": (probabilities[:, :, None] * on_mean.square()).sum(1).mean(0),
    }
    expected["0"] = expected["1"] / 4  # four positions, each a quarter of the mean: 4 * (1 / 4)**2
    for site in read_sites(linear)[1:]:
        torch.testing.assert_close(
            statistics.fisher(site).double(), expected[site.name], rtol=0.06, atol=1e-4
        )


def test_fisher_predicts_the_divergence_that_noise_causes(network: fx.GraphModule) -> None:
    images = source(64, 32)
    statistics = collect(network, lambda: (b for _ in range(8) for b in images()), BOTH)
    # In float64: the divergence of noise so small is below float32's rounding.
    double = copy.deepcopy(network).double()
    x = to_nchw(np.concatenate(list(images()))).double()
    with torch.inference_mode():
        exact = double(x).log_softmax(1)
    generator = torch.Generator().manual_seed(0)
    for site in read_sites(double):
        if site.kind == "input":
            continue
        deviation = 0.02 * statistics.channels(site).rows.std()

        def disturb(_module: object, _inputs: object, output: torch.Tensor, deviation=deviation):
            return output + deviation * torch.randn(output.shape, generator=generator, dtype=torch.float64)

        hook = site.fake_quant.register_forward_hook(disturb)
        with torch.inference_mode():
            disturbed = torch.stack([double(x).log_softmax(1) for _ in range(8)])
        hook.remove()
        measured = (exact.exp() * (exact - disturbed)).sum(-1).mean()
        predicted = float(statistics.fisher(site).sum() * deviation.square()) / 2
        assert predicted == pytest.approx(float(measured), rel=0.25), site.name
