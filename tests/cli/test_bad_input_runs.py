"""Damaged RUN folders and model files, through export, inspect, eval and bench."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cli_command import Cli, assert_refused, spawn, untouched

Json = dict[str, Any]
GRAPH_FILES = ("int8.json", "int8.safetensors", "float32.json", "float32.safetensors")
REPORT_FILES = ("calibration.json", "run.json")
DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "truncated": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
    "binary": lambda content: b"\xff\xfe\x00",
    "list": lambda content: b"[1]",
    "object": lambda content: b"{}",
}


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    return shutil.copytree(run, tmp_path / "RUN")


def export(cli: Cli, run: Path, *options: object) -> object:
    """Export both precisions; nothing may be left."""
    with untouched(run.parent):
        return cli(
            "export", "--int8", "--float32", "--checkpoint", run, "--out", run.parent / "out", *options
        )


def edit(path: Path, change: Callable[[Json], object]) -> None:
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", GRAPH_FILES)
def test_damaged_graph(cli: Cli, copy: Path, photos: Path, name: str, damage: str) -> None:
    (copy / name).write_bytes(DAMAGE[damage]((copy / name).read_bytes()))
    text = f"{copy / name.partition('.')[0]}: not a readable QuantGraph"
    assert_refused(export(cli, copy), text)
    if name.startswith("int8"):
        assert_refused(cli("eval", copy, "--data", photos), text)


@pytest.mark.parametrize("name", GRAPH_FILES)
def test_missing_graph(cli: Cli, copy: Path, name: str) -> None:
    (copy / name).unlink()
    assert_refused(export(cli, copy), name, "No such file")


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", REPORT_FILES)
def test_damaged_report(cli: Cli, copy: Path, name: str, damage: str) -> None:
    (copy / name).write_bytes(DAMAGE[damage]((copy / name).read_bytes()))
    done = cli("inspect", copy, "--json", copy.parent / "table.json")
    assert_refused(done, str(copy), "run `qmnv3 ptq` again")
    assert done.stdout == "" and not (copy.parent / "table.json").exists()


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda graph: graph.update(format_version=99), "format_version 99, this qmnv3 reads 1"),
        (lambda graph: graph.update(tensors=[]), "'image' does not exist"),
        (lambda graph: graph.update(ops=[1]), "int8"),
        (lambda graph: graph.update(outputs=[]), "1 inputs, 0 outputs"),
        (lambda graph: graph["ops"][0].update(kind="Magic"), "Magic"),
        (lambda graph: graph["ops"][0].update(stride=[0, 0]), "int8"),
        (lambda graph: graph["ops"][0].update(activation="gelu"), "activation 'gelu' is not one of"),
        (lambda graph: graph["ops"][0].update(inputs=["a"]), "'a' does not exist"),
        (lambda graph: graph["ops"][0].update(extra=1), "unexpected keyword argument 'extra'"),
        (lambda graph: graph["tensors"][0].update(shape=[1, 2]), "do not fit together"),
        (lambda graph: graph["tensors"][0].update(dtype="int4"), "int4"),
        (lambda graph: graph["tensors"][0]["qparams"].update(scale=-1.0), "must be finite and > 0"),
        (lambda graph: graph["tensors"][0]["qparams"].update(zero_point=999), "must lie in"),
        (lambda graph: graph["tensors"][1]["qparams"].update(axis=9), "int8"),
        (
            lambda graph: graph["metadata"].update(preprocessing={"crop": 1}),
            "unknown preprocessing key 'crop'",
        ),
        (lambda graph: graph["metadata"]["preprocessing"].update(std=[1.0]), "must have three values"),
        (lambda graph: graph["metadata"]["preprocessing"].update(interpolation="area"), "'area'"),
        (lambda graph: graph.pop("metadata"), "'metadata'"),
    ],
)
def test_edited_graph(
    cli: Cli, copy: Path, photos: Path, change: Callable[[Json], object], text: str
) -> None:
    edit(copy / "int8.json", change)
    assert_refused(export(cli, copy), f"{copy / 'int8'}: ", text)
    assert_refused(cli("eval", copy, "--data", photos), text)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("calibration.json", lambda report: report["layers"].__setitem__(0, {})),
        ("calibration.json", lambda report: report["layers"][0].update(scale="large")),
        ("calibration.json", lambda report: report.update(floored_scales=3)),
        ("run.json", lambda record: record.update(warnings=None)),
    ],
)
def test_edited_report(cli: Cli, copy: Path, name: str, change: Callable[[Json], object]) -> None:
    edit(copy / name, change)
    assert_refused(cli("inspect", copy), f"{copy}: its report is damaged")


@pytest.mark.parametrize("kind", ["missing", "folder", "file"])
def test_folder_that_is_no_run(cli: Cli, tmp_path: Path, photos: Path, kind: str) -> None:
    path = {"missing": tmp_path / "gone", "folder": photos, "file": photos / "cat" / "0.png"}[kind]
    text = f"{path}: not a RUN folder (no run.json); make one with `qmnv3 ptq`"
    with untouched(tmp_path):
        assert_refused(cli("export", "--int8", "--checkpoint", path, "--out", tmp_path / "out"), text)
    assert_refused(cli("inspect", path), text)
    if kind == "folder":
        assert_refused(cli("eval", path, "--data", photos), text)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (("--format", "tflite,pb"), "format 'tflite,pb': choose from tflite, onnx"),
        (("--format", ","), "choose from tflite, onnx"),
        (("--target", "ort"), "target 'ort' is ONNX Runtime; add --format onnx"),
        (("--target", "ort", "--format", "tflite"), "target 'ort' is ONNX Runtime"),
        (("--target", "xnnpack", "--format", "onnx"), "target 'xnnpack' runs TFLite files"),
        (("--labels", "gone.txt"), "gone.txt: labels cannot be read"),
        (("--labels", "PHOTO"), "labels cannot be read"),
        (("--labels", "ONE"), "1 labels for 2 outputs"),
    ],
)
def test_export_options(cli: Cli, copy: Path, photos: Path, options: tuple[str, ...], text: str) -> None:
    one = copy.parent / "one.txt"
    one.write_text("cat\n")
    files = {"PHOTO": photos / "cat" / "0.png", "ONE": one}
    assert_refused(export(cli, copy, *(files.get(option, option) for option in options)), text)


@pytest.mark.parametrize("suffix", ["tflite", "onnx"])
@pytest.mark.parametrize("damage", ["empty", "binary", "garbage", "truncated", "last byte", "other format"])
def test_damaged_model_file(
    cli: Cli, tmp_path: Path, photos: Path, exported: Path, suffix: str, damage: str
) -> None:
    path, good = tmp_path / f"model.{suffix}", exported / f"model_int8.{suffix}"
    other = exported / f"model_int8.{'onnx' if suffix == 'tflite' else 'tflite'}"
    content = good.read_bytes()
    path.write_bytes(
        {
            "empty": b"",
            "binary": b"\xff\xfe\x00",
            "garbage": b"not a model " * 99,
            "truncated": content[: len(content) // 2],
            "last byte": content[:-1],
            "other format": other.read_bytes(),
        }[damage]
    )
    with untouched(tmp_path):
        for command in (("eval", path, "--data", photos), ("bench", path, "--runs", 1)):
            done = cli(*command, "--json", tmp_path / "r.json")
            assert_refused(done, f"{path}: ", "empty file" if damage == "empty" else "")
        compared = cli("eval", good, "--against", path, "--data", photos, "--json", tmp_path / "r.json")
        assert_refused(compared, str(path))


@pytest.mark.parametrize("name", ["model.pb", "model", "model.tflite.gz"])
def test_unknown_model_format(cli: Cli, tmp_path: Path, photos: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"model")
    text = f"{tmp_path / name}: unknown model format; give a .tflite, an .onnx or a RUN folder"
    assert_refused(cli("eval", tmp_path / name, "--data", photos), text)
    assert_refused(cli("bench", tmp_path / name), text)


def test_missing_model_file(cli: Cli, tmp_path: Path, photos: Path) -> None:
    for name in ("gone.tflite", "gone.onnx"):
        assert_refused(cli("eval", tmp_path / name, "--data", photos), f"{tmp_path / name}: No such file")
        assert_refused(cli("bench", tmp_path / name), f"{tmp_path / name}: No such file")


def test_bench_of_a_run(cli: Cli, run: Path) -> None:
    assert_refused(cli("bench", run), f"{run}: a folder has no runtime to time", "qmnv3 export")


@pytest.mark.parametrize("suffix", ["tflite", "onnx"])
def test_runtimes_print_nothing_beside_the_one_line(
    tmp_path: Path, photos: Path, exported: Path, suffix: str
) -> None:
    good, bad = exported / f"model_int8.{suffix}", tmp_path / f"bad.{suffix}"
    bad.write_bytes(good.read_bytes()[:-1])
    assert_refused(spawn("eval", good, "--against", bad, "--data", photos), str(bad))
    done = spawn("bench", good, "--runs", 1)
    assert done.code == 0 and done.stderr == ""
