"""What a calibration set is made of: how many images, how many different ones, how many that show nothing."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

_DIGEST_BYTES = 16


@dataclass(frozen=True)
class ImageSet:
    """`count` images, of which `distinct` differ and `plain` are one colour all over."""

    count: int
    distinct: int
    plain: int


class ImageSetObserver:
    """Streams images, keeping 16 bytes of each different one. `step` is one step of an 8-bit pixel."""

    def __init__(self, step: float) -> None:
        self._tolerance = 4.0 * step  # noise of a covered lens, or of JPEG
        self._count = self._plain = 0
        self._digests: set[bytes] = set()

    def update(self, batch: npt.NDArray[np.float32]) -> None:
        """Take in a batch [B, H, W, 3] of normalised pixels."""
        for image in batch:
            self._digests.add(hashlib.blake2b(image.tobytes(), digest_size=_DIGEST_BYTES).digest())
        span = np.ptp(batch, axis=(1, 2)).max(axis=1)
        self._plain += int((span <= self._tolerance).sum())
        self._count += len(batch)

    def image_set(self) -> ImageSet:
        """What was seen so far."""
        return ImageSet(self._count, len(self._digests), self._plain)

    def state(self) -> dict[str, torch.Tensor]:
        """All that was seen."""
        digests = np.frombuffer(b"".join(sorted(self._digests)), np.uint8).reshape(-1, _DIGEST_BYTES)
        return {
            "digests": torch.from_numpy(digests.copy()),
            "counts": torch.tensor([self._count, self._plain]),
        }

    def merge(self, states: Sequence[dict[str, torch.Tensor]]) -> None:
        """Become the observer that saw all images of those with these states."""
        self._count, self._plain = torch.stack([state["counts"] for state in states]).sum(0).tolist()
        self._digests = {digest.tobytes() for state in states for digest in state["digests"].numpy()}
