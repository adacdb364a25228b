"""In which order training sees the images."""

from collections.abc import Sequence
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


def shard_order(
    counts: Sequence[int], seed: int, epoch: int, processes: int, window: int
) -> npt.NDArray[np.int64]:
    """An order of the images of shards with `counts` images each in which each shard is read once, in a go.

    Shards follow each other at random and are dealt out to so many `processes` in equal stretches, which
    take turns in the result; within a stretch every `window` images are shuffled. The last
    sum(counts) % processes images are left out, other ones each epoch.
    """
    generator = np.random.default_rng([seed, epoch])
    ends = np.cumsum(counts)
    images = np.concatenate(
        [np.arange(ends[i] - counts[i], ends[i]) for i in generator.permutation(len(counts))]
    )
    share = len(images) // processes
    stretches = images[: share * processes].reshape(processes, share)
    for stretch in stretches:
        for first in range(0, share, window):
            generator.shuffle(stretch[first : first + window])
    return stretches.T.ravel()
