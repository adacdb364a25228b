"""A phone behind the real adb client: measured, lost, full, refused; nothing of ours stays on it."""

import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest
from colour_models import colour_graph, write_colour_onnx
from standin_phone import RECORDINGS, Phone, Server, adb_environment, serving

from device_eval.latency import Measurement, Plan, Report
from device_eval.latency.adb import connect
from device_eval.latency.android import Android
from qmnv3.errors import DeviceError, ModelFileError
from qmnv3.export.tflite import write_tflite

needs_adb = pytest.mark.skipif(shutil.which("adb") is None, reason="no adb client here (apt install adb)")
SERIAL = "HT75N1A00001"
AARCH64, X86_64 = 183, 62
PLAN = Plan(("xnnpack",), runs=15, warmup=3)


@pytest.fixture
def phone(tmp_path: Path) -> Phone:
    made = Phone(tmp_path / "phone")
    for index in range(2):
        for kernel, us in (("xnnpack", 4000), ("builtin", 9000)):
            made.takes(f"model_{index}.tflite.{kernel}", us + 100 * index)
    return made


@pytest.fixture
def server(phone: Phone, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with serving({SERIAL: phone}) as running:
        monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", str(running.port))
        yield running


@pytest.fixture
def program(tmp_path: Path) -> Path:
    return _program(tmp_path / "benchmark model", AARCH64)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / 'it\'s $(reboot) & "done"; café.tflite'
    write_tflite(colour_graph(), path)
    return path


def _program(path: Path, machine: int) -> Path:
    path.write_bytes(b"\x7fELF\x02\x01\x01" + bytes(11) + machine.to_bytes(2, "little") + bytes(200_000))
    return path


def _measure(program: Path, *models: Path, plan: Plan = PLAN, **options: object) -> Measurement:
    return Android(connect(), program, **options).measure(models, plan, Report())  # type: ignore[arg-type]


@needs_adb
def test_models_take_turns_on_the_fastest_core(
    phone: Phone, server: Server, program: Path, model: Path
) -> None:
    plan = Plan(runs=15, warmup=3)
    found = _measure(program, model, model, plan=plan)
    runtimes = [(latency.runtime, latency.samples_us) for latency in found.latencies]
    assert runtimes == [
        ("phone xnnpack", (4000.0,) * 3),
        ("phone builtin", (9000.0,) * 3),
        ("phone xnnpack", (4100.0,) * 3),
        ("phone builtin", (9100.0,) * 3),
    ]
    calls = [line.split() for line in phone.log("calls")]
    # One first run each, then three rounds of five runs: A B C D A B C D ...
    shown = [(call[2].rpartition("/")[2], call[4], call[5]) for call in calls]
    turn = [
        (f"model_{index}.tflite", f"--use_xnnpack={flag}") for index in (0, 1) for flag in ("true", "false")
    ]
    assert (
        shown == [(*each, "--num_runs=1") for each in turn] + [(*each, "--num_runs=5") for each in turn] * 3
    )
    assert {call[0] for call in calls} == {"80"}  # core 7
    folder = calls[0][1].rpartition("/")[0]
    assert folder.startswith("/data/local/tmp/qmnv3-")
    flags = ["--num_threads=1", "--min_secs=0", "--warmup_runs=3", "--warmup_min_secs=0.5"]
    assert all(flag in call for flag in flags for call in calls)
    assert found.latencies[0].runs_per_sample == 5
    content = model.read_bytes()
    pushed = {"benchmark_model": program.read_bytes(), "model_0.tflite": content, "model_1.tflite": content}
    assert phone.pushed == pushed and phone.left() == []


@needs_adb
def test_what_is_known_of_the_phone(phone: Phone, server: Server, program: Path, model: Path) -> None:
    conditions = _measure(program, model).conditions
    state = {
        "thermal_status": 0,
        "cpu_celsius": 66.5,
        "battery_percent": 84,
        "battery_celsius": 32.6,
        "charging": True,
    }
    assert conditions["before"] == conditions["after"] == state
    assert (conditions["serial"], conditions["model"], conditions["android"]) == (SERIAL, "Pixel 2", "11")
    assert conditions["cores"] == [7] and conditions["max_khz"]["0"] == 1_900_800


@needs_adb
def test_what_tells_the_phone_and_its_program_from_others(
    phone: Phone, server: Server, program: Path
) -> None:
    identity = Android(connect(), program).identity()
    assert identity["name"] == f"Pixel 2 ({SERIAL})"
    assert (identity["serial"], identity["model"], identity["android"]) == (SERIAL, "Pixel 2", "11")
    assert identity["benchmark_model"] == sha256(program.read_bytes()).hexdigest()


@needs_adb
def test_several_threads_get_several_cores(phone: Phone, server: Server, program: Path, model: Path) -> None:
    _measure(program, model, plan=Plan(("xnnpack",), threads=2, runs=5))
    assert {line.split()[0] for line in phone.log("calls")} == {"c0"}  # cores 6 and 7


@needs_adb
def test_profile_comes_from_a_call_that_is_not_timed(
    phone: Phone, server: Server, program: Path, model: Path
) -> None:
    phone.answers("profile", (RECORDINGS / "tflite_2024_profile.txt").read_text())
    found = _measure(program, model, plan=Plan(("xnnpack",), runs=10, profile=True)).latencies[0]
    assert found.profile is not None and found.profile[1].kind == "Convolution (NHWC, QC8) IGEMM"
    assert found.memory_mb == 34.8281
    assert found.samples_us == (4000.0, 4000.0)
    assert ["profiling" in line for line in phone.log("calls")] == [True, False, False]


@needs_adb
def test_phones_before_android_7_tell_no_exit_code(
    phone: Phone, server: Server, program: Path, model: Path
) -> None:
    phone.shell_v2 = False
    assert len(_measure(program, model).latencies) == 1
    phone.answers("model_0.tflite.xnnpack", (RECORDINGS / "refusal.txt").read_text(), code=1)
    with pytest.raises(ModelFileError, match="builtin opcode 'MUL'"):
        _measure(program, model)


@needs_adb
def test_a_refused_model_is_reported_and_the_rest_measured(
    phone: Phone, server: Server, program: Path, model: Path
) -> None:
    phone.answers("model_0.tflite.xnnpack", (RECORDINGS / "refusal.txt").read_text(), code=1)
    found = _measure(program, model, model)
    assert len(found.latencies) == 1 and len(found.refusals) == 1
    assert "Didn't find op for builtin opcode 'MUL' version '5'" in found.refusals[0].reason
    assert str(model) in found.refusals[0].reason


@needs_adb
def test_litert_tool_has_no_builtin_kernels(phone: Phone, server: Server, program: Path, model: Path) -> None:
    text = "WARN: Unconsumed cmdline flags: --use_xnnpack=false\n"
    phone.answers("model_0.tflite.builtin", text + (RECORDINGS / "litert_2026.txt").read_text())
    found = _measure(program, model, plan=Plan(runs=5))
    assert [latency.runtime for latency in found.latencies] == ["phone xnnpack"]
    assert "--kernel xnnpack" in found.refusals[0].reason


@needs_adb
def test_throttling_is_waited_out(phone: Phone, server: Server, program: Path, model: Path) -> None:
    phone.thermal_status(2)
    waits: list[float] = []
    notes: list[str] = []

    def sleep(seconds: float) -> None:
        assert len(phone.log("calls")) == 1  # nothing is measured meanwhile
        waits.append(seconds)
        if len(waits) == 3:
            phone.thermal_status(0)

    android = Android(connect(), program, cool_down_s=60, sleep=sleep)
    found = android.measure([model], PLAN, Report(note=notes.append))
    assert found.conditions["waited_s"] == sum(waits) == 15
    assert found.latencies[0].disturbance is None
    assert notes == ["thermal status 2 (moderate); waiting up to 60 s for the phone to cool down"]


@needs_adb
def test_waiting_has_an_end_that_is_told(phone: Phone, server: Server, program: Path, model: Path) -> None:
    phone.frequency(7, "scaling_max_freq", 1_200_000)
    waits: list[float] = []
    found = _measure(program, model, cool_down_s=20, sleep=waits.append)
    assert sum(waits) == 20
    assert found.latencies[0].verdict == (
        "noisy: throttled: core 7 limited to 1200 of 2457 MHz, not over after 20 s"
    )


@needs_adb
def test_heat_of_the_last_round_is_told(phone: Phone, server: Server, program: Path, model: Path) -> None:
    def step(phase: str, done: int, total: int) -> None:
        if (phase, done) == ("measuring", total - 1):
            phone.thermal_status(1)

    found = Android(connect(), program).measure([model], PLAN, Report(step))
    assert found.latencies[0].verdict == "noisy: throttled: thermal status 1 (light) after the last run"


@needs_adb
@pytest.mark.parametrize("call", [1, 3])
def test_unplugged_meanwhile(phone: Phone, server: Server, program: Path, model: Path, call: int) -> None:
    phone.unplug_at_call = call
    with pytest.raises(
        DeviceError, match=rf"phone {SERIAL}: `taskset .*` failed \(the connection broke\); reconnect"
    ) as caught:
        _measure(program, model)
    assert f"/data/local/tmp/{phone.left()[0]} may be left on it" in str(caught.value)


@needs_adb
def test_a_full_phone(phone: Phone, server: Server, program: Path, model: Path) -> None:
    phone.full = True
    with pytest.raises(DeviceError, match=r"No space left on device\); free some room on it"):
        _measure(program, model)
    assert phone.left() == []
    phone.free_kib(3 * 1024)
    with pytest.raises(DeviceError, match=r"3 MiB free in /data/local/tmp, 16 MiB are needed"):
        _measure(program, model)


@needs_adb
@pytest.mark.parametrize(
    ("state", "advice"), [("unauthorized", "allow USB debugging"), ("offline", "reconnect its cable")]
)
def test_a_phone_that_changes_its_mind(
    phone: Phone, server: Server, program: Path, model: Path, state: str, advice: str
) -> None:
    adb = connect()
    phone.state = state
    with pytest.raises(DeviceError, match=f"device {state}.*{advice}"):
        Android(adb, program).measure([model], PLAN, Report())


@needs_adb
def test_programs_for_another_processor(
    phone: Phone, server: Server, program: Path, model: Path, tmp_path: Path
) -> None:
    other = _program(tmp_path / "linux_x86_64", X86_64)
    with pytest.raises(DeviceError, match=r"built for x86_64, but phone \w+ runs arm64-v8a, armeabi-v7a"):
        _measure(other, model)
    with pytest.raises(DeviceError, match="no ELF header"):
        _measure(model, model)
    with pytest.raises(DeviceError, match="No such file"):
        _measure(tmp_path / "gone", model)
    phone.answers("model_0.tflite.xnnpack", "sh: not executable: 64-bit ELF file\n", code=126)
    with pytest.raises(DeviceError, match=r"cannot start .*not executable: 64-bit ELF file"):
        _measure(program, model)
    assert phone.left() == []


def test_what_a_phone_cannot_run(tmp_path: Path, program: Path, model: Path) -> None:
    android = Android(None, program)  # type: ignore[arg-type]
    with pytest.raises(ModelFileError, match=r"runs \.tflite only"):
        android.measure([write_colour_onnx(tmp_path / "m.onnx")], PLAN, Report())
    with pytest.raises(DeviceError, match="--kernel reference"):
        android.measure([model], Plan(("reference",)), Report())


@needs_adb
def test_ctrl_c_leaves_nothing_on_the_phone(
    phone: Phone, server: Server, program: Path, model: Path, tmp_path: Path
) -> None:
    phone.hang_at_call = 2
    report = tmp_path / "r.json"
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "qmnv3", "bench", model, "--device", f"adb:{SERIAL}"),
            *("--benchmark-model", program, "--kernel", "xnnpack", "--json", report),
        ],
        env=adb_environment(server),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert phone.hanging.wait(30)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130 and errors == "error: interrupted\n"
    assert phone.left() == [] and not report.exists()
    token = phone.log("calls")[0].split()[1].rpartition("/")[0].rpartition("/")[2]
    # The pattern finds the program that still runs, not the line it stands in.
    assert phone.log("pkills") == [f"-f [/]data/local/tmp/{token}/benchmark_model"]
