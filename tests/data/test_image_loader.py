import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from qmnv3.data import decode, find_images, load_batches, preprocess
from qmnv3.data import loader as loader_module
from qmnv3.data.folder import ImageFolder
from qmnv3.errors import DataError
from qmnv3.preprocessing import Preprocessing

SPEC = Preprocessing(resolution=8, resize=8, mean=(0, 0, 0), std=(1, 1, 1))


@pytest.fixture
def folder(tmp_path: Path) -> ImageFolder:
    generator = np.random.default_rng(0)
    for index in range(10):
        path = tmp_path / "ab"[index % 2] / f"{index}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (8, 8, 3), np.uint8)).save(path)
    return find_images(tmp_path, classes=True)


@pytest.mark.parametrize("workers", [1, 3])
def test_batches_come_in_order(folder: ImageFolder, workers: int) -> None:
    batches = list(load_batches(folder, SPEC, 4, workers=workers))
    assert [len(batch) for batch in batches] == [4, 4, 2]
    assert tuple(path for batch in batches for path in batch.paths) == folder.paths
    assert np.concatenate([batch.labels for batch in batches]).tolist() == list(folder.labels)
    wanted = np.stack([preprocess(decode(path), SPEC) for path in folder.paths])
    assert np.array_equal(np.concatenate([batch.images for batch in batches]), wanted)


def test_indices_choose_and_order(folder: ImageFolder) -> None:
    (batch,) = load_batches(folder, SPEC, 4, indices=[7, 0, 3])
    assert batch.paths == tuple(folder.paths[i] for i in (7, 0, 3))
    assert batch.labels.tolist() == [folder.labels[i] for i in (7, 0, 3)]
    assert list(load_batches(folder, SPEC, 4, indices=[])) == []


def test_the_first_corrupt_image_raises(folder: ImageFolder) -> None:
    folder.paths[5].write_bytes(b"junk")
    with pytest.raises(DataError, match=folder.paths[5].name):
        list(load_batches(folder, SPEC, 4))


def test_corrupt_images_are_skipped_and_counted(folder: ImageFolder) -> None:
    for index in (0, 5):
        folder.paths[index].write_bytes(b"junk")
    batches = load_batches(folder, SPEC, 4, skip_bad=True)
    seen = [path for batch in batches for path in batch.paths]
    assert seen == [path for i, path in enumerate(folder.paths) if i not in (0, 5)]
    assert batches.skipped.count == 2
    assert batches.skipped.paths == [folder.paths[0], folder.paths[5]]


def test_nothing_but_corrupt_images(folder: ImageFolder) -> None:
    for path in folder.paths:
        path.write_bytes(b"junk")
    with pytest.raises(DataError, match="none of 10 images can be read"):
        list(load_batches(folder, SPEC, 4, skip_bad=True))


def test_only_a_bounded_number_is_decoded_ahead(folder: ImageFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[Path] = []

    def counting(path: Path, side: int | None, data: bytes) -> np.ndarray:
        decoded.append(path)
        return decode(path, side, data)

    monkeypatch.setattr(loader_module, "decode", counting)
    many = [i % 10 for i in range(200)]
    batches = load_batches(folder, SPEC, 4, indices=many, workers=2)
    for taken in range(1, 6):
        next(batches)
        # What was taken, plus at most one batch and the workers' own images.
        assert len(decoded) <= 4 * taken + 4 + 2 + 1


def test_abandoning_the_iterator_stops_its_threads(folder: ImageFolder) -> None:
    batches = load_batches(folder, SPEC, 2, indices=[0] * 500)
    next(batches)
    del batches
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("decode")]
