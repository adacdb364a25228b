"""What a calibration set is made of: how many images, how many different ones, how many without colour."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

_DIGEST_BYTES = 16


@dataclass(frozen=True)
class ImageSet:
    """`count` images, of which `distinct` differ, `plain` are one colour all over and `grey` have no colours.

    The three channels of a grey image are one picture in three scales, whatever it was normalised by.
    """

    count: int
    distinct: int
    plain: int
    grey: int


class ImageSetObserver:
    """Streams images, keeping 16 bytes of each different one. `step` is one step of an 8-bit pixel."""

    def __init__(self, step: float) -> None:
        self._tolerance = 4.0 * step  # noise of a covered lens, or of JPEG
        self._count = self._plain = self._grey = 0
        self._digests: set[bytes] = set()

    def update(self, batch: npt.NDArray[np.float32]) -> None:
        """Take in a batch [B, H, W, 3] of normalised pixels."""
        for image in batch:
            self._digests.add(hashlib.blake2b(image.tobytes(), digest_size=_DIGEST_BYTES).digest())
        spans = np.ptp(batch, axis=(1, 2))
        varied = spans.max(axis=1) > self._tolerance
        self._plain += int((~varied).sum())
        self._grey += sum(map(self._is_grey, batch[varied], spans[varied]))
        self._count += len(batch)

    def image_set(self) -> ImageSet:
        """What was seen so far."""
        return ImageSet(self._count, len(self._digests), self._plain, self._grey)

    def _is_grey(self, image: npt.NDArray[np.float32], span: npt.NDArray[np.float32]) -> bool:
        """Whether one picture [H, W, 3] lies in all channels, each stretched over its `span` [3]."""
        if span.min() <= 0.0:
            return False
        relative = (image - image.min(axis=(0, 1))) / span
        return bool(np.ptp(relative, axis=2).max() <= self._tolerance / float(span.min()))

    def state(self) -> dict[str, torch.Tensor]:
        """All that was seen."""
        digests = np.frombuffer(b"".join(sorted(self._digests)), np.uint8).reshape(-1, _DIGEST_BYTES)
        return {
            "digests": torch.from_numpy(digests.copy()),
            "counts": torch.tensor([self._count, self._plain, self._grey]),
        }

    def merge(self, states: Sequence[dict[str, torch.Tensor]]) -> None:
        """Become the observer that saw all images of those with these states."""
        counts = torch.stack([state["counts"] for state in states]).sum(0)
        self._count, self._plain, self._grey = counts.tolist()
        self._digests = {digest.tobytes() for state in states for digest in state["digests"].numpy()}
