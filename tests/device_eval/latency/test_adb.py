"""Which phone the real adb client finds, and what is said when there is none to use."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from standin_phone import Phone, Server, serving

from device_eval.latency.adb import connect
from qmnv3.errors import DeviceError

needs_adb = pytest.mark.skipif(shutil.which("adb") is None, reason="no adb client here (apt install adb)")
SERIAL = "HT75N1A00001"


@pytest.fixture
def phone(tmp_path: Path) -> Phone:
    return Phone(tmp_path / "phone")


@pytest.fixture
def server(phone: Phone, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with serving({SERIAL: phone}) as running:
        monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", str(running.port))
        yield running


@needs_adb
@pytest.mark.parametrize(
    ("state", "advice"),
    [
        ("unauthorized", "allow USB debugging"),
        ("offline", "reconnect its cable"),
        ("recovery", "start Android"),
    ],
)
def test_phones_that_cannot_be_used(phone: Phone, server: Server, state: str, advice: str) -> None:
    phone.state = state
    with pytest.raises(DeviceError, match=f"phone {SERIAL} is {state}; .*{advice}"):
        connect()


@needs_adb
def test_which_phone(phone: Phone, server: Server, tmp_path: Path) -> None:
    server.phones["emulator-5554"] = Phone(tmp_path / "other", state="offline")
    listed = rf"{SERIAL} \(device\), emulator-5554 \(offline\)"
    with pytest.raises(DeviceError, match=f"2 phones are connected: {listed}; name one"):
        connect()
    assert connect(SERIAL).serial == SERIAL
    with pytest.raises(DeviceError, match=f"no phone 'X' is connected; connected: {listed}"):
        connect("X")
    server.phones.clear()
    with pytest.raises(DeviceError, match="no phone is connected; connect one with USB debugging on"):
        connect()


def test_no_adb_client(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DeviceError, match="adb is not on PATH; install"):
        connect()


@needs_adb
def test_a_phone_that_gives_no_answer(phone: Phone, server: Server) -> None:
    phone.hang_at_call = 1
    with pytest.raises(
        DeviceError, match=f"phone {SERIAL} gave no answer to `taskset 1 x` in 0 s; unlock it"
    ):
        connect().shell("taskset 1 x", timeout_s=0.2)
