"""Calibration holds as much after many batches as after a few, whatever the observer."""

import gc
import tracemalloc
import weakref
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from quant.nets import TinyNet, randomize

from calibration.config import PtqConfig
from calibration.observers import HistogramObserver
from calibration.ptq import Images, calibrate
from qmnv3.preprocessing import Preprocessing

FEW, MANY = 8, 24
BATCH = (4, 32, 32, 3)
BATCH_BYTES = int(np.prod(BATCH)) * 4
# The batch at work, the one being made, and the first, kept to compare logits with.
BATCHES_ALIVE = 3


class Watch:
    """Makes batches, and notes what is still in memory after FEW and after MANY."""

    def __init__(self) -> None:
        self.batches_alive = 0
        self.bytes_held: list[int] = []

    def batches(self) -> Iterator[Images]:
        made: list[weakref.ref[Images]] = []
        tracemalloc.start()
        for index in range(MANY + 1):
            # Four different batches in turn: no new range after the first four.
            batch = np.random.default_rng(index % 4).standard_normal(BATCH, np.float32)
            made.append(weakref.ref(batch))
            alive = sum(reference() is not None for reference in made)
            self.batches_alive = max(self.batches_alive, alive)
            if index in (FEW, MANY):
                self.bytes_held.append(_bytes_held())
            yield batch
        tracemalloc.stop()

    def growth(self) -> int:
        """Bytes held after MANY batches less after FEW."""
        few, many = self.bytes_held
        return many - few


def _bytes_held() -> int:
    """Torch tensors, and what Python and NumPy allocated since tracing began."""
    gc.collect()
    tensors = [item for item in gc.get_objects() if issubclass(type(item), torch.Tensor)]
    return sum(tensor.nbytes for tensor in tensors) + tracemalloc.get_traced_memory()[0]


def watch_ptq(config: PtqConfig) -> Watch:
    watch = Watch()
    calibrate(randomize(TinyNet()), Preprocessing(32, 36), watch.batches(), config)
    return watch


@pytest.mark.parametrize("observer", ["minmax", "moving_average", "percentile", "mse", "kl"])
def test_memory_does_not_grow_with_images(observer: str) -> None:
    recipe = {"activations": {"observer": observer}, "hard_swish": {"ranges": "activations"}}
    watch = watch_ptq(PtqConfig.model_validate(recipe))
    assert watch.batches_alive <= BATCHES_ALIVE
    assert watch.growth() < BATCH_BYTES


def test_a_hoarding_observer_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards the test above: an observer that keeps what it sees is seen to grow."""
    hoard: list[torch.Tensor] = []
    update = HistogramObserver.update

    def hoarding(self: HistogramObserver, values: torch.Tensor) -> None:
        hoard.append(values)
        update(self, values)

    monkeypatch.setattr(HistogramObserver, "update", hoarding)
    assert watch_ptq(PtqConfig()).growth() > BATCH_BYTES
