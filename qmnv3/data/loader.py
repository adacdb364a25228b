"""Batches of preprocessed images, decoded ahead in threads."""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from qmnv3.data.decode import decode
from qmnv3.data.image_set import ImageSet
from qmnv3.data.transform import FloatImage, preprocess
from qmnv3.errors import DataError, ImageError
from qmnv3.preprocessing import Preprocessing


@dataclass(frozen=True, eq=False)
class Batch:
    """`images` float32 NHWC, normalised; `labels` index the folder's classes (empty without classes)."""

    images: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    paths: tuple[Path, ...]

    def __len__(self) -> int:
        return len(self.paths)

    def for_batch_norm(self) -> "Batch":
        """Itself; one image is held twice: BatchNorm takes no statistics of a single value.

        Mean loss, gradient and the mean in BatchNorm are those of the one.
        """
        if len(self) != 1:
            return self
        return Batch(self.images.repeat(2, axis=0), self.labels.repeat(2), 2 * self.paths)


@dataclass
class SkippedImages:
    """Images left out so far because they could not be decoded."""

    paths: list[Path] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)

    @property
    def count(self) -> int:
        """How many were left out."""
        return len(self.paths)

    def add(self, path: Path, reason: str) -> None:
        """Note an image, once."""
        if path not in self.paths:
            self.paths.append(path)
            self.reasons.append(reason)


class BatchIterator:
    """Iterator of Batch; `skipped` fills up while it runs."""

    def __init__(self, batches: Iterator[Batch], skipped: SkippedImages) -> None:
        self._batches = batches
        self.skipped = skipped

    def __iter__(self) -> "BatchIterator":
        return self

    def __next__(self) -> Batch:
        return next(self._batches)


def load_batches(
    folder: ImageSet,
    spec: Preprocessing,
    batch_size: int,
    *,
    indices: Sequence[int] | None = None,
    skip_bad: bool = False,
    workers: int = 2,
) -> BatchIterator:
    """Decode and preprocess `folder` (or `indices` of it, in that order) in batches of `batch_size`.

    Order does not depend on timing, and memory not on the folder's size: about two batches are held. The
    last batch may be smaller. A corrupt image raises its DataError, or with `skip_bad` is left out and
    recorded in `.skipped`; DataError when none is left.
    """
    chosen = range(len(folder)) if indices is None else indices
    skipped = SkippedImages()
    return BatchIterator(_batches(folder, spec, batch_size, chosen, skip_bad, workers, skipped), skipped)


def _batches(
    folder: ImageSet,
    spec: Preprocessing,
    batch_size: int,
    indices: Sequence[int],
    skip_bad: bool,
    workers: int,
    skipped: SkippedImages,
) -> Iterator[Batch]:
    images: list[FloatImage] = []
    kept: list[int] = []
    loaded = False
    for index, future in _ahead(folder, spec, indices, batch_size, workers):
        try:
            images.append(future.result())
            kept.append(index)
        except ImageError as error:
            if not skip_bad:
                raise ImageError(f"{error} or use --skip-bad") from error
            skipped.add(folder.path(index), str(error))
        if len(images) == batch_size:
            loaded = True
            yield _batch(folder, images, kept)
            images, kept = [], []
    if images:
        yield _batch(folder, images, kept)
    elif not loaded and skipped.count:
        raise DataError(f"{folder.root}: none of {len(indices)} images can be read; {skipped.reasons[0]}")


def _ahead(
    folder: ImageSet, spec: Preprocessing, indices: Sequence[int], depth: int, workers: int
) -> Iterator[tuple[int, Future[FloatImage]]]:
    """Futures of images in order, never more than `depth` + `workers` of them unread."""
    pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")
    pending: deque[tuple[int, Future[FloatImage]]] = deque()
    folder.expect(indices)
    try:
        for index in indices:
            pending.append((index, pool.submit(_load, folder, index, spec)))
            if len(pending) > depth + workers:
                yield pending.popleft()
        yield from pending
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        folder.forget()
        pool.shutdown(wait=True)


def _load(folder: ImageSet, index: int, spec: Preprocessing) -> FloatImage:
    return preprocess(decode(folder.path(index), spec.resize, folder.read(index)), spec)


def _batch(folder: ImageSet, images: list[FloatImage], kept: list[int]) -> Batch:
    labels = [folder.labels[i] for i in kept] if folder.labels else []
    return Batch(np.stack(images), np.asarray(labels, np.int64), tuple(folder.path(i) for i in kept))
