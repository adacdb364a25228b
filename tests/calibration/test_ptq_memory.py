"""Calibration holds as much after many batches as after a few, whatever the observer and the level."""

import functools
import gc
import tracemalloc
import weakref
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from quant.nets import TinyNet, randomize
from torch import fx

from calibration import bias_correction
from calibration.config import PtqConfig
from calibration.frontier import Frontier
from calibration.observers import HistogramObserver
from calibration.ptq import calibrate
from calibration.statistics import Images
from qmnv3.preprocessing import Preprocessing
from qmnv3.quant.fake_quant import FakeQuantize

FEW, MANY = 8, 24
BATCH = (4, 32, 32, 3)
BATCH_BYTES = int(np.prod(BATCH)) * 4
# The batch at work, the one being made, and the first, kept to compare logits with.
BATCHES_ALIVE = 3


class Watch:
    """An image source that notes what is still in memory after FEW and after MANY batches of a pass."""

    def __init__(self) -> None:
        self.batches_alive = 0
        self.growths: list[int] = []

    def batches(self) -> Iterator[Images]:
        tracemalloc.start()
        try:
            yield from self._batches()
        finally:
            tracemalloc.stop()

    def _batches(self) -> Iterator[Images]:
        made: list[weakref.ref[Images]] = []
        few = 0
        for index in range(MANY + 1):
            # Four different batches in turn: no new range after the first four.
            batch = np.random.default_rng(index % 4).standard_normal(BATCH, np.float32)
            made.append(weakref.ref(batch))
            alive = sum(reference() is not None for reference in made)
            self.batches_alive = max(self.batches_alive, alive)
            if index == FEW:
                few = _bytes_held()
            elif index == MANY:
                self.growths.append(_bytes_held() - few)
            yield batch


def _bytes_held() -> int:
    """Torch tensors, and what Python and NumPy allocated since tracing began, if it did."""
    gc.collect()
    tensors = [item for item in gc.get_objects() if issubclass(type(item), torch.Tensor)]
    return sum(tensor.nbytes for tensor in tensors) + tracemalloc.get_traced_memory()[0]


@pytest.fixture(autouse=True)
def small_heap() -> Iterator[None]:
    """Let the collector look at what the test makes, not at all of torch."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def watch_ptq(config: PtqConfig) -> Watch:
    watch = Watch()
    calibrate(randomize(TinyNet()), Preprocessing(32, 36), watch.batches, config)
    return watch


@pytest.mark.parametrize("observer", ["search", "minmax", "moving_average", "percentile", "mse", "kl"])
def test_memory_does_not_grow_with_images(observer: str) -> None:
    watch = watch_ptq(PtqConfig.model_validate({"level": 1, "activations": {"observer": observer}}))
    assert watch.batches_alive <= BATCHES_ALIVE
    assert len(watch.growths) == 1  # one pass for everything
    assert max(watch.growths) < BATCH_BYTES


def most_held_by_bias_correction(monkeypatch: pytest.MonkeyPatch, batches: int, budget_bytes: int) -> int:
    """Bytes in memory, at most, between any two operations of the staged execution."""
    held: list[int] = []
    execute = Frontier.execute

    def watched(self: Frontier, node: fx.Node) -> None:
        execute(self, node)
        if node.op == "call_module" and not isinstance(
            self.prepared.get_submodule(str(node.target)), FakeQuantize
        ):
            held.append(_bytes_held())

    def images() -> Iterator[Images]:
        for index in range(batches):
            yield np.random.default_rng(index % 4).standard_normal(BATCH, np.float32)

    result = calibrate(randomize(TinyNet()), Preprocessing(32, 36), images, PtqConfig(level=0))
    with monkeypatch.context() as patch:
        patch.setattr(Frontier, "execute", watched)
        patch.setattr(bias_correction, "Frontier", functools.partial(Frontier, budget_bytes=budget_bytes))
        bias_correction.apply(result.model, result.statistics, PtqConfig())
    return max(held)


def test_bias_correction_holds_no_more_than_its_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    budget = 4 * BATCH_BYTES
    few, many = (most_held_by_bias_correction(monkeypatch, count, budget) for count in (FEW, MANY))
    assert many - few < BATCH_BYTES
    # Guards the line above: without a bound, memory is seen to grow.
    assert most_held_by_bias_correction(monkeypatch, MANY, 2**30) - few > (MANY - FEW) * BATCH_BYTES


def test_a_hoarding_observer_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards the observers' test: one that keeps what it sees is seen to grow."""
    hoard: list[torch.Tensor] = []
    update = HistogramObserver.update

    def hoarding(self: HistogramObserver, values: torch.Tensor) -> None:
        hoard.append(values)
        update(self, values)

    monkeypatch.setattr(HistogramObserver, "update", hoarding)
    config = PtqConfig.model_validate({"level": 1, "activations": {"observer": "mse"}})
    assert max(watch_ptq(config).growths) > BATCH_BYTES
