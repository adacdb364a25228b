"""`qmnv3 check` and `qmnv3 ablate` on a phone: Debian's adb client, and a stand-in for its server."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from cli_command import Cli, assert_refused
from latency.standin_phone import Phone, serving

pytestmark = pytest.mark.skipif(shutil.which("adb") is None, reason="no adb client here (apt install adb)")

SERIAL = "HT75N1A00001"
TIMES_US = (4000, 8000, 6000, 5000)
"""Of the files of one measurement, in the order in which they are pushed."""


@pytest.fixture
def phone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Phone]:
    made = Phone(tmp_path / "phone")
    for index, us in enumerate(TIMES_US):
        for kernel in ("xnnpack", "builtin"):
            made.takes(f"model_{index}.tflite.{kernel}", us)
    with serving({SERIAL: made}) as server:
        monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", str(server.port))
        yield made


@pytest.fixture
def on_phone(tmp_path: Path) -> tuple[object, ...]:
    """Options that measure there."""
    program = tmp_path / "benchmark_model"
    program.write_bytes(b"\x7fELF\x02\x01\x01" + bytes(11) + b"\xb7\x00" + bytes(99))
    return ("--device", f"adb:{SERIAL}", "--benchmark-model", program, "--runs", 50)


def test_check_compares_the_phones_latencies_with_the_published_ones(
    cli: Cli, run: Path, phone: Phone, on_phone: tuple[object, ...], tmp_path: Path
) -> None:
    found = tmp_path / "check.json"
    done = cli("check", run, "--network", "small", *on_phone, "--json", found)
    assert done.code == 1, done.stderr  # 8 bits are slower here
    value = json.loads(found.read_text())
    assert value["latency"]["device"]["model"] == "Pixel 2"
    assert [row["estimate"] for row in value["rows"]] == [TIMES_US[1] / TIMES_US[0]] * len(value["rows"])
    assert {row["judgement"]["verdict"] for row in value["rows"]} == {"worse"}
    assert "4.00 ms in float, 8.00 ms in 8 bits" in done.stdout
    assert phone.left() == []


def test_check_without_the_phone_is_refused(
    cli: Cli, run: Path, phone: Phone, on_phone: tuple[object, ...], tmp_path: Path
) -> None:
    phone.unplug_at_call = 1
    found = tmp_path / "check.json"
    assert_refused(cli("check", run, "--network", "small", *on_phone, "--json", found), SERIAL)
    assert not found.exists()


def test_ablate_times_every_cell_on_the_phone_once(
    cli: Cli, phone: Phone, on_phone: tuple[object, ...], tmp_path: Path
) -> None:
    recipe, out = tmp_path / "tiny.yaml", tmp_path / "OUT"
    relu = {"name": "relu", "model": "small", "options": {"nonlinearity": "relu"}}
    sizes = [{"widths": [0.25], "resolutions": [32]}]
    content = {"variants": [relu, {"name": "V3", "model": "small"}], "sizes": sizes}
    recipe.write_text(yaml.safe_dump(content | {"lowerings": ["op", "add-mul"]}))
    command = ("ablate", recipe, "--axes", "size,latency", *on_phone, "--out", out)
    done = cli(*command)
    assert done.code == 0, done.stderr
    written = json.loads((out / "ablation.json").read_text())
    assert written["device"]["model"] == "Pixel 2"
    ratios = [
        {e["form"]: e["ratio"] for e in cell["latency"]["latencies"] if "xnnpack" in e["runtime"]}
        for cell in written["cells"]
    ]
    # V3's files are pushed after relu's int8 file, to which ratios are.
    assert ratios == [
        {"float32": 0.5, "int8": 1.0},
        {"float32": 2.0, "int8 op": 1.5, "int8 add-mul": 1.25},
    ]
    assert "Pixel 2" in (out / "ablation.md").read_text() and phone.left() == []
    calls = len(phone.log("calls"))
    assert cli(*command).code == 0
    assert len(phone.log("calls")) == calls


def test_a_phone_that_is_unplugged_fails_the_cell_and_leaves_the_others(
    cli: Cli, phone: Phone, on_phone: tuple[object, ...], tmp_path: Path
) -> None:
    recipe, out = tmp_path / "tiny.yaml", tmp_path / "OUT"
    sizes = [{"widths": [0.25], "resolutions": [32]}]
    recipe.write_text(yaml.safe_dump({"variants": [{"name": "V3", "model": "small"}], "sizes": sizes}))
    phone.unplug_at_call = 3
    done = cli("ablate", recipe, "--axes", "size,latency", *on_phone, "--out", out)
    assert done.code == 1 and "Traceback" not in done.stderr
    written = json.loads((out / "ablation.json").read_text())
    assert list(written["failures"]) == ["V3-0.25-32, latency"]
    assert SERIAL in written["failures"]["V3-0.25-32, latency"]
