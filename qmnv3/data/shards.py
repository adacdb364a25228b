"""Images in tar files of WebDataset's layout: key.jpg beside key.cls, shard after shard."""

import hashlib
import os
import threading
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.util import find_spec
from itertools import accumulate
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import httpx

from qmnv3.data.classes import CLASSES_FILE, classes_beside, parse_classes, read_classes
from qmnv3.data.image_set import IntArray
from qmnv3.data.order import shard_order
from qmnv3.data.shard_files import ShardFiles, is_url
from qmnv3.data.shard_index import NO_LABEL, ShardIndex, read_index
from qmnv3.errors import DataError

# Images that are shuffled among each other: with ImageNet's 110 kB a piece 1.8 GB, twice of it on the disk.
WINDOW = 16_384
_INDEXED_AT_ONCE = 4


class Shards:
    """Images of tar files as an `ImageSet`, numbered in the order of `indices`.

    Only the shards of the current and the next `window` images are open, or fetched into unnamed temporary
    files; of several windows where other processes go on with a training. A label past `classes` is a
    DataError; without classes there are no labels.
    """

    def __init__(
        self, root: Path, indices: Sequence[ShardIndex], classes: tuple[str, ...], window: int = WINDOW
    ) -> None:
        self.root, self.classes = root, classes
        self.labels = tuple(label for index in indices for label in index.labels) if classes else ()
        self._indices, self._window = indices, window
        self._counts = [len(index) for index in indices]
        self._starts = [0, *accumulate(self._counts)]
        self._names = [_shown(index.location) for index in indices]
        capacity = 2 * max(window, *self._counts)
        self._files = ShardFiles([index.location for index in indices], self._counts, capacity)

    def __len__(self) -> int:
        return self._starts[-1]

    def path(self, index: int) -> Path:
        """SHARD/MEMBER; of a URL without the scheme."""
        shard, image = self._place(index)
        return Path(f"{self._names[shard]}/{self._indices[shard].names[image]}")

    def read(self, index: int) -> bytes:
        """An image's bytes; DataError where the shard is not there or was changed."""
        shard, image = self._place(index)
        try:
            return self._read(shard, image)
        finally:
            self._files.done(shard)

    def order(self, seed: int, epoch: int, begun_by: int) -> IntArray:
        """See `shard_order`."""
        return shard_order(self._counts, seed, epoch, begun_by, self._window)

    def near(self, count: int, seed: int) -> IntArray:
        """The first windows of an epoch."""
        windows = -(-count // self._window)
        return self.order(seed, 0, 1)[: windows * self._window]

    def expect(self, indices: Sequence[int]) -> None:
        """Open the shards of these images in time."""
        self._files.expect(self._place(index)[0] for index in indices)

    def forget(self) -> None:
        """Open no more ahead."""
        self._files.forget()

    def listing_sha256(self) -> str:
        """SHA-256 of names (of URLs with host and path) and sizes: tells sets apart without reading."""
        digest = hashlib.sha256()
        for name, index in zip(self._names, self._indices, strict=True):
            told = name if is_url(index.location) else Path(name).name
            digest.update(os.fsencode(told) + f"\0{index.version.size_bytes}\n".encode())
        return digest.hexdigest()

    def _read(self, shard: int, image: int) -> bytes:
        file, known = self._files.get(shard), self._indices[shard]
        known.check(file)
        return file.read(known.offsets[image], known.sizes[image])

    def _place(self, index: int) -> tuple[int, int]:
        shard = bisect_right(self._starts, index) - 1
        return shard, index - self._starts[shard]


def are_shards(location: Path | str) -> bool:
    """Whether `find_shards` is to read this: URLs, .tar files, braces, folders of nothing but .tar files."""
    if isinstance(location, str) and is_url(location):
        return True
    path = Path(location)
    if path.is_dir():
        entries = [entry for entry in path.iterdir() if not entry.name.startswith(".")]
        return bool(_tars(path)) and not any(entry.is_dir() for entry in entries)
    return "{" in str(path) or path.suffix == ".tar"


def expand_shards(location: Path | str) -> list[str]:
    """Paths or URLs by WebDataset's notation "train-{000000..000146}.tar", or all .tar files of a folder.

    DataError for notation that cannot be read, another scheme than http(s), a shard that is named twice, or
    without the webdataset package.
    """
    if find_spec("webdataset") is None:
        raise DataError("webdataset: is not installed, and shards need it; pip install 'qmnv3[shards]'")
    from webdataset.shardlists import expand_urls

    if Path(location).is_dir():
        return [str(path) for path in _tars(Path(location))]
    try:
        found: list[str] = expand_urls(str(location))
    # An unset ${VARIABLE} is an assertion of the library's.
    except (AssertionError, KeyError, ValueError) as error:
        raise DataError(f"{location}: cannot be expanded ({error}); write train-{{000..146}}.tar") from error
    for url in filter(is_url, found):
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.path.endswith(".tar"):
            raise DataError(f"{url}: is not http(s)://.../NAME.tar; mount other storage, name each .tar")
    shard, times = Counter(found).most_common(1)[0]
    if times > 1:
        raise DataError(f"{location}: names {shard} {times} times; give each shard once")
    return found


def find_shards(
    locations: Sequence[str], *, labels: bool | None, advance: Callable[[int], None] = lambda shards: None
) -> Shards:
    """The images of shards, which the first time are read from end to end.

    `labels` are needed (True), taken where there are any (None), or not wanted (False). Classes are named by
    a classes.json beside the shards, its names sorted, as for an image folder; else "0", "1", ...
    `advance(n)` is called after every n shards. DataError where a shard is missing, damaged or without
    images, and for missing labels.
    """
    pool, stop = ThreadPoolExecutor(_INDEXED_AT_ONCE, thread_name_prefix="index"), threading.Event()
    indices: list[ShardIndex] = []
    try:
        for index in pool.map(partial(read_index, stop=stop), locations):
            indices.append(index)
            advance(1)
    finally:
        stop.set()
        pool.shutdown(wait=True, cancel_futures=True)
    return Shards(Path(_shown(locations[0])).parent, indices, _classes(indices, labels))


def _classes(indices: Sequence[ShardIndex], wanted: bool | None) -> tuple[str, ...]:
    if wanted is False:
        return ()
    bare = [index for index in indices if NO_LABEL in index.labels]
    if bare and (wanted or any(label != NO_LABEL for index in indices for label in index.labels)):
        name = bare[0].names[bare[0].labels.index(NO_LABEL)]
        raise DataError(f"{bare[0].location}: {name} has no label; put its class index beside it as key.cls")
    if bare:
        return ()
    names = _named(indices[0].location)
    last = max(indices, key=lambda index: max(index.labels))
    count = max(last.labels) + 1
    if names is None:
        return tuple(str(label) for label in range(count))
    if count > len(names):
        name = last.names[last.labels.index(count - 1)]
        raise DataError(f"{last.location}: {name} is of class {count - 1}, classes.json has {len(names)}")
    return names


def _named(location: str) -> tuple[str, ...] | None:
    """What a classes.json in the folder of a shard, or in the one above, calls the classes."""
    if not is_url(location):
        file = classes_beside(Path(location).parent)
        return None if file is None else tuple(read_classes(file))
    parts = urlsplit(location)
    for above in (1, 2):
        url = urlunsplit(parts._replace(path=f"{parts.path.rsplit('/', above)[0]}/{CLASSES_FILE}"))
        try:
            answer = httpx.get(url, follow_redirects=True, timeout=30)
        except httpx.HTTPError as error:
            raise DataError(f"{url}: cannot be fetched ({error}); run again") from error
        if answer.status_code == httpx.codes.OK:
            return tuple(parse_classes(answer.text, url))
    return None


def _tars(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*.tar") if not path.name.startswith("."))


def _shown(location: str) -> str:
    """A URL without scheme, user and query: `Path` would take a slash from "https://"."""
    parts = urlsplit(location)
    return f"{parts.netloc.rpartition('@')[2]}{parts.path}" if is_url(location) else location
