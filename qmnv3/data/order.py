"""In which order training sees the images."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt


class Position(NamedTuple):
    """The batch that is delivered next."""

    epoch: int
    batch: int


START = Position(0, 0)


def epoch_order(count: int, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    """A permutation of `count` images, another one each epoch, always the same for the same arguments."""
    return np.random.default_rng([seed, epoch]).permutation(count)
