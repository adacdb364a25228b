"""Tar files that are missing, damaged or changed, and those that are fetched from a server."""

import gc
import gzip
import io
import os
import tarfile
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from data.shard_sets import Handler, make_folder, served, write_shards
from PIL import Image

from qmnv3.data import shard_files, shard_index
from qmnv3.data.augment import Augmentation
from qmnv3.data.folder import ImageFolder
from qmnv3.data.loader import Batch, load_batches
from qmnv3.data.shard_index import index_file, read_index
from qmnv3.data.shards import Shards, find_shards
from qmnv3.data.training_batches import TrainingBatches
from qmnv3.errors import DataError
from qmnv3.preprocessing import Preprocessing

SPEC = Preprocessing(16, 16, (0.5,) * 3, (0.5,) * 3)


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Indices and fetched shards are kept in the test's folders; a failed fetch is tried again at once."""
    (tmp_path / "fetched").mkdir()
    monkeypatch.setenv("QMNV3_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "fetched"))
    monkeypatch.setattr(shard_files, "_FIRST_PAUSE_S", 0.0)
    return tmp_path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> ImageFolder:
    return make_folder(tmp_path_factory.mktemp("photos"))


@pytest.fixture
def tars(tmp_path: Path, folder: ImageFolder) -> list[Path]:
    """Nine shards of three images, the last of two."""
    return write_shards(folder, tmp_path / "shards", per_shard=3)


def tar_of(path: Path, **files: bytes) -> Path:
    """A tar of files "a.cls" given as a_cls=b"..."."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name.replace("_", "."))
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def cut(tar: Path, end: int) -> None:
    tar.write_bytes(tar.read_bytes()[:end])


def end_of_data(tar: Path) -> int:
    """Where the last member, padded to whole blocks, ends."""
    with tarfile.open(tar) as opened:
        last = opened.getmembers()[-1]
    return last.offset_data + -(-last.size // 512) * 512


def overwrite(tar: Path, member: int) -> None:
    """The header of a member other than the first."""
    with tarfile.open(tar) as opened:
        offset = opened.getmembers()[member].offset
    data = bytearray(tar.read_bytes())
    data[offset : offset + 512] = b"\xff" * 512
    tar.write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda tar: tar.unlink(), "no such shard; check the numbers"),
        (lambda tar: tar.write_bytes(b""), "empty file"),
        (lambda tar: tar.write_bytes(b"<html>not found</html>" * 100), "not a tar file"),
        (lambda tar: tar.write_bytes(gzip.compress(tar.read_bytes())), "compressed or not a tar file"),
        (lambda tar: cut(tar, 300), "damaged, cut off"),
        (lambda tar: cut(tar, 512 + 100), r"damaged, cut off"),
        (lambda tar: cut(tar, end_of_data(tar) - 512), r"damaged, cut off"),
        # As a writer that was killed leaves it.
        (lambda tar: cut(tar, end_of_data(tar)), r"damaged, cut off.*no end mark"),
        (lambda tar: overwrite(tar, 3), r"damaged, cut off.*no end mark"),
        (lambda tar: tar_of(tar, a_txt=b"hello", a_cls=b"1"), r"no images \(.jpg, .jpeg, .png, .webp\)"),
        (lambda tar: tar_of(tar, a_jpg=b"1", a_cls=b"cat"), r"a.cls: 'cat' is not a class index"),
        (lambda tar: tar_of(tar, a_jpg=b"1", a_cls=b"-1"), r"a.cls: '-1' is not a class index"),
        (lambda tar: tar_of(tar, a_jpg=b"1", a_cls=b""), r"a.cls: '' is not a class index"),
        (lambda tar: tar_of(tar, a_jpg=b"1", a_cls=b"9" * 999), r"is not a class index"),
        # Two files that are one and the same for WebDataset, which ignores case.
        (lambda tar: tar_of(tar, a_jpg=b"1", a_JPG=b"2"), r"duplicate file name"),
    ],
)
def test_a_shard_that_cannot_be_used_is_named(
    tars: list[Path], damage: Callable[[Path], object], message: str
) -> None:
    damage(tars[4])
    with pytest.raises(DataError, match=message) as caught:
        find_shards([str(tar) for tar in tars], labels=True)
    assert str(caught.value).startswith(str(tars[4])) and "\n" not in str(caught.value)


def test_pickles_are_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`pickle.loads` of this makes a file."""
    harm = tmp_path / "harm"
    pickled = f"cposix\nsystem\n(S'touch {harm}'\ntR.".encode()
    image = io.BytesIO()
    Image.new("RGB", (20, 20)).save(image, "PNG")
    tar = tar_of(tmp_path / "a.tar", a_png=image.getvalue(), a_cls=b"0", a_pkl=pickled, a_pyd=pickled)
    found = find_shards([str(tar)], labels=True)
    assert found.read(0) == image.getvalue() and not harm.exists()


def test_a_shard_is_indexed_once_and_again_after_a_change(
    tars: list[Path], folder: ImageFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = read_index(str(tars[0]))
    scanned: list[str] = []
    scan = shard_index._scan
    monkeypatch.setattr(shard_index, "_scan", lambda shard: scanned.append(shard.location) or scan(shard))
    assert read_index(str(tars[0])) == first and scanned == []
    index_file(str(tars[0])).write_text('{"format": 1, "names": ["a.j')  # cut off
    assert read_index(str(tars[0])) == first and len(scanned) == 1
    tars[0].write_bytes(tars[8].read_bytes())
    assert len(read_index(str(tars[0]))) == 2 and len(scanned) == 2


def test_several_processes_index_a_shard_once(tars: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Locks of files are held by opened files, so threads will do."""
    scanned: list[str] = []
    scan = shard_index._scan
    together = threading.Barrier(4)
    monkeypatch.setattr(shard_index, "_scan", lambda shard: scanned.append(shard.location) or scan(shard))

    def index() -> None:
        together.wait()
        read_index(str(tars[0]))

    threads = [threading.Thread(target=index) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(scanned) == 1


def test_a_shard_that_changes_during_training_stops_it(tars: list[Path]) -> None:
    found = find_shards([str(tar) for tar in tars], labels=True)
    tars[1].write_bytes(tars[1].read_bytes() + bytes(512))
    with pytest.raises(DataError, match=r"train-000001.tar: was changed after it was indexed.*remove .*json"):
        list(load_batches(found, SPEC, 4, skip_bad=True))
    found = find_shards([str(tar) for tar in tars], labels=True)
    tars[1].unlink()
    batches = TrainingBatches(found, SPEC, Augmentation(), batch_size=13, seed=0)
    with pytest.raises(DataError, match=r"train-000001.tar: no such shard"):
        [next(batches) for _ in range(2)]
    batches.close()


# From here on from a server.


def fetched_now(root: Path) -> int:
    """How many fetched shards this process holds open, which have no name any more."""
    held = 0
    for entry in os.listdir("/proc/self/fd"):  # noqa: PTH208
        with suppress(FileNotFoundError):  # of the listing itself
            held += os.readlink(f"/proc/self/fd/{entry}").startswith(str(root / "fetched"))  # noqa: PTH115
    return held


def urls(address: str, tars: list[Path]) -> list[str]:
    return [f"{address}/shards/{tar.name}" for tar in tars]


def small(locations: list[str]) -> Shards:
    """With a window of five images."""
    indices = [read_index(location) for location in locations]
    return Shards(Path(), indices, ("0", "1"), 5)


def epoch(images: Shards, **options: int) -> Iterator[Batch]:
    batches = TrainingBatches(images, SPEC, Augmentation(), batch_size=2, seed=3, **options)
    try:
        for _ in range(batches.steps_per_epoch):
            yield next(batches)
    finally:
        batches.close()


def test_training_from_a_server_sees_what_it_sees_of_files(own_folders: Path, tars: list[Path]) -> None:
    with served(own_folders) as (address, _):
        ours = list(epoch(small(urls(address, tars))))
    theirs = list(epoch(small([str(tar) for tar in tars])))
    assert [batch.images.tobytes() for batch in ours] == [batch.images.tobytes() for batch in theirs]
    shown = Path(address.removeprefix("http://")) / "shards"
    assert [path for batch in ours for path in batch.paths] == [
        shown / path.parent.name / path.name for batch in theirs for path in batch.paths
    ]


@pytest.mark.filterwarnings("error::ResourceWarning", "error::pytest.PytestUnraisableExceptionWarning")
def test_each_shard_is_fetched_once_in_an_epoch_and_few_are_kept(own_folders: Path, tars: list[Path]) -> None:
    with served(own_folders) as (address, asked):
        images = small(urls(address, tars))
        order = images.order(3, 0, 1).tolist()
        asked.clear()
        kept = [fetched_now(own_folders) for _ in load_batches(images, SPEC, 2, indices=order)]
        assert asked == Counter({f"/shards/{tar.name}": 1 for tar in tars})
        # Two windows of five images are four shards of three.
        assert len(kept) == 13 and 2 <= max(kept) <= 4
    del images
    gc.collect()  # what decodes ahead refers to itself
    assert fetched_now(own_folders) == 0 and not any((own_folders / "fetched").iterdir())


def test_two_processes_fetch_hardly_more_than_one(own_folders: Path, tars: list[Path]) -> None:
    with served(own_folders) as (address, _):
        located = urls(address, tars)
        read_by = []
        for rank in (0, 1):
            images = small(located)
            seen = list(epoch(images, rank=rank, world_size=2))
            assert len(seen) == 6
            read_by.append({path.parent for batch in seen for path in batch.paths})
        assert len(read_by[0] & read_by[1]) <= 1


def test_names_of_classes_come_from_the_server_too(own_folders: Path, tars: list[Path]) -> None:
    with served(own_folders) as (address, _):
        assert find_shards(urls(address, tars), labels=True).classes == ("0", "1")
        (own_folders / "classes.json").write_text('{"dog": "", "cat": ""}')
        assert find_shards(urls(address, tars), labels=True).classes == ("cat", "dog")
        (own_folders / "shards" / "classes.json").write_text('{"2": "", "1": "", "0": ""}')
        assert find_shards(urls(address, tars), labels=True).classes == ("0", "1", "2")


def test_a_shard_the_server_does_not_have_is_asked_for_once(own_folders: Path, tars: list[Path]) -> None:
    tars[2].unlink()
    with served(own_folders) as (address, asked):
        with pytest.raises(DataError, match=r"http://\S+/train-000002.tar: the server answered 404"):
            find_shards(urls(address, tars), labels=True)
        assert asked["/shards/train-000002.tar"] == 1


class Cuts(Handler):
    """Breaks off in the middle of the first two answers to every question."""

    def do_GET(self) -> None:
        if self.server.asked[self.path] >= 2:  # type: ignore[attr-defined]
            return super().do_GET()
        self.server.asked[self.path] += 1  # type: ignore[attr-defined]
        if self.server.asked[self.path] == 1:  # type: ignore[attr-defined]
            return self.send_error(503)
        self.send_response(200)
        self.send_header("Content-Length", "100000")
        self.end_headers()
        self.wfile.write(b"x" * 1000)
        return None


def test_a_broken_connection_is_tried_again(own_folders: Path, tars: list[Path]) -> None:
    with served(own_folders, Cuts) as (address, asked):
        assert len(find_shards(urls(address, tars[:2]), labels=False)) == 6
        assert asked == Counter({f"/shards/{tar.name}": 3 for tar in tars[:2]})


def test_without_a_server_the_error_names_the_address() -> None:
    with served(Path("/")) as (address, _):
        pass
    with pytest.raises(DataError, match=rf"{address}/a.tar: cannot be fetched \(.*refused.*tried 5 times"):
        read_index(f"{address}/a.tar")


def test_a_full_disk_is_named(own_folders: Path, tars: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        Path("/dev/full").open("r+b", buffering=0) as full,
        served(own_folders) as (address, _),
        pytest.raises(DataError, match=r"fetched: No space left on device; .* set TMPDIR to a larger disk"),
    ):
        monkeypatch.setattr(tempfile, "TemporaryFile", lambda prefix: full)
        read_index(urls(address, tars)[0])


def test_closing_abandons_a_fetch_under_way(own_folders: Path, tars: list[Path]) -> None:
    """The server would send a gigabyte a shard."""
    begun, broken_off = threading.Event(), threading.Event()

    class Long(Handler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            try:
                for _ in range(10_000):
                    self.wfile.write(b"x" * 100_000)
                    begun.set()
            except OSError:
                broken_off.set()

    with served(own_folders, Long) as (address, _):
        indices = [replace(read_index(str(tar)), location=f"{address}/{tar.name}") for tar in tars]
        before = set(threading.enumerate())
        images = Shards(Path(), indices, ("0", "1"))
        images.expect(range(26))
        begun.wait()
        images.forget()
        assert broken_off.wait(60)
        assert not [thread for thread in set(threading.enumerate()) - before if "shards" in thread.name]
        assert fetched_now(own_folders) == 0
