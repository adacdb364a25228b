"""Writing that never leaves half a file: write beside the target, then rename. Reading that ends."""

import errno
import glob
import hashlib
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

MAX_MODEL_BYTES = 2**29


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path in `path`'s folder; on success it becomes `path`, on any error it is removed.

    A link is followed. A device or pipe cannot be replaced: /dev/stdout is yielded itself. An OSError names
    `path`, not the temporary.
    """
    if path.is_char_device() or path.is_fifo():
        yield path
        return
    target = path.resolve()
    with _naming(path), _folder(target.parent):
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent)
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            # mkstemp creates 0600; a result should be as readable as any other new file.
            umask = os.umask(0)
            os.umask(umask)
            temporary.chmod(0o666 & ~umask)
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)


def check_model_file(path: Path) -> None:
    """Raise ValueError unless `path` is a regular file of at most MAX_MODEL_BYTES; OSError if missing."""
    # Before opening it: a pipe would wait for its writer.
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("neither a file nor a folder")
    if status.st_size > MAX_MODEL_BYTES:
        raise ValueError(f"{status.st_size >> 20} MiB, at most {MAX_MODEL_BYTES >> 20} MiB are read")


def file_sha256(path: Path) -> str:
    """Digest of a file's content, 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def remove_leftovers(path: Path) -> None:
    """Remove what an `atomic_file(path)` that was killed left; nobody else may be writing `path`."""
    for temporary in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_dir(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; on success it replaces `path`, on any error it is removed.

    A link is followed. An OSError names `path`, not what is inside the temporary.
    """
    target = path.resolve()
    with _naming(path), _folder(target.parent):
        temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent))
        try:
            yield temporary
            temporary.chmod(0o755)
            _replace_folder(temporary, target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def atomic_files(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder; on success the files in it move to `folder`, on any error all are removed.

    An OSError names `folder`.
    """
    with _naming(folder), _folder(folder):
        temporary = Path(tempfile.mkdtemp(prefix=".", suffix=".tmp", dir=folder))
        try:
            yield temporary
            for file in temporary.iterdir():
                file.replace(folder / file.name)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically. NaN and infinity are refused: they are not JSON."""
    text = json.dumps(value, indent=2, allow_nan=False) + "\n"
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_safetensors(path: Path, content: bytes) -> None:
    """Write what safetensors' `save` gave, atomically, its metadata sorted: equal contents make equal files.

    Not safetensors' `save_file`: on a full disk it raises no OSError, and it leaves a temporary of its own.
    """
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    if "__metadata__" in header:
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with atomic_file(path) as temporary:
        temporary.write_bytes(len(text).to_bytes(8, "little") + text + content[start:])


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    try:
        yield
    except NotADirectoryError:
        raise
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, os.strerror(error.errno), str(path)) from error


@contextmanager
def _folder(path: Path) -> Iterator[None]:
    """Make `path` and what is missing above it; on any error remove them again."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        blocking = next(folder for folder in (path, *path.parents) if folder.exists())
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(blocking)) from error
    try:
        yield
    except BaseException:
        for folder in missing:
            # Another program may have put something in it meanwhile.
            with suppress(OSError):
                folder.rmdir()
        raise


def _replace_folder(new: Path, target: Path) -> None:
    if not target.exists():
        new.replace(target)
        return
    retired = new.with_suffix(".old")
    target.replace(retired)
    try:
        new.replace(target)
    except BaseException:
        retired.replace(target)
        raise
    shutil.rmtree(retired)
