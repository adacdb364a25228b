"""`qmnv3 ptq --level` and `--target-drop`."""

import json
from pathlib import Path
from typing import cast

import pytest
import torch
from cli_command import Cli, assert_refused, untouched
from safetensors.torch import save_file

from calibration.config import PtqConfig
from calibration.ladder import Climb, Fidelity, Rung
from calibration.ptq import Calibration
from qmnv3.cli.ptq import _print_rungs
from qmnv3.cli.ptq_job import PtqJob

GIVEN = ("--model", "user_nets:tiny")


def test_level_is_recorded_and_equalization_reported(
    cli: Cli, tmp_path: Path, photos: Path, weights: Path
) -> None:
    for level in (0, 2):
        out = tmp_path / f"level{level}"
        done = cli("ptq", *GIVEN, "--weights", weights, "--calib", photos, "--out", out, "--level", level)
        assert done.code == 0
        assert json.loads((out / "run.json").read_text())["recipe"]["level"] == level
        report = json.loads((out / "calibration.json").read_text())
        assert bool(report["equalization"]) == (level == 2)
        assert cli("inspect", out).code == 0


def test_inspect_cuts_nothing_off_and_shows_the_slowdown_used(
    cli: Cli, tmp_path: Path, photos: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "RUN"
    assert cli("ptq", *GIVEN, "--weights", weights, "--calib", photos, "--out", out, "--level", 2).code == 0
    report = json.loads((out / "calibration.json").read_text())
    report["layers"][0]["site"] = 200 * "x"
    (out / "calibration.json").write_text(json.dumps(report))
    monkeypatch.setenv("COLUMNS", "80")
    shown = cli("inspect", out).stdout
    assert "…" not in shown and "zero" in shown and "SQNR dB" in shown and 200 * "x" in shown
    cost = report["equalization_cost"]
    gates = sum(row["gate_us"] for row in report["equalization"] if row["form"] == "gate")
    assert cost["gates_us"] == gates <= cost["max_slowdown"] * cost["network_us"]
    assert f"{cost['network_us']:.1f} µs" in shown and "at most 10.50 %" in " ".join(shown.split())


def test_int16_is_exported_as_advised_and_inspected(
    cli: Cli, tmp_path: Path, photos: Path, weights: Path
) -> None:
    out = tmp_path / "RUN"
    given = ("--weights", weights, "--calib", photos, "--out", out, "--int16", "expand.2")
    done = cli("ptq", *GIVEN, *given)
    (advice,) = [line for line in done.stdout.splitlines() if line.startswith("next: ")]
    command = advice.split("; ")[1].split()
    assert command[:2] == ["qmnv3", "export"]
    assert cli(*command[1:-3], tmp_path / "out", *command[-2:]).code == 0
    shown = cli("inspect", out).stdout
    assert "int16 tensors: KL" in shown and "XNNPACK partitions: 2 (1 without)" in shown


def test_target_drop_prints_and_saves_the_rungs(
    cli: Cli, tmp_path: Path, photos: Path, weights: Path
) -> None:
    out = tmp_path / "RUN"
    done = cli("ptq", *GIVEN, "--weights", weights, "--calib", photos, "--out", out, "--target-drop", 100)
    assert done.code == 0
    assert "min-max" in done.stdout and "held-out images" in done.stdout
    (rung,) = json.loads((out / "calibration.json").read_text())["ladder"]
    assert rung["level"] == 0
    assert rung["fidelity"]["images"] == 1
    assert "rungs, judged on 1 held-out images" in cli("inspect", out).stdout


def test_a_target_that_no_rung_meets_suggests_training(capsys: pytest.CaptureFixture[str]) -> None:
    rung = Rung(0, "min-max", 1.5, Fidelity(8, 0.5, 0.25, 3.0, 1.0, 5.0))
    climb = Climb((rung,), cast(Calibration, None), PtqConfig(level=0), reached=False)
    _print_rungs(climb, 0.5, PtqJob("small", None, Path("my photos"), Path("RUN"), PtqConfig()))
    printed = capsys.readouterr().out
    assert "no rung meets --target-drop 0.5; kept level 0" in printed
    assert printed.endswith("qmnv3 qat --model small --start RUN --data 'my photos'\n")


def test_finished_blocks_are_kept_until_the_run_is_written(
    cli: Cli, tmp_path: Path, photos: Path, weights: Path
) -> None:
    """OUT.partial is read by the next try (tests/calibration has the kill -9) and gone at the end."""
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("level: 5\nreconstruction: {steps: 2}\n")
    out, partial = tmp_path / "RUN", tmp_path / "RUN.partial"
    given = ("ptq", *GIVEN, "--weights", weights, "--calib", photos, "--recipe", recipe, "--out", out)
    partial.mkdir()
    (partial / "000.safetensors").write_text("not this run's")
    assert cli(*given).code == 0
    blocks = json.loads((out / "calibration.json").read_text())["reconstruction"]
    assert blocks and all({"block", "kl_before", "kl_after", "taken"} <= set(row) for row in blocks)
    assert not partial.exists()


def test_somebody_elses_files_in_the_partial_folder_stay(
    cli: Cli, tmp_path: Path, photos: Path, weights: Path
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("level: 5\nreconstruction: {steps: 2}\n")
    partial = tmp_path / "RUN.partial"
    partial.mkdir()
    (partial / "notes.txt").write_text("mine")
    save_file({"x": torch.zeros(1)}, partial / "900.safetensors", {"run": "another program's"})
    given = ("ptq", *GIVEN, "--weights", weights, "--calib", photos, "--out", tmp_path / "RUN")
    for options in (("--level", 0), ("--recipe", recipe)):
        assert cli(*given, *options).code == 0
        assert sorted(file.name for file in partial.iterdir()) == ["900.safetensors", "notes.txt"]


def test_level_and_target_drop_exclude_each_other(cli: Cli, tmp_path: Path, photos: Path) -> None:
    with untouched(tmp_path):
        done = cli(
            "ptq", *GIVEN, "--calib", photos, "--out", tmp_path / "R", "--level", 1, "--target-drop", 1
        )
    assert_refused(done, "--level 1 picks a rung")


def test_one_image_cannot_be_split(cli: Cli, tmp_path: Path, photos: Path) -> None:
    single = tmp_path / "single"
    single.mkdir()
    (single / "0.png").write_bytes((photos / "cat" / "0.png").read_bytes())
    done = cli("ptq", *GIVEN, "--calib", single, "--out", tmp_path / "RUN", "--target-drop", 1)
    assert_refused(done, "give at least 2")
