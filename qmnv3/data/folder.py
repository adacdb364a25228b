"""Finding images on disk and choosing some of them."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from qmnv3.data.decode import read_image
from qmnv3.data.image_set import ImageSet, IntArray
from qmnv3.data.order import epoch_order
from qmnv3.errors import DataError

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".ppm", ".tif", ".tiff"})
LAYOUT = "expected <folder>/<class>/<image>.jpg"


@dataclass(frozen=True)
class ImageFolder:
    """Images under `root`, sorted by path.

    `labels[i]` indexes `classes` (sorted sub-folder names, empty classes included); both are empty when the
    images are not all inside class sub-folders.
    """

    root: Path
    paths: tuple[Path, ...]
    labels: tuple[int, ...]
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.paths)

    def path(self, index: int) -> Path:
        """Where an image is."""
        return self.paths[index]

    def read(self, index: int) -> bytes:
        """As `read_image`."""
        return read_image(self.paths[index])

    def listing_sha256(self) -> str:
        """SHA-256 of names below the root and sizes: tells folders apart without reading an image."""
        digest = hashlib.sha256()
        for path in self.paths:
            # A name need not be Unicode.
            name = os.fsencode(path.relative_to(self.root).as_posix())
            digest.update(name + f"\0{path.stat().st_size}\n".encode())
        return digest.hexdigest()

    def order(self, seed: int, epoch: int, begun_by: int) -> IntArray:
        """All images in an order that does not depend on the number of processes."""
        return epoch_order(len(self), seed, epoch)

    def near(self, count: int, seed: int) -> IntArray:
        """All images: each is a file of its own."""
        return np.arange(len(self))

    def expect(self, indices: Sequence[int]) -> None:
        """Nothing to prepare."""

    def forget(self) -> None:
        """Nothing to end."""


def find_images(root: Path, *, classes: bool) -> ImageFolder:
    """Images below `root`, any depth, by suffix (any case); names beginning with a dot are ignored.

    With `classes`, every direct sub-folder is a class and images beside them are ignored; without, a flat or
    nested tree will do. Raises DataError for a missing or empty folder, a file, or missing class sub-folders.
    """
    if not root.exists():
        raise DataError(f"{root}: no such folder; give a folder of images")
    if not root.is_dir():
        raise DataError(f"{root}: is a file, not a folder; give a folder of images")
    try:
        names = tuple(
            sorted(entry.name for entry in root.iterdir() if entry.is_dir() and _visible(entry.name))
        )
        found = sorted(_walk(root, frozenset()))
    except OSError as error:
        raise DataError(f"{error.filename}: {error.strerror}; cannot list images") from error
    if classes and not names:
        raise DataError(f"{root}: {len(found)} images but no class sub-folders; {LAYOUT}")
    tops = [path.relative_to(root).parts[0] for path in found]
    inside = [top in names for top in tops]
    if classes:
        found = [path for path, kept in zip(found, inside, strict=True) if kept]
        tops = [top for top, kept in zip(tops, inside, strict=True) if kept]
    if not found:
        hint = LAYOUT if classes else "give a folder of images"
        raise DataError(f"{root}: no images ({', '.join(sorted(IMAGE_SUFFIXES))}) in it; {hint}")
    if not classes and not all(inside):
        return ImageFolder(root, tuple(found), (), ())
    position = {name: index for index, name in enumerate(names)}
    return ImageFolder(root, tuple(found), tuple(position[top] for top in tops), names)


def sample(images: ImageSet, count: int, seed: int) -> tuple[int, ...]:
    """Indices of `count` images drawn without replacement; all of them when `count` is larger.

    Classes take turns, so any prefix is balanced to within one image per class as long as none runs out.
    """
    if count < 1:
        raise DataError(f"images={count}: at least one image must be drawn")
    generator = np.random.default_rng(seed)
    order = generator.permutation(images.near(count, seed))
    if not images.labels:
        return tuple(int(index) for index in order[:count])
    labels = np.asarray(images.labels)[order]
    class_order = generator.permutation(len(images.classes))
    turn = np.empty(len(order), np.int64)
    for label in range(len(images.classes)):
        members = np.flatnonzero(labels == label)
        turn[members] = np.arange(len(members))
    chosen = order[np.lexsort((class_order[labels], turn))[:count]]
    return tuple(int(index) for index in chosen)


def _visible(name: str) -> bool:
    return not name.startswith(".")


def _walk(folder: Path, above: frozenset[tuple[int, int]]) -> Iterator[Path]:
    # Links are followed, so a link to a parent folder must not recurse for ever.
    status = folder.stat()
    identity = (status.st_dev, status.st_ino)
    if identity in above:
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            path = folder / entry.name
            if not _visible(entry.name):
                continue
            if entry.is_dir():
                yield from _walk(path, above | {identity})
            elif path.suffix.lower() in IMAGE_SUFFIXES and entry.is_file():
                yield path
