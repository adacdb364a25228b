"""Random numbers that do not depend on how many processes share the batches."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch

T = TypeVar("T")


@dataclass(frozen=True)
class Turns:
    """Which batches a process sees: of each `size` in turn the one at place `rank`, from 0.

    Every batch but the last of all holds `batch_size` images.
    """

    rank: int
    size: int
    batch_size: int


ALL = Turns(0, 1, 0)


class Draws:
    """Draws for batch after batch what one process would draw that saw all of them, in order."""

    def __init__(self, seed: int, turns: Turns = ALL) -> None:
        self._generator = torch.Generator().manual_seed(seed)
        self._turns = turns
        self._others = turns.rank

    def __call__(self, images: int, draw: Callable[[int, torch.Generator], T]) -> T:
        """What `draw` gives for the next batch, of so many images."""
        for _ in range(self._others):
            draw(self._turns.batch_size, self._generator)
        self._others = self._turns.size - 1
        return draw(images, self._generator)
