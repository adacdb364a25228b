"""Tar files that are fetched from a server: once, a few at a time, and again after a fault."""

import gc
import os
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from data.shard_sets import Handler, served

from qmnv3.data.augment import Augmentation
from qmnv3.data.loader import Batch, load_batches
from qmnv3.data.shard_index import read_index
from qmnv3.data.shards import Shards, find_shards
from qmnv3.data.training_batches import TrainingBatches
from qmnv3.errors import DataError
from qmnv3.preprocessing import Preprocessing

pytestmark = pytest.mark.usefixtures("own_folders")
SPEC = Preprocessing(16, 16, (0.5,) * 3, (0.5,) * 3)


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
