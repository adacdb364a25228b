"""What `qmnv3 ablate` refuses, in one line and before anything is done."""

from pathlib import Path
from typing import Any

import pytest
from cli_command import Cli, assert_refused
from test_ablate import write_recipe


def test_a_training_device_that_is_not_there(cli: Cli, tmp_path: Path, photos: Path) -> None:
    given = ("ablate", write_recipe(tmp_path / "three.yaml"), "--data", photos, "--out", tmp_path / "OUT")
    assert_refused(cli(*given, "--training-device", "gpu"), "--training-device gpu", "cpu or cuda")
    assert_refused(cli(*given, "--training-device", "cuda"), "--training-device cuda", "sees no GPU")
    assert not (tmp_path / "OUT").exists()


@pytest.mark.parametrize(
    ("changes", "arguments", "texts"),
    [
        ({}, ["--axes", "speed"], ["--axes speed", "accuracy, latency, size"]),
        ({}, ["--axes", "accuracy"], ["give --data"]),
        ({}, ["--axes", "size", "--data", "."], ["--data .", "add accuracy to --axes"]),
        ({}, ["--axes", "size", "--device", "adb"], ["--device adb", "add latency to --axes"]),
        ({}, ["--training-device", "cuda"], ["--training-device cuda", "add --data"]),
        ({"sises": []}, [], ["sises", "did you mean 'sizes'"]),
        ({"sizes": [{"width": [1.0]}]}, [], ["'sizes.0.width'", "did you mean 'widths'"]),
        ({"variants": [{"name": "a", "modl": "small"}]}, [], ["variants.0.model"]),
        ({"variants": [{"name": "a", "model": "small", "nam": 1}]}, [], ["variants.0.nam", "'name'"]),
        ({"training": {"optimizer": {"ratee": 1}}}, [], ["optimizer.ratee", "did you mean 'rate'"]),
        *(
            ({"variants": [{"name": "a", "model": "small", "options": {key: value}}]}, [], [key, text])
            for key, value, text in (
                ("nonlinearity", [1], "valid string"),
                ("stem_width", "x", "valid integer"),
                ("stem_width", 16.5, "valid integer"),
                ("dropout", "x", "valid number"),
                ("activations", ["features.0"], "dictionary"),
                ("last_stage", "short", "'efficient'"),
            )
        ),
        ({"lowerings": ["addmul"]}, [], ["lowerings", "'addmul'"]),
        (
            {"variants": [{"name": "a", "model": "small", "options": {"stemwidth": 8}}]},
            [],
            ["no model option 'stemwidth'", "did you mean 'stem_width'"],
        ),
        ({"variants": [{"name": "a", "model": "smal"}]}, [], ["unknown model 'smal'"]),
        ({"variants": [{"name": "a", "model": "small"}] * 2}, [], ["two are called 'a'"]),
        ({"variants": [{"name": "../a", "model": "small"}]}, [], ["'../a'"]),
        ({}, ["--device", "toaster"], ["--device toaster"]),
    ],
)
def test_bad_input_is_one_line(
    cli: Cli, tmp_path: Path, changes: dict[str, Any], arguments: list[str], texts: list[str]
) -> None:
    recipe, out = write_recipe(tmp_path / "bad.yaml", **changes), tmp_path / "OUT"
    assert_refused(cli("ablate", recipe, "--out", out, *arguments), *texts)
    assert not out.exists()


def test_data_without_images_to_judge_by_is_refused(cli: Cli, tmp_path: Path, photos: Path) -> None:
    recipe, out = write_recipe(tmp_path / "tiny.yaml"), tmp_path / "OUT"
    assert_refused(cli("ablate", recipe, "--out", out, "--data", photos), "give --val")
    assert not out.exists()
