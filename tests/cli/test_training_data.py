"""Which folders are trained and judged on, and which output is which class."""

import json
import multiprocessing
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from qmnv3.cli import training_data
from qmnv3.cli.training_data import batch_source, class_outputs, decoding_workers, find_training_data
from qmnv3.data.order import START
from qmnv3.errors import DataError
from qmnv3.preprocessing import Preprocessing
from qmnv3.training.config import TrainConfig
from qmnv3.training.distributed import ALONE, World

SPEC = Preprocessing(32, 32, (0.5,) * 3, (0.5,) * 3)


def folder(root: Path, *classes: str) -> Path:
    for name in classes:
        (root / name).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(root / name / "image.png")
    return root


def test_validation_may_have_fewer_classes(tmp_path: Path) -> None:
    folder(tmp_path / "train", "a", "b", "c")
    folder(tmp_path / "val", "c", "a")
    data = find_training_data(tmp_path, None, labels=True)
    trained, judged = class_outputs(data, 3)
    np.testing.assert_array_equal(trained, [0, 1, 2])
    np.testing.assert_array_equal(judged, [0, 2])  # of val's a and c


def test_a_background_class_shifts_the_outputs(tmp_path: Path) -> None:
    data = find_training_data(folder(tmp_path / "all", "a", "b"), folder(tmp_path / "v", "b"), labels=True)
    trained, judged = class_outputs(data, 3)
    np.testing.assert_array_equal(trained, [1, 2])
    np.testing.assert_array_equal(judged, [2])


def test_images_without_classes_can_be_judged_on_others_with(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "photos" / "a.png")
    val = folder(tmp_path / "val", "x", "y")
    (tmp_path / "classes.json").write_text(json.dumps({"x": "X", "y": "Y", "w": "W"}))
    data = find_training_data(tmp_path / "photos", val, labels=None)
    trained, judged = class_outputs(data, 3)
    assert not data.labelled and len(trained) == 0
    np.testing.assert_array_equal(judged, [1, 2])


def test_a_class_that_only_the_validation_has_is_an_error(tmp_path: Path) -> None:
    folder(tmp_path / "train", "a")
    folder(tmp_path / "val", "a", "z")
    with pytest.raises(DataError, match="class z is not among those of"):
        find_training_data(tmp_path, None, labels=True)


def test_folders_are_no_classes_where_labels_are_not_wanted(tmp_path: Path) -> None:
    data = find_training_data(folder(tmp_path / "photos", "2024", "2025"), None, labels=False)
    assert not data.labelled and len(data.train) == 2
    assert find_training_data(tmp_path / "photos", None, labels=None).labelled


def test_a_gpu_gets_every_core_in_equal_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_data, "usable_cpus", lambda: 24)
    gpu = World(0, 1, "cuda")
    assert decoding_workers(TrainConfig(), ALONE) == 2
    assert decoding_workers(TrainConfig(), gpu) == 24
    assert (
        decoding_workers(TrainConfig(workers=5), gpu) == decoding_workers(TrainConfig(workers=5), ALONE) == 5
    )
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert decoding_workers(TrainConfig(), gpu) == 6


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_processes_decode_where_a_gpu_trains(tmp_path: Path, device: str) -> None:
    folder(tmp_path / "train", "a", "b")
    data = find_training_data(tmp_path, None, labels=True)
    config = TrainConfig(batch_size=1, workers=1)
    begun_by_two = batch_source(data, SPEC, config, World(0, 1, device), np.arange(2))
    source = begun_by_two(START, 2)
    assert len(next(source)) == 2
    assert bool(multiprocessing.active_children()) == (device == "cuda")
    source.close()
