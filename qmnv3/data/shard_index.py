"""Where in a tar file each image lies: read once, then remembered in the user's cache."""

import fcntl
import hashlib
import json
import os
import re
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from platformdirs import user_cache_path

from qmnv3.data.shard_files import OpenShard, Version, is_url, open_shard
from qmnv3.errors import DataError
from qmnv3.files import atomic_file

SUFFIXES = ("jpg", "jpeg", "png", "webp")
NO_LABEL = -1
MAX_LABEL = 99_999
_FORMAT = 1
_BLOCK_BYTES = 512
# What WebDataset's own reader passes over.
_META = re.compile(r"__[^/]*__($|/)")


@dataclass(frozen=True)
class ShardIndex:
    """The images of one shard: member names, where their bytes are, labels (`NO_LABEL` without one)."""

    location: str
    version: Version
    names: tuple[str, ...]
    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    labels: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.names)

    def check(self, shard: OpenShard) -> None:
        """DataError where `shard` is not what was indexed."""
        if shard.version != self.version:
            raise DataError(
                f"{self.location}: was changed after it was indexed, from {self.version.size_bytes} bytes to "
                f"{shard.version.size_bytes}; remove {index_file(self.location)} and begin anew"
            )


def index_file(location: str) -> Path:
    """Where the index of a shard is kept: below $QMNV3_CACHE, else the user's cache directory."""
    name = location if is_url(location) else str(Path(location).resolve())
    given = os.environ.get("QMNV3_CACHE")
    folder = Path(given) if given else user_cache_path("qmnv3")
    return folder / "shards" / f"{hashlib.sha256(name.encode()).hexdigest()[:32]}.json"


def read_index(location: str, stop: threading.Event | None = None) -> ShardIndex:
    """Index of a shard, from the cache unless the file has changed; a URL is fetched the first time.

    `stop` ends a fetch. Of several processes one indexes, the others wait. DataError, naming shard and
    member, for a shard that is missing, damaged or cut off, and for a label that is not a class index.
    """
    file = index_file(location)
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        known = _remembered(file, location)
        if is_url(location) and known is not None:
            return known
        shard = open_shard(location, stop)
        if known is not None and known.version == shard.version:
            return known
        found = _scan(shard)
        with atomic_file(file) as temporary:
            temporary.write_text(json.dumps({"format": _FORMAT} | asdict(found)), encoding="utf-8")
        return found


def _remembered(file: Path, location: str) -> ShardIndex | None:
    """What the cache holds, if it is whole."""
    try:
        value: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        if value.pop("format") != _FORMAT:
            return None
        columns = {name: tuple(value[name]) for name in ("names", "offsets", "sizes", "labels")}
        return ShardIndex(location, Version(**value["version"]), **columns)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _scan(shard: OpenShard) -> ShardIndex:
    from webdataset.tariterators import group_by_keys

    names, offsets, sizes, labels = [], [], [], []
    try:
        # The library groups whatever stands for a file's content: here where it lies.
        for sample in group_by_keys(_members(shard)):
            member = next((sample[suffix] for suffix in SUFFIXES if suffix in sample), None)
            if member is not None:
                names.append(member.name)
                offsets.append(member.offset_data)
                sizes.append(member.size)
                labels.append(_label(shard, sample.get("cls")))
    except DataError:
        raise
    # tarfile and the grouping raise nearly anything on damaged files (ReadError, ValueError, OverflowError).
    except Exception as error:
        reason = " ".join(str(error.args[0] if error.args else error).split())
        raise DataError(
            f"{shard.location}: damaged, cut off, compressed or not a tar file ({reason}); "
            "shards are plain .tar files, write or fetch it again"
        ) from error
    if not names:
        kinds = ", ".join(f".{suffix}" for suffix in SUFFIXES)
        raise DataError(f"{shard.location}: no images ({kinds}) in it; expected key.jpg and key.cls")
    columns = (tuple(names), tuple(offsets), tuple(sizes), tuple(labels))
    return ShardIndex(shard.location, shard.version, *columns)


def _members(shard: OpenShard) -> Iterator[dict[str, Any]]:
    """The files of a tar, as WebDataset's grouping takes them; ReadError for one that is damaged."""
    with tarfile.open(fileobj=shard.file, mode="r:") as tar:
        while (member := tar.next()) is not None:
            end = member.offset_data + member.size
            if member.size < 0 or end > shard.version.size_bytes:
                raise tarfile.ReadError(f"{member.name} ends at byte {end} of {shard.version.size_bytes}")
            if member.isreg() and not member.issparse() and not _META.match(member.name):
                yield {"fname": member.name, "data": member, "__url__": shard.location}
        # tarfile takes any header it cannot read for the end, unless it is the first.
        if shard.read(tar.offset, _BLOCK_BYTES) != bytes(_BLOCK_BYTES):
            raise tarfile.ReadError(f"no end mark at byte {tar.offset}")


def _label(shard: OpenShard, member: tarfile.TarInfo | None) -> int:
    if member is None:
        return NO_LABEL
    text = shard.read(member.offset_data, min(member.size, 32)).strip()
    # ASCII digits alone; int() would take "1_0" too.
    if not text.isdigit() or int(text) > MAX_LABEL:
        shown = text.decode(errors="backslashreplace")
        raise DataError(
            f"{shard.location}/{member.name}: {shown!r} is not a class index; "
            f"write a number from 0 to {MAX_LABEL} as text"
        )
    return int(text)
