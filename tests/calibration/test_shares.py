"""Processes that share the images see together what one sees alone. Here they are threads."""

import copy
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from quant.nets import TinyNet, randomize
from torch import nn

from calibration import bias_correction
from calibration.config import PtqConfig
from calibration.observers import (
    ChannelObserver,
    HistogramObserver,
    ImageSetObserver,
    MomentObserver,
    MovingAverageObserver,
    Turns,
    percentile_range,
)
from calibration.ptq import Observed, observe, quantize
from calibration.shares import Mergeable, Share
from calibration.statistics import Images
from qmnv3.preprocessing import Preprocessing
from qmnv3.quant.sites import read_sites
from qmnv3.quant.state import State, model_state

SPEC, CONFIG = Preprocessing(32, 36), PtqConfig(level=3)
# Sums in another order, in float64.
ROUNDING = {"rtol": 1e-12, "atol": 1e-14}
T = TypeVar("T")


def in_processes(size: int, work: Callable[[int, Callable[[bytes], list[bytes]]], T]) -> list[T]:
    """What `work(rank, gather)` returns in each of `size` threads, of which one works at a time.

    Tracing a model changes torch for all threads.
    """
    given = [b""] * size
    barrier = threading.Barrier(size, timeout=600)
    working = threading.Lock()

    def meet() -> None:
        working.release()
        try:
            barrier.wait()
        finally:
            working.acquire()

    def run(rank: int) -> T:
        def gather(content: bytes) -> list[bytes]:
            given[rank] = content
            meet()
            everything = list(given)
            meet()
            return everything

        with working:
            try:
                return work(rank, gather)
            except BaseException:
                barrier.abort()
                raise

    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(run, range(size)))


def merged(make: Callable[[Turns], Any], batches: list[Any], size: int) -> Any:
    """An observer that `size` others were merged into, to which the batches came in turns."""
    observers: list[Any] = [make(Turns(rank, size, len(batches[0]))) for rank in range(size)]
    for index, batch in enumerate(batches):
        observers[index % size].update(batch)
    states = [observer.state() for observer in observers]
    result: Mergeable = observers[-1]
    result.merge(states)
    return result


def alone(make: Callable[[], Any], batches: list[Any]) -> Any:
    observer = make()
    for batch in batches:
        observer.update(batch)
    return observer


def tensors(seed: int, full: int, last: int, channels: int, side: int, growth: float) -> list[torch.Tensor]:
    """Batches of 8 maps and then one of `last`, each 2**growth times as large as the one before."""
    generator = torch.Generator().manual_seed(seed)
    maps = [torch.randn(count, channels, side, side, generator=generator) for count in [8] * full + [last]]
    return [each * 2.0 ** (growth * index) for index, each in enumerate(maps)]


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 99),
    full=st.integers(0, 11),
    last=st.integers(1, 8),
    channels=st.integers(1, 3),
    side=st.sampled_from((1, 4, 16)),
    growth=st.floats(-2, 2),
    size=st.integers(1, 4),
)
def test_merged_observers_are_one_observer_of_all_batches(
    seed: int, full: int, last: int, channels: int, side: int, growth: float, size: int
) -> None:
    batches = tensors(seed, full, last, channels, side, growth)
    histogram = merged(
        lambda _: HistogramObserver(lambda h: percentile_range(h, 99)), batches, size
    ).histogram
    whole = alone(lambda: HistogramObserver(lambda h: percentile_range(h, 99)), batches).histogram
    assert (histogram.exponent, histogram.first_bin) == (whole.exponent, whole.first_bin)
    assert (histogram.low, histogram.high) == (whole.low, whole.high)
    np.testing.assert_array_equal(histogram.counts, whole.counts)

    average = merged(lambda _: MovingAverageObserver(0.75), batches, size)
    assert average.range() == alone(lambda: MovingAverageObserver(0.75), batches).range()

    found = merged(lambda turns: ChannelObserver(5, 256, turns), batches, size).channels()
    expected = alone(lambda: ChannelObserver(5, 256), batches).channels()
    for name in ("low", "high", "rows"):
        assert torch.equal(getattr(found, name), getattr(expected, name)), name

    moments = merged(lambda _: MomentObserver(), batches, size).moments()
    rows = torch.cat(batches).double().movedim(1, 0).flatten(1).numpy()
    np.testing.assert_allclose(moments.mean, rows.mean(1), **ROUNDING)
    np.testing.assert_allclose(moments.std, rows.std(1), rtol=1e-9)


def test_equal_images_of_two_processes_are_one_image() -> None:
    pictures = np.random.default_rng(0).uniform(-1, 1, (3, 4, 4, 3)).astype(np.float32)
    black = np.zeros((1, 4, 4, 3), np.float32)
    observer = merged(lambda _: ImageSetObserver(1 / 255), [pictures[:2], pictures[1:], black], 2)
    seen = observer.image_set()
    assert (seen.count, seen.distinct, seen.plain) == (5, 4, 1)


def pictures() -> list[Images]:
    """Three batches, the last of them smaller."""
    values = np.random.default_rng(0).uniform(-2, 2, (10, 32, 32, 3)).astype(np.float32)
    return [values[:4], values[4:8], values[8:]]


@pytest.fixture(scope="module")
def net() -> nn.Module:
    return randomize(TinyNet())


def observed(net: nn.Module, share: Share | None = None) -> Observed:
    return observe(copy.deepcopy(net), SPEC, pictures, (CONFIG,), share=share)


def share_of(rank: int, size: int, gather: Callable[[bytes], list[bytes]]) -> Share:
    def images() -> Iterator[Images]:
        yield from pictures()[rank::size]

    return Share(Turns(rank, size, 4), images, gather)


# Of four processes one has no batch.
@pytest.mark.parametrize("size", [2, 4])
def test_every_process_gets_the_statistics_of_all_images(net: nn.Module, size: int) -> None:
    one = observed(net).statistics
    everyone = in_processes(size, lambda rank, gather: observed(net, share_of(rank, size, gather)))
    for statistics in (found.statistics for found in everyone):
        assert statistics.image_set == one.image_set
        for name, moments in one.moments.items():
            torch.testing.assert_close(statistics.moments[name].mean, moments.mean, **ROUNDING)
        for site in read_sites(one.network):
            assert torch.equal(statistics.channels(site).low, one.channels(site).low)
            assert torch.equal(statistics.channels(site).rows, one.channels(site).rows)
            torch.testing.assert_close(statistics.fisher(site), one.fisher(site), rtol=1e-6, atol=0.0)


def test_others_assist_the_first_in_correcting_biases(net: nn.Module) -> None:

    def work(rank: int, gather: Callable[[bytes], list[bytes]]) -> State:
        found = observed(net, share_of(rank, 2, gather))
        if rank:
            bias_correction.assist(found.statistics, CONFIG)
            return {}
        twice = [model_state(quantize(found, CONFIG).model) for _ in range(2)]
        bias_correction.dismiss(found.statistics)
        assert all(torch.equal(twice[1][name], tensor) for name, tensor in twice[0].items())
        return twice[0]

    shared, _ = in_processes(2, work)
    one = model_state(quantize(observed(net), CONFIG).model)
    assert shared.keys() == one.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(shared[name], tensor, rtol=1e-6, atol=1e-7)
