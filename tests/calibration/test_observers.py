"""Observers against numpy and hand-worked ranges."""

import numpy as np
import pytest
import torch

from calibration.config import ActivationConfig
from calibration.observers import (
    Histogram,
    error_range,
    kl_range,
    make_observer,
    percentile_range,
)


def histogram_of(values: np.ndarray, batches: int = 1) -> Histogram:
    histogram = Histogram()
    for part in np.array_split(values, batches):
        histogram.update(torch.from_numpy(part))
    return histogram


@pytest.fixture(scope="module")
def normal() -> np.ndarray:
    return np.random.default_rng(0).normal(0.5, 2.0, 50_000).astype(np.float32)


def test_counts_equal_numpy_on_the_same_edges(normal: np.ndarray) -> None:
    histogram = histogram_of(normal)
    width = 2.0**histogram.exponent
    edges = (histogram.first_bin + np.arange(histogram.counts.size + 1)) * width
    expected, _ = np.histogram(normal.astype(np.float64), edges)
    np.testing.assert_array_equal(histogram.counts, expected)
    assert (histogram.low, histogram.high) == (normal.min(), normal.max())


@pytest.mark.parametrize("batches", [3, 50])
def test_neither_batching_nor_order_nor_merging_matters(normal: np.ndarray, batches: int) -> None:
    whole = histogram_of(normal)
    # Growing ranges force the bins to widen on the way.
    grown = histogram_of(np.sort(np.abs(normal))[:, None] * np.sign(normal[:, None]), batches)
    parts = Histogram()
    for part in np.array_split(normal[::-1].copy(), batches):
        parts.merge(histogram_of(part))
    assert parts.exponent == whole.exponent
    np.testing.assert_array_equal(parts.counts, whole.counts)
    assert grown.counts.sum() == whole.counts.sum()
    split = histogram_of(normal, batches)
    np.testing.assert_array_equal(split.counts, whole.counts)


def test_memory_stays_constant() -> None:
    histogram = Histogram()
    for magnitude in (1e-6, 1.0, 1e6):
        histogram.update(torch.linspace(-magnitude, magnitude, 1001))
        assert histogram.counts.size <= 4096
    assert histogram.counts.sum() == 3003


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_nan_and_infinity_are_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="NaN or infinity"):
        Histogram().update(torch.tensor([0.0, bad]))


@pytest.mark.parametrize("value", [0.0, 2.5, -5.0, 1e30, 1e-40])
def test_constant_tensor(value: float) -> None:
    histogram = histogram_of(np.full(10, value, np.float32))
    assert (histogram.low, histogram.high) == (np.float32(value), np.float32(value))
    assert histogram.counts.tolist() == [10]
    np.testing.assert_allclose(histogram.centers(), [value], rtol=1e-6, atol=1e-37)


def test_leading_zeros_do_not_coarsen_small_values() -> None:
    small = np.linspace(1e-12, 2e-12, 100, dtype=np.float32)
    zeros = np.zeros(100, np.float32)
    first, last = Histogram(), Histogram()
    for part, other in ((zeros, small), (small, zeros)):
        first.update(torch.from_numpy(part))
        last.update(torch.from_numpy(other))
    assert first.exponent == last.exponent
    np.testing.assert_array_equal(first.counts, last.counts)


def test_memory_format_does_not_matter(normal: np.ndarray) -> None:
    image = torch.from_numpy(normal).reshape(2, 5, 50, 100)
    histogram = Histogram()
    histogram.update(image.contiguous(memory_format=torch.channels_last))
    np.testing.assert_array_equal(histogram.counts, histogram_of(normal).counts)


def test_percentile_matches_numpy(normal: np.ndarray) -> None:
    low, high = percentile_range(histogram_of(normal), 99.0)
    expected = np.percentile(normal, [0.5, 99.5])
    # One bin is 2**-7 wide here (range about 17 in at most 4096 bins).
    np.testing.assert_allclose([low, high], expected, atol=2**-7)


@pytest.fixture(scope="module")
def heavy_tailed() -> np.ndarray:
    return np.random.default_rng(4).standard_t(3, 50_000).astype(np.float32)


def test_mse_range_matches_a_brute_force_search_on_the_values(heavy_tailed: np.ndarray) -> None:
    values = heavy_tailed

    def error(low: float, high: float) -> float:
        scale = (high - low) / 255
        zero = np.rint(-low / scale)
        q = np.clip(np.rint(values / scale) + zero, 0, 255)
        return float(np.square((q - zero) * scale - values).mean())

    low, high = error_range(histogram_of(values))
    grid = np.linspace(0.15, 1, 18)
    least = min(error(values.min() * a, values.max() * b) for a in grid for b in grid)
    assert error(low, high) <= least * 1.02


def test_mse_range_gives_up_a_lone_outlier() -> None:
    # Keeping 4.0 doubles the step: +1.5e-5 of rounding error. Clipping it to 1 costs 9 / 10**6 = 0.9e-5.
    values = np.random.default_rng(5).uniform(-1, 1, 1_000_000).astype(np.float32)
    values[0] = 4.0
    low, high = error_range(histogram_of(values))
    assert -1.1 < low < -0.9
    assert 0.95 < high < 2.0


def test_kl_range_cuts_tails_and_keeps_a_uniform(heavy_tailed: np.ndarray) -> None:
    low, high = kl_range(histogram_of(heavy_tailed))
    assert np.percentile(heavy_tailed, 99) < high < 0.6 * heavy_tailed.max()
    assert 0.6 * heavy_tailed.min() < low < np.percentile(heavy_tailed, 1)
    uniform = np.random.default_rng(1).uniform(-1, 3, 100_000).astype(np.float32)
    low, high = kl_range(histogram_of(uniform))
    assert low < -0.9
    assert high > 2.7


def test_moving_average_by_hand() -> None:
    observer = make_observer(ActivationConfig(observer="moving_average", momentum=0.75))
    for low, high in ((0.0, 4.0), (-4.0, 8.0)):
        observer.update(torch.tensor([low, high]))
    assert observer.range() == (-1.0, 5.0)


@pytest.mark.parametrize("kind", ["moving_average", "percentile", "mse", "kl"])
def test_every_observer_covers_a_plain_tensor(kind: str, normal: np.ndarray) -> None:
    observer = make_observer(ActivationConfig.model_validate({"observer": kind}))
    observer.update(torch.from_numpy(normal))
    low, high = observer.range()
    assert normal.min() <= low < np.percentile(normal, 2)
    assert np.percentile(normal, 98) < high <= normal.max()
