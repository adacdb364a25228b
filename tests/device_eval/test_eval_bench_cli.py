import errno
import json
import signal
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import pytest
from colour_models import colour_folder, colour_graph, write_colour_onnx

from qmnv3.cli import main
from qmnv3.export.tflite import write_tflite
from qmnv3.runs import save_run

ENTRY = "from qmnv3.cli import main; main()"
HALVES = ("--mean", "0.5", "0.5", "0.5", "--std", "0.5", "0.5", "0.5")


@dataclass(frozen=True)
class Finished:
    returncode: int
    stdout: str
    stderr: str


def qmnv3(*arguments: object) -> Finished:
    """Run the command in this process: starting Python anew for each case takes seconds."""
    out, err, code = StringIO(), StringIO(), 0
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", ["qmnv3", *map(str, arguments)])
        try:
            main()
        except SystemExit as exit_:
            code = int(exit_.code or 0)
    return Finished(code, out.getvalue(), err.getvalue())


def assert_one_line_error(done: Finished, text: str, output: Path) -> None:
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
    assert text in done.stderr
    assert not output.exists() and not list(output.parent.glob(".*.tmp"))


@pytest.fixture
def models(tmp_path: Path) -> dict[str, Path]:
    write_tflite(colour_graph(), tmp_path / "m.tflite")
    save_run(tmp_path / "RUN", colour_graph(), colour_graph(), {}, {})
    onnx_path = write_colour_onnx(tmp_path / "m.onnx")
    return {"tflite": tmp_path / "m.tflite", "onnx": onnx_path, "run": tmp_path / "RUN"}


@pytest.mark.parametrize("kind", ["tflite", "run"])
def test_eval_of_own_files_needs_no_options(tmp_path: Path, models: dict[str, Path], kind: str) -> None:
    data, report = colour_folder(tmp_path / "set", per_class=4, wrong=1), tmp_path / "r.json"
    done = qmnv3("eval", models[kind], "--data", data, "--json", report)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert "91.7" in done.stdout  # 11 of 12
    value = json.loads(report.read_text())
    assert value["top1"]["successes"] == 11 and len(value["predictions"]) == 12
    assert value["models"][0]["preprocessing"]["mean"] == [0.5, 0.5, 0.5]
    assert value["environment"]["versions"]["numpy"] and value["environment"]["cpu"]


def test_eval_against_a_foreign_file(tmp_path: Path, models: dict[str, Path]) -> None:
    data = colour_folder(tmp_path / "set")
    done = qmnv3(
        "eval", models["tflite"], "--against", models["onnx"], "--data", data, "--images", 3, *HALVES
    )
    assert done.returncode == 0, done.stderr
    assert "3 images" in done.stdout and "same top-1 on 100.0" in done.stdout and "McNemar" in done.stdout


def test_eval_skips_bad_images_on_request(tmp_path: Path, models: dict[str, Path]) -> None:
    data, report = colour_folder(tmp_path / "set"), tmp_path / "r.json"
    (data / "c_blue" / "0.png").write_bytes(b"junk")
    failed = qmnv3("eval", models["tflite"], "--data", data, "--json", report)
    assert_one_line_error(failed, "c_blue/0.png: corrupt image", report)
    done = qmnv3("eval", models["tflite"], "--data", data, "--skip-bad", "--json", report)
    assert done.returncode == 0 and "skipped 1 unreadable images: 0.png" in done.stdout
    assert json.loads(report.read_text())["skipped"] == ["c_blue/0.png"]


def test_eval_of_bad_input(tmp_path: Path, models: dict[str, Path]) -> None:
    data, report = colour_folder(tmp_path / "set"), tmp_path / "out" / "r.json"
    flat, junk = data / "a_red", tmp_path / "junk.tflite"
    junk.write_bytes(b"junk")
    (tmp_path / "empty").mkdir()
    for model, folder, extra, text in (
        (models["tflite"], tmp_path / "gone", (), "no such folder"),
        (models["tflite"], tmp_path / "empty", (), "no class sub-folders"),
        (models["tflite"], flat, (), "no class sub-folders"),
        (junk, data, (), "junk.tflite: not a TFLite model"),
        (tmp_path / "gone.onnx", data, (), "No such file"),
        (models["onnx"], data, (), "give --mean R G B"),
        (models["tflite"], data, HALVES, "carries its own preprocessing"),
    ):
        assert_one_line_error(qmnv3("eval", model, "--data", folder, "--json", report, *extra), text, report)


@pytest.mark.parametrize("command", ["eval", "bench"])
def test_full_disk(
    tmp_path: Path, models: dict[str, Path], command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, *_: object, **__: object) -> int:
        raise OSError(errno.ENOSPC, "full", str(path))

    monkeypatch.setattr(Path, "write_text", full)
    data = ("--data", colour_folder(tmp_path / "set")) if command == "eval" else ("--runs", 1)
    report = tmp_path / "r.json"
    assert_one_line_error(qmnv3(command, models["tflite"], *data, "--json", report), "No space left", report)


def test_ctrl_c_leaves_nothing(tmp_path: Path, models: dict[str, Path]) -> None:
    report = tmp_path / "b.json"
    arguments = ["bench", str(models["tflite"]), "--runs", "1000000000", "--json", str(report)]
    # Measuring begins with the first invoke; a signal before that would only test Python's start-up.
    announce = (
        "from device_eval.runners.litert import LitertRunner as R\n"
        "stage = R.stage\n"
        "def announced(self, images): R.stage = stage; print('ready', flush=True); stage(self, images)\n"
        "R.stage = announced\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", announce + ENTRY, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130 and errors == "error: interrupted\n"
    assert not report.exists() and not list(tmp_path.glob(".*.tmp"))


def test_bench_prints_and_keeps_samples(tmp_path: Path, models: dict[str, Path]) -> None:
    report = tmp_path / "b.json"
    done = qmnv3("bench", models["tflite"], models["onnx"], "--runs", 3, "--warmup", 1, "--json", report)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert "partitions" in done.stdout and "CONV_2D" in done.stdout
    assert "still float" not in done.stdout  # news only for a quantized file
    value = json.loads(report.read_text())
    assert [len(entry["latency_us"]) for entry in value["latencies"]] == [3, 3, 3]
    one_kernel = qmnv3("bench", models["tflite"], "--kernel", "reference", "--runs", 1)
    assert "LiteRT reference" in one_kernel.stdout and "xnnpack" not in one_kernel.stdout


def test_bench_of_bad_input(tmp_path: Path, models: dict[str, Path]) -> None:
    report = tmp_path / "b.json"
    assert_one_line_error(qmnv3("bench", models["run"], "--json", report), "qmnv3 export", report)
    assert_one_line_error(qmnv3("bench", tmp_path / "x.onnx", "--json", report), "No such file", report)
