"""Calibration sets that say little about the network's images: a warning for each fault, and a valid RUN."""

import json
from pathlib import Path

import numpy as np
import pytest
from cli_command import Cli, Finished
from PIL import Image

from device_eval.partitions import delegate_partitions


def poor_set(name: str, photos: Path, folder: Path) -> Path:
    folder.mkdir()
    count = 1 if name == "one image" else 12
    for index in range(count):
        image = Image.open(photos / "cat" / "0.png")
        if name == "black":
            image = Image.new("RGB", image.size)
        image.save(folder / f"{index}.png")
    return folder


@pytest.mark.parametrize(
    ("name", "texts"),
    [
        ("one image", ["no more than 1 different; ranges and biases follow chance, give 200"]),
        ("black", ["only 1 of 12 differ", "12 of 12 show one plain colour", "of the channels never vary"]),
        ("duplicates", ["only 1 of 12 differ", "no more than 1 different"]),
    ],
)
def test_each_fault_is_a_warning_and_the_run_is_valid(
    cli: Cli, tmp_path: Path, photos: Path, weights: Path, name: str, texts: list[str]
) -> None:
    run = tmp_path / "RUN"
    given = ("--calib", poor_set(name, photos, tmp_path / "set"), "--out", run, "--level", 3)
    done: Finished = cli("ptq", "--model", "user_nets:tiny", "--weights", weights, *given)
    assert done.code == 0, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("warning: ")]
    assert all(any(text in line for line in lines) for text in texts), done.stderr
    report = json.loads((run / "calibration.json").read_text())
    assert all(any(text in line for line in report["coverage"]) for text in texts)
    assert all(np.isfinite(row["scale"]) and row["scale"] > 0 for row in report["layers"])
    shown = cli("inspect", run)
    assert shown.code == 0 and texts[0] in shown.stdout.replace("\n", " ")
    assert cli("export", "--int8", "--checkpoint", run, "--out", tmp_path / "out").code == 0
    partitions = delegate_partitions(tmp_path / "out" / "model_int8.tflite")
    assert (partitions.count, partitions.undelegated, partitions.refused) == (1, (), None)
