"""Which folders are trained and judged on, and which output is which class."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from qmnv3.cli.training_data import class_outputs, find_training_data
from qmnv3.errors import DataError


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
