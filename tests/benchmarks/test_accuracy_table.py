"""benchmarks.accuracy from the command to the table, with contenders that only copy files."""

import json
import re
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import typer
from accuracy_fakes import PER_CLASS, Workshop

from benchmarks import accuracy
from benchmarks.accuracy_contenders import CONTENDERS, FLOAT_ONNX, FLOAT_TFLITE, Contender, Inputs


@pytest.fixture
def workshop(tmp_path: Path) -> Workshop:
    return Workshop(tmp_path)


def take_part(monkeypatch: pytest.MonkeyPatch, *contenders: Contender) -> None:
    monkeypatch.setattr(accuracy, "CONTENDERS", contenders)


def results(workshop: Workshop) -> dict[str, Any]:
    value = json.loads((workshop.out / "accuracy.json").read_text())
    return {result["contender"]: result for result in value["contenders"]}


def table_rows(workshop: Workshop) -> list[list[str]]:
    lines = (workshop.out / "accuracy.md").read_text().splitlines()
    rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines if line.startswith("| ")]
    assert {len(row) for row in rows} == {13}
    return [[cell.strip() for cell in row] for row in rows if "label" in row[0]]


def test_failure_and_missing_interpreter_are_rows_that_stop_nobody(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    take_part(
        monkeypatch,
        workshop.parent(),
        workshop.saying("broken", "print('warming up'); raise RuntimeError('weights | melted')"),
        workshop.copying("absent", FLOAT_TFLITE, environment="nncf"),
        workshop.saying("forgetful", "pass"),
        workshop.copying("fine", FLOAT_ONNX, judged=(FLOAT_ONNX,)),
    )
    workshop.benchmark(nncf_python=workshop.out / "nowhere" / "python")
    found = results(workshop)
    assert {name: result["status"] for name, result in found.items()} == {
        "float": "done",
        "broken": "failed",
        "absent": "not installed",
        "forgetful": "failed",
        "fine": "done",
    }
    assert "RuntimeError: weights | melted" in found["broken"]["error"]
    assert "benchmarks/environments/nncf.txt" in found["absent"]["error"]
    assert FLOAT_TFLITE in found["forgetful"]["error"]
    rows = table_rows(workshop)
    assert [row[0] for row in rows] == [f"label of {name}" for name in list(found)[1:]]
    assert rows[0][1].startswith("failed: RuntimeError: weights \\| melted; see ")


def test_rows_and_marks_tell_what_was_measured(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    same = workshop.copying("same", FLOAT_TFLITE, judged=(FLOAT_TFLITE,))
    take_part(monkeypatch, workshop.parent(FLOAT_ONNX), same, workshop.saying("none", "1/0"))
    workshop.benchmark()
    result = results(workshop)["same"]
    row = result["rows"][0]
    assert row["val"]["top1"]["successes"] == row["val"]["top1"]["trials"] == 3 * PER_CLASS
    assert row["held_out"]["agreement"]["trials"] == 3 * PER_CLASS - 6
    assert row["val"]["agreement"]["estimate"] == 1 and row["val"]["mean_kl_nats"] < 1e-6
    assert row["structure"]["float_ops"] == {} and row["structure"]["partitions"]["count"] == 1
    assert row["size_bytes"] == (workshop.ready / FLOAT_TFLITE).stat().st_size
    assert len(row["latency"]["samples_us"]) == len(row["latency"]["float_samples_us"]) == 3
    assert result["seconds"] > 0 and result["version"] and result["environment"]["cpu"]
    cells = table_rows(workshop)[1]
    assert cells[:4] == ["label of same", "LiteRT xnnpack", "100.0", "100.0"]
    assert cells[7:9] == ["yes", "1"]
    texts = svg_texts(workshop.out / "accuracy.svg")
    assert "1  label of same, LiteRT xnnpack" in texts
    assert not any("label of float" in text or "label of none" in text for text in texts)


def svg_texts(path: Path) -> list[str]:
    root = ElementTree.parse(path).getroot()
    return ["".join(element.itertext()) for element in root.iter("{http://www.w3.org/2000/svg}text")]


def test_all_photos_used_for_calibration_leave_nothing_held_out(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    take_part(monkeypatch, workshop.parent(FLOAT_ONNX))
    workshop.benchmark(images=500)
    assert results(workshop)["float"]["rows"][0]["held_out"] is None


def test_finished_contenders_are_kept_failed_ones_tried_again(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    fine = workshop.copying("fine", FLOAT_ONNX)
    take_part(monkeypatch, workshop.parent(), fine, workshop.saying("later", "raise SystemExit(3)"))
    workshop.benchmark()
    assert "exit code 3" in results(workshop)["later"]["error"]
    take_part(monkeypatch, workshop.parent(), fine, workshop.copying("later", FLOAT_TFLITE))
    workshop.benchmark()
    assert [workshop.times_run(name) for name in ("fine", "later")] == [1, 1]
    assert results(workshop)["later"]["status"] == "done"
    workshop.benchmark(again=True, only=["fine"])
    assert [workshop.times_run(name) for name in ("fine", "later")] == [2, 1]
    assert set(results(workshop)) == {"float", "fine", "later"}


def test_results_of_another_setting_are_not_mixed_in(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    take_part(monkeypatch, workshop.parent(), workshop.copying("fine", FLOAT_ONNX))
    workshop.benchmark()
    workshop.weights.write_bytes(b"other weights")
    workshop.benchmark(only=["float"])
    assert set(results(workshop)) == {"float"}
    workshop.benchmark()
    assert workshop.times_run("fine") == 2


def test_float_parent_is_made_again_when_its_files_are_gone(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    take_part(monkeypatch, workshop.parent(), workshop.copying("fine", FLOAT_ONNX))
    workshop.benchmark(only=["float"])
    (workshop.out / "work" / "float" / FLOAT_ONNX).unlink()
    workshop.benchmark()
    assert results(workshop)["fine"]["status"] == "done"


def test_without_a_float_parent_nobody_starts(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    parent = workshop.saying("float", "raise SystemExit('error: no photos')")
    take_part(monkeypatch, parent, workshop.copying("fine", FLOAT_ONNX))
    with pytest.raises(SystemExit, match="float parent"):
        workshop.benchmark()
    assert workshop.times_run("fine") == 0


def test_a_hanging_contender_is_stopped(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    take_part(monkeypatch, workshop.parent(), workshop.saying("hanging", "import time; time.sleep(60)"))
    workshop.benchmark(only=["float"])
    workshop.benchmark(limit_minutes=0.01)
    assert "not done after 0.01 minutes" in results(workshop)["hanging"]["error"]


def test_an_unknown_contender_is_named(workshop: Workshop) -> None:
    with pytest.raises(typer.BadParameter, match=r"qmnv3-9.*nncf-mixed"):
        workshop.benchmark(only=["qmnv3-9"])


def test_contenders_have_names_and_requirement_files_of_their_own() -> None:
    names = [contender.name for contender in CONTENDERS]
    assert len(set(names)) == len(names) and names[0] == "float"
    folder = Path(accuracy.__file__).parent / "environments"
    for name in {contender.environment for contender in CONTENDERS} - {None}:
        assert (folder / f"{name}.txt").is_file()


def test_every_script_a_contender_names_exists(tmp_path: Path) -> None:
    inputs = Inputs("small", tmp_path, tmp_path, 10, 0, tmp_path)
    root = Path(accuracy.__file__).parents[1]
    commands = [
        step.command for c in CONTENDERS for step in c.steps(inputs, tmp_path / c.name, sys.executable)
    ]
    modules = {command[command.index("-m") + 1] for command in commands}
    assert "qmnv3" in modules and len(modules) == 6
    for module in modules:
        path = root / module.replace(".", "/")
        assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file()
