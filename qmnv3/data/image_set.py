"""What training and calibration ask of a set of images, however it is stored."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]


class ImageSet(Protocol):
    """Images 0 to len - 1: an `ImageFolder` or `Shards`.

    `labels[i]` indexes `classes`; both are empty where images have no classes. `root` names the whole.
    """

    @property
    def root(self) -> Path: ...  # noqa: D102
    @property
    def labels(self) -> tuple[int, ...]: ...  # noqa: D102
    @property
    def classes(self) -> tuple[str, ...]: ...  # noqa: D102
    def __len__(self) -> int: ...

    def path(self, index: int) -> Path:
        """What an image is called, in messages and logs."""
        ...

    def read(self, index: int) -> bytes:
        """What `qmnv3.data.decode` decodes; ImageError for an image that can be left out, else DataError."""
        ...

    def listing_sha256(self) -> str:
        """SHA-256 of names and sizes, the same wherever the images lie."""
        ...

    def order(self, seed: int, epoch: int, begun_by: int) -> IntArray:
        """Indices in an epoch's order; of the processes that began, process r takes every one from r on.

        At most `begun_by` - 1 images are left out.
        """
        ...

    def near(self, count: int, seed: int) -> IntArray:
        """Indices, `count` at least where there are so many, whose images are cheap to read together."""
        ...

    def expect(self, indices: Sequence[int]) -> None:
        """Announce images that will be read, each as often and about in the order given."""
        ...

    def forget(self) -> None:
        """Nothing that was announced comes any more; what is under way in its name ends."""
        ...
