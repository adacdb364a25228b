"""Shards on disk and behind URLs: opened or fetched just before they are read."""

import os
import tempfile
import threading
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import httpx

from qmnv3.errors import DataError

_FETCHES = 4  # at a time
_CHUNK_BYTES = 1 << 20
_ATTEMPTS = 5
_FIRST_PAUSE_S = 1.0  # doubled after every attempt


@dataclass(frozen=True)
class Version:
    """How to tell that a shard is still the one that was indexed; of a URL only its size is known."""

    size_bytes: int
    modified_ns: int | None = None


class OpenShard:
    """A tar file to read from, from any thread; a fetched one is removed when nobody holds it any more."""

    def __init__(self, location: str, file: BinaryIO) -> None:
        self.location, self.file = location, file
        status = os.fstat(file.fileno())
        self.version = Version(status.st_size, None if is_url(location) else status.st_mtime_ns)

    def read(self, offset: int, size: int) -> bytes:
        """Bytes of a member."""
        return os.pread(self.file.fileno(), size, offset)

    def __del__(self) -> None:
        # Not when it leaves `ShardFiles`: another thread may just be reading.
        self.file.close()


def is_url(location: str) -> bool:
    """Whether a shard is fetched rather than opened."""
    return "://" in location


def open_shard(location: str, stop: threading.Event | None = None) -> OpenShard:
    """Open a path, or fetch a URL into a temporary file; `stop` ends a fetch.

    DataError for a shard that is not there or cannot be fetched.
    """
    if is_url(location):
        return OpenShard(location, _fetch(location, stop or threading.Event()))
    try:
        return OpenShard(location, Path(location).open("rb"))
    except FileNotFoundError as error:
        raise DataError(f"{location}: no such shard; check the numbers in {{...}} and the folder") from error
    except OSError as error:
        raise DataError(f"{location}: {error.strerror}; cannot read this shard") from error


class ShardFiles:
    """Keeps shards open while images of them are expected, and opens the next ones ahead.

    About `capacity` images' worth of shards is held, which for URLs is what lies on the disk.
    """

    def __init__(self, locations: Sequence[str], counts: Sequence[int], capacity: int) -> None:
        self._locations, self._counts, self._capacity = locations, counts, capacity
        self._lock = threading.Lock()
        self._held: dict[int, Future[OpenShard]] = {}
        self._left: Counter[int] = Counter()
        self._next: deque[int] = deque()
        self._pool: ThreadPoolExecutor | None = None
        self._stop = threading.Event()

    def expect(self, shards: Iterable[int]) -> None:
        """Announce reads, by shard, in order."""
        coming = Counter(shards)  # keeps the order of first appearance
        with self._lock:
            self._left.update(coming)
            self._next = deque(coming)
            self._open_ahead()

    def forget(self) -> None:
        """Nothing is expected any more; fetches under way are abandoned."""
        with self._lock:
            self._next.clear()
            self._left.clear()
            self._stop.set()
            if self._pool is not None:
                self._pool.shutdown(wait=True, cancel_futures=True)
            self._held = {shard: held for shard, held in self._held.items() if _succeeded(held)}
            self._pool, self._stop = None, threading.Event()

    def get(self, shard: int) -> OpenShard:
        """An open shard, waiting for it if need be; `open_shard`'s DataError."""
        with self._lock:
            opening = self._held.get(shard) or self._open(shard)
        try:
            return opening.result()
        except CancelledError as error:
            raise DataError(f"{self._locations[shard]}: is no longer needed") from error

    def done(self, shard: int) -> None:
        """One of the expected reads has been."""
        with self._lock:
            self._left[shard] -= 1
            if self._left[shard] <= 0:
                del self._left[shard]
                self._open_ahead()

    def _open_ahead(self) -> None:
        while self._next and self._has_room():
            shard = self._next.popleft()
            if shard not in self._held:
                self._open(shard)

    def _open(self, shard: int) -> Future[OpenShard]:
        self._has_room()
        if self._pool is None:
            self._pool = ThreadPoolExecutor(_FETCHES, thread_name_prefix="shards")
        self._held[shard] = self._pool.submit(open_shard, self._locations[shard], self._stop)
        return self._held[shard]

    def _has_room(self) -> bool:
        """Whether another shard may be held, once those nobody expects anything of have been let go."""
        images = sum(self._counts[shard] for shard in self._held)
        for shard in [shard for shard in self._held if shard not in self._left]:
            if images < self._capacity:
                break
            images -= self._counts[shard]
            del self._held[shard]
        return images < self._capacity


def _succeeded(opening: Future[OpenShard]) -> bool:
    return opening.done() and not opening.cancelled() and opening.exception() is None


def _fetch(url: str, stop: threading.Event) -> BinaryIO:
    reason = ""
    for attempt in range(_ATTEMPTS):
        if attempt and stop.wait(_FIRST_PAUSE_S * 2 ** (attempt - 1)):
            break
        try:
            return _fetch_once(url, stop)
        except (httpx.TransportError, _ServerError) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise DataError(f"{url}: cannot be fetched ({error}); check the address") from error
    raise DataError(f"{url}: cannot be fetched ({reason or 'stopped'}), tried {_ATTEMPTS} times; run again")


class _ServerError(Exception):
    """An answer that may be another one next time."""


def _fetch_once(url: str, stop: threading.Event) -> BinaryIO:
    # Without a name: however the process ends, nothing stays on the disk.
    file: BinaryIO = tempfile.TemporaryFile(prefix="qmnv3-shard-")  # noqa: SIM115
    try:
        for chunk in _received(url):
            if stop.is_set():
                raise DataError(f"{url}: is no longer needed")
            file.write(chunk)
        file.seek(0)
    except BaseException as error:
        with suppress(OSError):
            file.close()
        if isinstance(error, OSError):
            raise DataError(
                f"{tempfile.gettempdir()}: {error.strerror}; shards are fetched into it, "
                "set TMPDIR to a larger disk"
            ) from error
        raise
    return file


def _received(url: str) -> Iterator[bytes]:
    """The body; DataError for an answer that is final, else `_ServerError` or httpx.TransportError."""
    # Compressed bytes would be of another length.
    identity = {"Accept-Encoding": "identity"}
    with httpx.stream("GET", url, headers=identity, follow_redirects=True, timeout=30) as response:
        answer = f"the server answered {response.status_code} {response.reason_phrase}"
        if response.status_code >= 500 or response.status_code == httpx.codes.TOO_MANY_REQUESTS:
            raise _ServerError(answer)
        if response.status_code != httpx.codes.OK:
            raise DataError(f"{url}: {answer}; check the address and the numbers in {{...}}")
        yield from response.iter_raw(_CHUNK_BYTES)
