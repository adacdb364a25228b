"""Shards that WebDataset wrote: the same images as of a folder, in an order of their own."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
import webdataset
from data.shard_sets import make_folder, write_shards
from PIL import Image

from qmnv3.data import decode, load_batches, preprocess, sample
from qmnv3.data.augment import Augmentation
from qmnv3.data.folder import ImageFolder
from qmnv3.data.loader import Batch
from qmnv3.data.order import Position, shard_order
from qmnv3.data.shard_index import read_index
from qmnv3.data.shards import Shards, are_shards, expand_shards, find_shards
from qmnv3.data.training_batches import TrainingBatches
from qmnv3.errors import DataError
from qmnv3.preprocessing import Preprocessing

SPEC = Preprocessing(16, 16, (0.5,) * 3, (0.5,) * 3)
WINDOW = 7


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> object:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QMNV3_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> ImageFolder:
    """26 images of two classes."""
    return make_folder(tmp_path_factory.mktemp("photos"))


@pytest.fixture(scope="module")
def tars(tmp_path_factory: pytest.TempPathFactory, folder: ImageFolder) -> list[Path]:
    """Six shards of five images, the last of one."""
    return write_shards(folder, tmp_path_factory.mktemp("shards"), per_shard=5)


@pytest.fixture(scope="module")
def shards(tars: list[Path]) -> Shards:
    return read(tars)


def read(tars: list[Path], labels: bool | None = True) -> Shards:
    """With a window that is smaller than all."""
    locations = [str(tar) for tar in tars]
    found = find_shards(locations, labels=labels)
    return Shards(found.root, [read_index(location) for location in locations], found.classes, WINDOW)


def take(shards: Shards, count: int, **options: object) -> list[Batch]:
    settings = {"batch_size": 4, "seed": 5} | options
    batches = TrainingBatches(shards, SPEC, Augmentation(), **settings)  # type: ignore[arg-type]
    try:
        return [next(batches) for _ in range(count)]
    finally:
        batches.close()


def names(batches: list[Batch]) -> list[str]:
    return [path.stem for batch in batches for path in batch.paths]


def test_images_labels_and_names_are_those_webdataset_reads(shards: Shards, tars: list[Path]) -> None:
    theirs = webdataset.WebDataset([str(tar) for tar in tars], shardshuffle=False)
    count = 0
    for index, expected in enumerate(theirs):
        (suffix,) = expected.keys() & {"jpeg", "png"}
        assert shards.path(index) == Path(expected["__url__"]) / f"{expected['__key__']}.{suffix}"
        assert shards.labels[index] == int(expected["cls"])
        pixels = np.asarray(Image.open(io.BytesIO(expected[suffix])))
        assert np.array_equal(decode(shards.path(index), data=shards.read(index)), pixels)
        count += 1
    assert count == len(shards) == 26 and shards.classes == ("0", "1")


def test_an_epoch_has_the_images_and_labels_of_the_folder(shards: Shards, folder: ImageFolder) -> None:
    expected = {path.stem: label for path, label in zip(folder.paths, folder.labels, strict=True)}
    for epoch in (0, 1):
        batches = take(shards, 2, batch_size=13, start=Position(epoch, 0))
        labels = [int(label) for batch in batches for label in batch.labels]
        assert len(labels) == 26 and dict(zip(names(batches), labels, strict=True)) == expected


def test_images_are_those_of_the_folder_where_nothing_is_random(shards: Shards, folder: ImageFolder) -> None:
    ours = {
        path.stem: image
        for batch in load_batches(shards, SPEC, 8)
        for path, image in zip(batch.paths, batch.images, strict=True)
    }
    assert len(ours) == 26
    for path in folder.paths:
        assert np.array_equal(ours[path.stem], preprocess(decode(path, SPEC.resize), SPEC))


def test_without_a_window_shards_follow_each_other_whole() -> None:
    """Images 0-2, 3-4 and 5-8."""
    parts = {(0, 1, 2), (3, 4), (5, 6, 7, 8)}
    seen = set()
    for epoch in range(20):
        order = [int(index) for index in shard_order([3, 2, 4], 0, epoch, 1, 1)]
        lengths = {0: 3, 3: 2, 5: 4}
        runs = []
        while order:
            runs.append(tuple(order[: lengths[order[0]]]))
            del order[: len(runs[-1])]
        assert set(runs) == parts
        seen.add(tuple(runs))
    assert len(seen) == 6  # every order of three shards
    # Two processes: the same nine images in a row, the first half and the second; one is left out.
    alone, both = (shard_order([3, 2, 4], 0, 3, world, 1) for world in (1, 2))
    assert both[0::2].tolist() == alone[:4].tolist() and both[1::2].tolist() == alone[4:8].tolist()


def test_images_are_shuffled_within_a_window_and_a_shard_is_read_in_a_go() -> None:
    counts = [10] * 30
    order = shard_order(counts, 1, 0, 1, 50)
    assert sorted(order) == list(range(300))
    for first in range(0, 300, 50):
        # In the order of the files 45 of 49 images are followed by the next one, shuffled about one is.
        assert (np.diff(order[first : first + 50]) == 1).sum() < 10
    for shard in range(30):
        places = np.flatnonzero(order // 10 == shard)
        assert np.ptp(places) < 50
    assert np.array_equal(order, shard_order(counts, 1, 0, 1, 50))
    for other in (shard_order(counts, 2, 0, 1, 50), shard_order(counts, 1, 1, 1, 50)):
        assert not np.array_equal(order, other)


def test_threads_do_not_matter_and_any_position_can_be_resumed(shards: Shards) -> None:
    whole = take(shards, 14, workers=1)
    assert same(whole, take(shards, 14, workers=4))
    for at, start in ((1, (0, 1)), (5, (0, 5)), (6, (0, 6)), (6, (1, 0)), (9, (1, 3))):
        assert same(whole[at:], take(shards, 14 - at, start=Position(*start)))


def same(ours: list[Batch], theirs: list[Batch]) -> bool:
    return all(
        a.paths == b.paths and np.array_equal(a.images, b.images) for a, b in zip(ours, theirs, strict=True)
    )


def test_a_resumed_run_reads_nothing_that_was_passed(
    tars: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = names(take(read(tars), 12))
    taken: list[str] = []
    original = Shards.read

    def recorded(self: Shards, index: int) -> bytes:
        taken.append(self.path(index).stem)
        return original(self, index)

    monkeypatch.setattr(Shards, "read", recorded)
    take(read(tars), 1, start=Position(0, 4))
    assert set(taken) <= set(whole[16:36]) and set(taken) >= set(whole[16:20])


@pytest.mark.parametrize("processes", [1, 3])
def test_other_processes_share_the_batches_of_shards_that_a_training_began_with(
    shards: Shards, processes: int
) -> None:
    """Of two processes with three images each."""
    begun = [take(shards, 4, batch_size=3, rank=rank, world_size=2) for rank in (0, 1)]
    other = {"batch_size": 3, "world_size": processes, "begun_by": 2}
    now = [take(shards, 4, rank=rank, **other) for rank in range(processes)]
    for step in range(4):
        expected, found = (sorted(sum((part[step].paths for part in of), ())) for of in (begun, now))
        assert found == expected


@pytest.mark.parametrize("processes", [2, 3])
def test_processes_share_an_epoch_and_hardly_any_shard(shards: Shards, processes: int) -> None:
    parts = [
        TrainingBatches(shards, SPEC, Augmentation(), batch_size=4, seed=5, rank=rank, world_size=processes)
        for rank in range(processes)
    ]
    steps = {part.steps_per_epoch for part in parts}
    assert steps == {26 // (4 * processes)}
    seen = [[next(part) for _ in range(steps.copy().pop())] for part in parts]
    for part in parts:
        part.close()
    assert all(len(batch) == 4 for batches in seen for batch in batches)
    everything = [name for batches in seen for name in names(batches)]
    assert len(everything) == len(set(everything)) == 26 // (4 * processes) * 4 * processes
    read_by = [{path.parent.name for batch in batches for path in batch.paths} for batches in seen]
    # Of six shards each process needs its share, and one at each end that it shares with a neighbour.
    assert sum(len(of_one) for of_one in read_by) <= 6 + processes - 1


def test_a_corrupt_image_is_named_once_and_left_out(tmp_path: Path) -> None:
    broken = make_folder(tmp_path / "photos", 6)
    broken.paths[2].write_bytes(b"\x89PNG broken")
    tars = write_shards(broken, tmp_path / "shards", per_shard=4)
    batches = TrainingBatches(read(tars), SPEC, Augmentation(), batch_size=3, seed=0)
    sizes = [len(next(batches)) for _ in range(4)]
    batches.close()
    assert sorted(sizes) == [2, 2, 3, 3]
    (path,) = batches.skipped.paths
    assert path.name == broken.paths[2].name and path.parent in tars
    assert f"{path}: corrupt image" in batches.skipped.reasons[0]


def test_classes_are_named_by_classes_json_in_sorted_order(tmp_path: Path, folder: ImageFolder) -> None:
    tars = write_shards(folder, tmp_path / "set" / "train", per_shard=20)
    (tmp_path / "set" / "classes.json").write_text(json.dumps({"zebra": "Zebra", "ant": "Ant"}))
    assert read(tars).classes == ("ant", "zebra")
    (tmp_path / "set" / "classes.json").write_text(json.dumps({"ant": "Ant"}))
    with pytest.raises(DataError, match=r"train-00000\d.tar: .* is of class 1, classes.json has 1"):
        read(tars)


def test_labels_are_taken_where_there_are_any(tmp_path: Path, folder: ImageFolder, tars: list[Path]) -> None:
    bare = write_shards(folder, tmp_path, per_shard=20, labels=False)
    assert read(bare, None).labels == read(tars, False).labels == () and read(tars, None).labels
    (batch,) = take(read(bare, None), 1)
    assert len(batch.labels) == 0 and len(batch) == 4
    for mixed, wanted in ((bare, True), ([*tars, *bare], None)):
        with pytest.raises(DataError, match=r"train-000000.tar: \S+ has no label; put its class index"):
            read(mixed, wanted)
    assert len(read([*tars, *bare], False)) == 52


def test_images_to_calibrate_on_come_from_few_shards_and_all_classes(shards: Shards) -> None:
    chosen = sample(shards, 6, seed=1)
    assert len(set(chosen)) == 6 and sorted(shards.labels[i] for i in chosen) == [0] * 3 + [1] * 3
    assert len({shards.path(i).parent for i in chosen}) <= 3  # a window of 7 images of shards of 5
    assert sample(shards, 6, seed=1) == chosen != sample(shards, 6, seed=2)
    assert sorted(sample(shards, 1000, seed=1)) == list(range(26))


def test_notation(tars: list[Path], tmp_path: Path) -> None:
    pattern = tars[0].parent / "train-{000000..000005}.tar"
    assert expand_shards(pattern) == expand_shards(tars[0].parent) == [str(tar) for tar in tars]
    url = "https://host/a/train-{08..11}.tar"
    assert expand_shards(url) == [f"https://host/a/train-{i}.tar" for i in ("08", "09", "10", "11")]
    assert all(are_shards(place) for place in (pattern, tars[0], tars[0].parent, url))
    (tmp_path / "n01440764").mkdir()
    (tmp_path / "n01440764.tar").touch()
    assert not are_shards(tmp_path) and not are_shards(tmp_path / "missing")


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("s3://bucket/a-{0..3}.tar", r"s3://bucket/a-0.tar: is not http\(s\)"),
        ("https://host/folder/", r"https://host/folder/: is not http\(s\)://.../NAME.tar"),
        ("a-{0..2}{.tar", "cannot be expanded"),
        ("a-{0,1,0}.tar", "names a-0.tar 2 times"),
        ("pipe:touch {a,b}.tar", r"pipe:touch a.tar: no such shard"),
    ],
)
def test_locations_that_are_refused(location: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        find_shards(expand_shards(location), labels=True)


def test_a_listing_tells_sets_of_shards_apart_wherever_they_are(tmp_path: Path, folder: ImageFolder) -> None:
    for name in ("one", "two"):
        write_shards(folder, tmp_path / name, per_shard=10)
    digests = []
    for name in ("one", "two"):
        digests.append(find_shards(expand_shards(tmp_path / name), labels=True).listing_sha256())
    with next((tmp_path / "two").glob("*.tar")).open("ab") as file:
        file.write(bytes(512))
    digests.append(find_shards(expand_shards(tmp_path / "two"), labels=True).listing_sha256())
    assert digests[0] == digests[1] != digests[2]
