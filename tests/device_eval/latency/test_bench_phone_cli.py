"""`qmnv3 bench --device adb` from the command line: table, JSON, downloads, and options that cannot be."""

import hashlib
import http.server
import json
import shutil
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from colour_models import colour_graph
from standin_phone import RECORDINGS, Phone, serving

from qmnv3.cli import main
from qmnv3.export.tflite import write_tflite

needs_adb = pytest.mark.skipif(shutil.which("adb") is None, reason="no adb client here (apt install adb)")
SERIAL = "HT75N1A00001"
PROGRAM = b"\x7fELF\x02\x01\x01" + bytes(11) + b"\xb7\x00" + bytes(99)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    write_tflite(colour_graph(), tmp_path / "m.tflite")
    return tmp_path / "m.tflite"


@pytest.fixture
def phone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Phone]:
    made = Phone(tmp_path / "phone")
    made.takes("model_0.tflite.xnnpack", 4000)
    made.answers("profile", (RECORDINGS / "tflite_2024_profile.txt").read_text())
    with serving({SERIAL: made}) as server:
        monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", str(server.port))
        yield made


@pytest.fixture
def downloads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Address of a folder with benchmark_model in it."""
    (tmp_path / "served").mkdir()
    (tmp_path / "served/benchmark_model").write_bytes(PROGRAM)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("QMNV3_CACHE", str(tmp_path / "cache"))
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path / "served"))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/benchmark_model"
    server.shutdown()
    server.server_close()
    thread.join()


def _bench(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["qmnv3", "bench", *map(str, arguments)])
    try:
        main()
    except SystemExit as exit_:
        return int(exit_.code or 0)
    return 0


@needs_adb
def test_from_download_to_table(
    model: Path,
    phone: Phone,
    downloads: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    report = tmp_path / "r.json"
    address = f"{downloads}#sha256={hashlib.sha256(PROGRAM).hexdigest()}"
    options = ("--device", f"adb:{SERIAL}", "--benchmark-model", address, "--kernel", "xnnpack", "--runs", 50)
    assert _bench(monkeypatch, model, *options, "--profile", "--json", report) == 0
    shown = capfd.readouterr().out
    assert "latency on Pixel 2 (Android 11, core 7), 1 thread(s), batch 1" in shown
    assert "phone xnnpack" in shown and "4.00" in shown and "Convolution (NHWC, QC8) DWConv" in shown
    value = json.loads(report.read_text())
    assert value["device"]["serial"] == SERIAL and value["command"] == "bench"
    (latency,) = value["latencies"]
    assert latency["latency_us"] == [4000.0] * 10 and latency["runs_per_sample"] == 5
    assert latency["verdict"] == "steady" and latency["memory_mb"] == 34.8281
    assert phone.left() == []


def test_a_download_that_is_not_what_was_promised(
    model: Path,
    downloads: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    address = f"{downloads}#sha256={'0' * 64}"
    assert _bench(monkeypatch, model, "--device", "adb", "--benchmark-model", address) == 2
    assert "SHA-256" in capfd.readouterr().err
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (("--device", "usb"), "--device usb: unknown; give host, adb or adb:SERIAL"),
        (("--device", "adb:"), "--device adb:: unknown; give host, adb or adb:SERIAL"),
        (("--device", "adb"), "--device adb needs TFLite's benchmark_model: give --benchmark-model FILE"),
        (("--benchmark-model", "b"), "--benchmark-model b: only for phones; add --device adb"),
        (
            ("--device", "adb", "--benchmark-model", "https://example.org/b"),
            "a download needs a checksum; give URL#sha256=",
        ),
        (("--device", "adb", "--benchmark-model", "gone"), "gone: No such file or directory; give the path"),
    ],
)
def test_options_that_cannot_be(
    options: tuple[str, ...],
    text: str,
    model: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert _bench(monkeypatch, model, *options) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("error: ") and text in line


@needs_adb
def test_no_phone(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    program = tmp_path / "benchmark_model"
    program.write_bytes(PROGRAM)
    with serving({}) as server:
        monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", str(server.port))
        assert _bench(monkeypatch, model, "--device", "adb", "--benchmark-model", program) == 2
    assert capfd.readouterr().err.startswith("error: no phone is connected; connect one")
