"""Fetching a published file: resumed when cut off, checked before it gets its name."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import httpx
from platformdirs import user_cache_path

from qmnv3.errors import WeightsError
from qmnv3.files import file_sha256

Report = Callable[[int, int | None], None]


class Published(Protocol):
    """A file that lies at `url`, known by the first hexadecimal digits of its SHA-256, in lower case."""

    @property
    def url(self) -> str:
        """Where it lies."""

    @property
    def file_name(self) -> str:
        """What it is called when fetched."""

    @property
    def sha256_prefix(self) -> str:
        """How its SHA-256 begins."""


def cache_dir(override: Path | None = None) -> Path:
    """Where fetched weights are kept: `override`, else $QMNV3_CACHE, else the user's cache directory."""
    from_environment = os.environ.get("QMNV3_CACHE")
    if override is not None or from_environment:
        return override or Path(from_environment or "")
    return user_cache_path("qmnv3") / "weights"


def fetch(release: Published, folder: Path, report: Report = lambda done, total: None) -> Path:
    """Download `release` into `folder` and return its path; a verified file already there is kept.

    A download that is cut off leaves NAME.part, and the next call goes on from there if the server can.
    `report` is called with the bytes on disk so far and in total (None when the server does not say).
    WeightsError when the server refuses, the connection breaks, or the SHA-256 is wrong: then the file is
    removed.
    """
    target = folder / release.file_name
    if target.is_file() and file_sha256(target).startswith(release.sha256_prefix):
        return target
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f"{release.file_name}.part"
    try:
        with httpx.Client(follow_redirects=True, timeout=30) as client:
            _receive(client, release.url, part, report)
    except httpx.HTTPError as error:
        kept = part.stat().st_size if part.exists() else 0
        raise WeightsError(
            f"{release.url}: {error or type(error).__name__}; {kept} bytes are kept, run again to go on"
        ) from error
    found = file_sha256(part)
    if not found.startswith(release.sha256_prefix):
        part.unlink()
        raise WeightsError(
            f"{release.url}: SHA-256 begins {found[:8]}, published is {release.sha256_prefix}; "
            "the file was removed, fetch it again"
        )
    part.replace(target)
    return target


def _receive(client: httpx.Client, url: str, part: Path, report: Report) -> None:
    """Append what `part` lacks of `url` to it; start over when the server does not continue."""
    have = part.stat().st_size if part.exists() else 0
    # Compression would make the byte positions those of another stream.
    headers = {"Accept-Encoding": "identity", **({"Range": f"bytes={have}-"} if have else {})}
    with client.stream("GET", url, headers=headers) as response:
        if response.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE and have:
            # Nothing is left to send: `part` is complete, or wrong, and the checksum tells which.
            return
        if response.status_code not in (httpx.codes.OK, httpx.codes.PARTIAL_CONTENT):
            raise WeightsError(f"{url}: the server answered {response.status_code} {response.reason_phrase}")
        resumed = response.headers.get("Content-Range", "").startswith(f"bytes {have}-")
        if response.status_code == httpx.codes.PARTIAL_CONTENT and not resumed:
            part.unlink(missing_ok=True)
            raise WeightsError(f"{url}: the server sent another range than asked; run again to start over")
        done = have if resumed else 0
        length = response.headers.get("Content-Length")
        total = done + int(length) if length else None
        with part.open("ab" if resumed else "wb") as file:
            for chunk in response.iter_raw():
                file.write(chunk)
                done += len(chunk)
                report(done, total)
