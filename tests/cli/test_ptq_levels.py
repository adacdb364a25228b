"""`qmnv3 ptq --level` and `--target-drop`."""

import json
from pathlib import Path

from cli_command import assert_refused, untouched
from conftest import Cli

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
