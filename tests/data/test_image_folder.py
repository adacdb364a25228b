import json
from collections import Counter
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from qmnv3.data import class_index, find_images, sample
from qmnv3.errors import DataError


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4)).save(path, "PNG")
    return path


def three_classes(root: Path, per_class: int = 3) -> Path:
    for name in ("b", "a", "c"):
        for index in range(per_class):
            touch(root / name / f"{index}.png")
    return root


def test_classes_are_sorted_folders_and_suffixes_any_case(tmp_path: Path) -> None:
    for name in (
        "b/2.JPEG",
        "a/x/deep.TIF",
        "a/1.png",
        "b/notes.txt",
        "b/._2.JPEG",
        ".cache/3.png",
        "stray.png",
    ):
        touch(tmp_path / name)
    (tmp_path / "empty").mkdir()
    folder = find_images(tmp_path, classes=True)
    assert folder.classes == ("a", "b", "empty")
    assert [p.relative_to(tmp_path).as_posix() for p in folder.paths] == [
        "a/1.png",
        "a/x/deep.TIF",
        "b/2.JPEG",
    ]
    assert folder.labels == (0, 0, 1)


def test_calibration_takes_flat_and_nested_folders(tmp_path: Path) -> None:
    touch(tmp_path / "flat" / "1.png")
    touch(tmp_path / "flat" / "more" / "2.png")
    assert find_images(tmp_path / "flat", classes=False).labels == ()
    assert len(find_images(tmp_path / "flat", classes=False)) == 2
    nested = find_images(three_classes(tmp_path / "nested"), classes=False)
    assert nested.classes == ("a", "b", "c") and Counter(nested.labels) == {0: 3, 1: 3, 2: 3}


def test_a_link_to_a_parent_folder_ends(tmp_path: Path) -> None:
    three_classes(tmp_path)
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    assert len(find_images(tmp_path, classes=True)) == 9


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: None, "no such folder"),
        (lambda root: touch(root), "is a file, not a folder"),
        (lambda root: root.mkdir(), "no class sub-folders; expected <folder>/<class>"),
        (lambda root: touch(root / "1.png"), "1 images but no class sub-folders"),
        (lambda root: (root / "a").mkdir(parents=True), "no images"),
    ],
)
def test_unusable_folders(tmp_path: Path, make: object, message: str) -> None:
    make(tmp_path / "set")  # type: ignore[operator]
    with pytest.raises(DataError, match=message) as caught:
        find_images(tmp_path / "set", classes=True)
    assert str(tmp_path / "set") in str(caught.value) and "\n" not in str(caught.value)


def test_empty_calibration_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no images"):
        find_images(tmp_path, classes=False)


def test_sample_is_seeded_without_replacement_and_balanced(tmp_path: Path) -> None:
    folder = find_images(three_classes(tmp_path, 5), classes=True)
    drawn = sample(folder, 7, seed=1)
    assert drawn == sample(folder, 7, seed=1) != sample(folder, 7, seed=2)
    assert len(set(drawn)) == 7
    for length in range(1, 16):
        counts = Counter(folder.labels[i] for i in sample(folder, 15, seed=3)[:length])
        assert max(counts.values()) - min(counts.get(label, 0) for label in range(3)) <= 1
    assert sorted(sample(folder, 99, seed=0)) == list(range(15))
    with pytest.raises(DataError, match="images=0"):
        sample(folder, 0, seed=0)


def test_sample_takes_the_rest_when_a_class_runs_out(tmp_path: Path) -> None:
    three_classes(tmp_path, 1)
    for index in range(5):
        touch(tmp_path / "a" / f"more{index}.png")
    folder = find_images(tmp_path, classes=True)
    assert Counter(folder.labels[i] for i in sample(folder, 6, seed=0)) == {0: 4, 1: 1, 2: 1}


def test_sample_of_a_flat_folder(tmp_path: Path) -> None:
    for index in range(6):
        touch(tmp_path / f"{index}.png")
    drawn = sample(find_images(tmp_path, classes=False), 4, seed=0)
    assert len(set(drawn)) == 4


def test_as_many_folders_as_outputs(tmp_path: Path) -> None:
    folder = find_images(three_classes(tmp_path), classes=True)
    assert class_index(folder, 3).outputs == (0, 1, 2)
    background = class_index(folder, 4)
    assert background.outputs == (0, 1, 2) and background.drop_background


def test_the_models_own_labels_win(tmp_path: Path) -> None:
    folder = find_images(three_classes(tmp_path), classes=True)
    assert class_index(folder, 3, ("c", "b", "a")).outputs == (2, 1, 0)
    assert class_index(folder, 5, ("z", "c", "y", "b", "a")).outputs == (4, 3, 1)
    assert class_index(folder, 3, ("other", "display", "names")).outputs == (0, 1, 2)
    with pytest.raises(DataError, match="'c' is not a label of the model"):
        class_index(folder, 3, ("a", "b", "x"))


def test_classes_json_beside_the_folder(tmp_path: Path) -> None:
    folder = find_images(three_classes(tmp_path / "val"), classes=True)
    names = {"z": "zed", "c": "sea", "b": "bee", "aa": "aah", "a": "eh"}
    (tmp_path / "classes.json").write_text(json.dumps(names))
    assert class_index(folder, 5).outputs == (0, 2, 3)
    assert class_index(folder, 6).drop_background
    assert class_index(folder, 5, classes_file=tmp_path / "classes.json").outputs == (0, 2, 3)
    with pytest.raises(DataError, match="5 classes but the model has 1000 outputs"):
        class_index(folder, 1000)


def test_classes_that_do_not_fit(tmp_path: Path) -> None:
    folder = find_images(three_classes(tmp_path / "val"), classes=True)
    with pytest.raises(DataError, match="3 class folders but the model has 1000 outputs; put"):
        class_index(folder, 1000)
    (tmp_path / "classes.json").write_text('{"a": "", "b": "", "x": "", "y": "", "z": ""}')
    with pytest.raises(DataError, match="'c' is not in"):
        class_index(folder, 5)
    for text in ("[1]", "{", "{}"):
        (tmp_path / "classes.json").write_text(text)
        with pytest.raises(DataError, match=r"classes\.json"):
            class_index(folder, 5)


def test_imagenet_val_gets_the_usual_indices(data_pack: Path) -> None:
    folder = find_images(data_pack / "imagenet" / "val", classes=True)
    names = sorted(json.loads((data_pack / "imagenet" / "classes.json").read_text()))
    index = class_index(folder, 1000)
    assert len(folder) == 650 and not index.drop_background
    assert [names[i] for i in index.outputs] == list(folder.classes)
    assert index.outputs[folder.classes.index("n01440764")] == 0  # tench
    assert np.array_equal(index.outputs, class_index(folder, 1001).outputs)


def test_a_listing_tells_folders_apart_by_names_and_sizes(tmp_path: Path) -> None:
    """The digest is that of the text written out here, wherever the folder is."""
    expected = sha256("cat/a.png\0003\ndog/é.png\0005\n".encode()).hexdigest()
    for root in (tmp_path / "one", tmp_path / "two"):
        for name, content in (("cat/a.png", b"abc"), ("dog/é.png", b"12345")):
            (root / name).parent.mkdir(parents=True)
            (root / name).write_bytes(content)
        assert find_images(root, classes=True).listing_sha256() == expected
    (root / "cat" / "a.png").write_bytes(b"abcd")
    assert find_images(root, classes=True).listing_sha256() != expected
