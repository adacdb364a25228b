"""Tar files that are missing, damaged or changed."""

import gzip
import io
import tarfile
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from qmnv3.data import shard_index
from qmnv3.data.augment import Augmentation
from qmnv3.data.folder import ImageFolder
from qmnv3.data.loader import load_batches
from qmnv3.data.shard_index import index_file, read_index
from qmnv3.data.shards import find_shards
from qmnv3.data.training_batches import TrainingBatches
from qmnv3.errors import DataError
from qmnv3.preprocessing import Preprocessing

pytestmark = pytest.mark.usefixtures("own_folders")
SPEC = Preprocessing(16, 16, (0.5,) * 3, (0.5,) * 3)


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
