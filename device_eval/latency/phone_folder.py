"""A folder of our own on the phone: filled, used and removed, whatever happens meanwhile."""

import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from device_eval.latency.adb import Adb
from device_eval.latency.benchmark_output import complaint
from device_eval.latency.phone_state import parse_free_bytes
from qmnv3.errors import DeviceError

ROOM = "/data/local/tmp"
PROGRAM = "benchmark_model"
_SPARE_BYTES = 16 << 20


@contextmanager
def phone_folder(adb: Adb, program: Path, models: Sequence[Path]) -> Iterator[tuple[str, list[str]]]:
    """Push `program` and `models`; yield the folder and the models' paths in it, in order.

    Afterwards, or on any error and Ctrl-C, what still runs there is stopped and the folder removed.
    DeviceError when there is no room or the phone is lost; it then names the folder that may be left.
    """
    _check_room(adb, sum(path.stat().st_size for path in (*models, program)))
    folder = f"{ROOM}/qmnv3-{secrets.token_hex(4)}"
    # Numbers, not the models' own names: nothing for the phone's shell to trip over.
    remotes = [f"{folder}/model_{index}.tflite" for index in range(len(models))]
    try:
        _do(adb, f"mkdir {folder}")
        adb.push(program, f"{folder}/{PROGRAM}")
        _do(adb, f"chmod 755 {folder}/{PROGRAM}")
        for path, remote in zip(models, remotes, strict=True):
            adb.push(path, remote)
        yield folder, remotes
    except DeviceError as error:
        if not _remove(adb, folder):
            raise DeviceError(f"{error}; {folder} may be left on it") from error
        raise
    except BaseException:
        _remove(adb, folder)
        raise
    _remove(adb, folder)


def _check_room(adb: Adb, size_bytes: int) -> None:
    free, needed = parse_free_bytes(adb.shell(f"df -k {ROOM}").output), size_bytes + _SPARE_BYTES
    if free is not None and free < needed:
        raise DeviceError(
            f"phone {adb.serial} has {free >> 20} MiB free in {ROOM}, {needed >> 20} MiB are needed; "
            "free some room on it"
        )


def _do(adb: Adb, command: str) -> None:
    answer = adb.shell(command)
    if answer.code:
        raise DeviceError(f"phone {adb.serial}: `{command}` failed ({complaint(answer.output)})")


def _remove(adb: Adb, folder: str) -> bool:
    """Stop what may still run and remove the folder; False when the phone cannot be reached."""
    # Brackets, or pkill would match the very line it stands in.
    pattern = f"[{folder[0]}]{folder[1:]}/{PROGRAM}"
    with suppress(DeviceError):
        adb.shell(f"pkill -f '{pattern}'; rm -rf {folder}")
        return True
    return False
