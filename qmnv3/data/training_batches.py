"""Endless batches of augmented images, the same for the same seed whatever the machine does."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np

from qmnv3.data.augment import Augmentation, augment
from qmnv3.data.decode import RgbImage, decode
from qmnv3.data.image_set import ImageSet, IntArray
from qmnv3.data.loader import Batch, SkippedImages
from qmnv3.data.order import START, Position
from qmnv3.data.transform import FloatImage, normalise
from qmnv3.data.workers import WorkerProcesses
from qmnv3.errors import DataError, ImageError
from qmnv3.preprocessing import Preprocessing

# Decoding at a fraction of a JPEG's size must leave enough for a crop of a small share of its area.
_CROP_OVERSAMPLING = 2
_BATCHES_AHEAD = 3
# Images that go to a thread or process at once, if there are enough for all.
_MOST_AT_ONCE = 8


class TrainingBatches:
    """Iterator of `Batch` through one epoch after the other, from `start` on.

    How image i looks in an epoch follows from seed, epoch and i alone: not from `workers`, timing or `rank`.
    Of `world_size` processes each takes every world_size-th image of a common batch, which has `batch_size`
    images for each of the processes that the training was `begun_by` (default as many). The images that do
    not fill a batch are left out, other ones each epoch. A corrupt image is left out and recorded in
    `skipped`; DataError when a whole batch is. A batch of one image holds it twice, unless other processes
    have more.
    Labels index the folder's classes, or with `outputs` are those of them.
    `workers` are threads, with `processes` as many processes that these hand their images to.
    """

    def __init__(
        self,
        folder: ImageSet,
        spec: Preprocessing,
        augmentation: Augmentation,
        *,
        batch_size: int,
        seed: int,
        start: Position = START,
        outputs: IntArray | None = None,
        rank: int = 0,
        world_size: int = 1,
        begun_by: int | None = None,
        workers: int = 2,
        processes: bool = False,
    ) -> None:
        self._folder, self._spec, self._augmentation = folder, spec, augmentation
        self._seed, self._rank, self._world = seed, rank, world_size
        self._workers = workers
        self._outputs = outputs
        self._begun_by = begun_by or world_size
        self._size = min(batch_size * self._begun_by, len(folder))
        if world_size != self._begun_by and self._size % world_size:
            raise DataError(
                f"{world_size} processes: {self._begun_by} began with {self._size} images in a batch, which "
                f"cannot be shared evenly; start a number of processes that divides {self._size}"
            )
        if self._size < world_size:
            raise DataError(f"{folder.root}: {len(folder)} images for {world_size} processes; give more")
        self.steps_per_epoch = len(folder) // self._size
        self.skipped = SkippedImages()
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="augment")
        self._processes = WorkerProcesses(workers) if processes else None
        self._plans = self._planned(start)
        self._ahead: deque[_Pending] = deque()

    def __iter__(self) -> "TrainingBatches":
        return self

    def __next__(self) -> Batch:
        while len(self._ahead) < _BATCHES_AHEAD:
            self._ahead.append(self._submit(*next(self._plans)))
        images, kept = [], []
        for indices, future in self._ahead.popleft():
            for index, image in zip(indices, future.result(), strict=True):
                if isinstance(image, ImageError):
                    self.skipped.add(self._folder.path(index), str(image))
                else:
                    images.append(image)
                    kept.append(index)
        if not images:
            raise DataError(f"{self._folder.root}: none of a batch can be read; {self.skipped.reasons[-1]}")
        labels = np.asarray([self._folder.labels[i] for i in kept] if self._folder.labels else [], np.int64)
        if self._outputs is not None and len(labels):
            labels = self._outputs[labels]
        batch = Batch(np.stack(images), labels, tuple(self._folder.path(i) for i in kept))
        # Several processes have images enough: they share their statistics.
        return batch.for_batch_norm() if self._world == 1 else batch

    def close(self) -> None:
        """Stop decoding ahead."""
        self._ahead.clear()
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._folder.forget()
        self._pool.shutdown(wait=True)
        if self._processes is not None:
            self._processes.close()

    def _planned(self, start: Position) -> Iterator[tuple[int, list[int]]]:
        """Epoch and images of one batch after the other."""
        epoch, batch = start
        while True:
            order = self._folder.order(self._seed, epoch, self._begun_by)
            order = order[batch * self._size : self.steps_per_epoch * self._size]
            self._folder.expect(order[self._rank :: self._world].tolist())
            for first in range(0, len(order), self._size):
                yield epoch, order[first : first + self._size][self._rank :: self._world].tolist()
            epoch, batch = epoch + 1, 0

    def _submit(self, epoch: int, indices: list[int]) -> "_Pending":
        size = min(_MOST_AT_ONCE, max(1, _BATCHES_AHEAD * len(indices) // self._workers))
        chunks = [indices[first : first + size] for first in range(0, len(indices), size)]
        return [(chunk, self._pool.submit(self._load, chunk, epoch)) for chunk in chunks]

    def _load(self, indices: list[int], epoch: int) -> list[FloatImage | ImageError]:
        files = [self._read(index) for index in indices]
        paths = [self._folder.path(index) for index in indices]
        seeds = [[self._seed, epoch, index] for index in indices]
        arguments = (files, paths, seeds, self._spec, self._augmentation)
        made = _augmented(*arguments) if self._processes is None else self._processes(_augmented, *arguments)
        return [image if isinstance(image, ImageError) else normalise(image, self._spec) for image in made]

    def _read(self, index: int) -> bytes | ImageError:
        try:
            return self._folder.read(index)
        except ImageError as error:
            return error


def _augmented(
    files: list[bytes | ImageError],
    paths: list[Path],
    seeds: list[list[int]],
    spec: Preprocessing,
    augmentation: Augmentation,
) -> list[RgbImage | ImageError]:
    """Of each file its image, or why there is none."""
    made: list[RgbImage | ImageError] = []
    for file, path, seed in zip(files, paths, seeds, strict=True):
        if isinstance(file, ImageError):
            made.append(file)
            continue
        try:
            image = decode(path, spec.resize * _CROP_OVERSAMPLING, file)
        except ImageError as error:
            made.append(error)
            continue
        made.append(augment(image, spec, augmentation, np.random.default_rng(seed)))
    return made


_Pending = list[tuple[list[int], Future[list[FloatImage | ImageError]]]]
