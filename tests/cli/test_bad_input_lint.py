"""Files that are no models through `qmnv3 lint`, and its exit codes."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import flatbuffers
import onnx
import pytest
from ai_edge_litert import schema_py_generated as schema
from cli_command import Cli, assert_refused, untouched
from onnx import helper

DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "junk": lambda content: b"junk",
    "zeros": lambda content: bytes(4096),
    "half": lambda content: content[: len(content) // 2],
    "head": lambda content: content[:64],
    "wrapped": lambda content: b"\0" * 8 + content,
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("suffix", ["tflite", "onnx"])
def test_damaged_file(cli: Cli, tmp_path: Path, exported: Path, suffix: str, damage: str) -> None:
    path = tmp_path / f"model.{suffix}"
    path.write_bytes(DAMAGE[damage]((exported / f"model_int8.{suffix}").read_bytes()))
    with untouched(tmp_path):
        done = cli("lint", path, "--json", tmp_path / "out.json")
    assert_refused(done, f"{path}: ")
    assert done.stdout == ""


@pytest.mark.parametrize("suffix", ["tflite", "onnx"])
def test_one_format_under_the_other_name(cli: Cli, tmp_path: Path, exported: Path, suffix: str) -> None:
    other = {"tflite": "onnx", "onnx": "tflite"}[suffix]
    path = tmp_path / f"model.{suffix}"
    path.write_bytes((exported / f"model_int8.{other}").read_bytes())
    assert_refused(cli("lint", path), f"{path}: not a")


@pytest.mark.parametrize("command", ["lint", "bench", "eval"])
def test_a_file_that_litert_crashes_on(cli: Cli, tmp_path: Path, photos: Path, command: str) -> None:
    path = tmp_path / "m.tflite"
    builder = flatbuffers.Builder()
    builder.Finish(schema.ModelT(version=3, buffers=[schema.BufferT()]).Pack(builder), b"TFL3")
    path.write_bytes(builder.Output())
    options = ("--data", photos) if command == "eval" else ()
    with untouched(tmp_path):
        done = cli(command, path, *options)
    assert_refused(done, f"{path}: ", "crashes on it (Segmentation fault)")
    assert len(done.stderr.splitlines()) == 1


def test_path_that_is_no_model(cli: Cli, tmp_path: Path) -> None:
    assert_refused(cli("lint", tmp_path), f"{tmp_path}: not a RUN folder", "qmnv3 ptq")
    assert_refused(cli("lint", tmp_path / "gone.tflite"), "gone.tflite: No such file")
    (tmp_path / "model.pb").write_bytes(b"x")
    assert_refused(cli("lint", tmp_path / "model.pb"), "model.pb: unknown model format")
    (tmp_path / "no.tflite").mkdir()
    assert_refused(cli("lint", tmp_path / "no.tflite"), "not a RUN folder")


def test_damaged_run(cli: Cli, tmp_path: Path, run: Path) -> None:
    copy = tmp_path / "RUN"
    copy.mkdir()
    for file in run.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    (copy / "int8.safetensors").write_bytes(b"")
    assert_refused(cli("lint", copy), "int8: not a readable QuantGraph")


def test_onnx_without_operations(cli: Cli, tmp_path: Path) -> None:
    onnx.save(helper.make_model(helper.make_graph([], "none", [], [])), tmp_path / "m.onnx")
    assert_refused(cli("lint", tmp_path / "m.onnx"), "it holds no operations")


def test_a_bad_file_among_good_ones(cli: Cli, tmp_path: Path, exported: Path) -> None:
    (tmp_path / "bad.tflite").write_bytes(b"junk")
    done = cli("lint", exported / "model_int8.tflite", tmp_path / "bad.tflite")
    assert_refused(done, "bad.tflite")


def test_clean_models_exit_with_0(cli: Cli, exported: Path, run: Path) -> None:
    done = cli("lint", run, exported / "model_int8.tflite", exported / "model_int8.onnx")
    assert done.code == 0 and done.stderr == "", done
    verdicts = [line for line in done.stdout.splitlines() if line.startswith("ok ")]
    assert len(verdicts) == 3 and all(": 0 errors, " in line for line in verdicts)


def test_a_run_tells_what_its_calibration_saw(cli: Cli, tmp_path: Path, run: Path) -> None:
    copy = tmp_path / "RUN"
    shutil.copytree(run, copy)
    report = json.loads((copy / "calibration.json").read_text())
    report["coverage"] = ["calibration images: 9 of 9 show one plain colour; remove them"]
    report["floored_scales"] = [{"site": "stem.0", "scale": 0.5, "observed_low": 0.0, "observed_high": 0.0}]
    report["layers"][1] |= {"clipped_percent": 7.0, "observed_high": 100.0}
    gate = report["layers"][2]  # as a hard-sigmoid's 1.0, which is 255/256 in integers
    low, high, scale = gate["low"], gate["high"], gate["scale"]
    gate |= {"clipped_percent": 90.0, "observed_low": low, "observed_high": high + 0.9 * scale}
    (copy / "calibration.json").write_text(json.dumps(report))
    shown = cli("lint", copy)
    assert shown.code == 0 and cli("lint", copy, "--strict").code == 1
    assert "warning calibration-images" in shown.stdout and "9 of 9 show one plain colour" in shown.stdout
    assert "note floored-scale" in shown.stdout and "its scale was raised to 0.5" in shown.stdout
    assert "warning clipped-values" in shown.stdout and "7 % of its values" in shown.stdout
    assert "90 %" not in shown.stdout
    report["layers"] = [1]
    (copy / "calibration.json").write_text(json.dumps(report))
    assert_refused(cli("lint", copy), "its report is damaged")


def test_errors_exit_with_1_and_json_has_everything(cli: Cli, tmp_path: Path, run: Path) -> None:
    out = tmp_path / "float"
    assert cli("export", "--float32", "--checkpoint", run, "--out", out).code == 0
    done = cli("lint", out / "model_float32.tflite", run, "--json", tmp_path / "lint.json")
    assert done.code == 1
    verdicts = done.stdout.splitlines()[-2:]
    assert verdicts[0].startswith("FAIL model_float32.tflite: 1 error, ") and verdicts[1].startswith(
        "ok RUN: "
    )
    first, second = json.loads((tmp_path / "lint.json").read_text())["models"]
    assert first["failed"] and not second["failed"]
    assert first["findings"][0]["rule"] == "float-island" and first["counts"]["error"] == 1
    assert set(first["findings"][0]) == {"rule", "severity", "effect", "where", "what", "why", "fix"}


def test_strict_fails_on_warnings(cli: Cli, tmp_path: Path, run: Path) -> None:
    out = tmp_path / "builtin"
    given = ("--checkpoint", run, "--out", out, "--target", "tflite-builtin")
    assert cli("export", "--int8", *given).code == 0
    path = out / "model_int8.tflite"
    assert cli("lint", path).code == 0
    strict = cli("lint", path, "--strict")
    assert strict.code == 1 and "outside XNNPACK: XNNPACK has no 8-bit HARD_SWISH" in strict.stdout


def test_examples_limits_what_is_shown_not_what_is_counted(cli: Cli, data_pack: Path) -> None:
    path = data_pack / "peers" / "v3_small_ptq_int8.tflite"
    few, many = (cli("lint", path, "--examples", n).stdout for n in (1, 100))
    assert "warning h-swish-range (16)" in few and "and 15 more" in few
    assert "more (--examples" not in many
    assert few.splitlines()[-1] == many.splitlines()[-1]
    assert cli("lint", path, "--examples", 0).code == 2


def test_unwritable_json(cli: Cli, tmp_path: Path, exported: Path) -> None:
    done = cli("lint", exported / "model_int8.tflite", "--json", tmp_path)
    assert_refused(done, str(tmp_path))
