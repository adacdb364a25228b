"""Training batches: the same whatever the machine does, and across processes and resumes."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from qmnv3.data import find_images
from qmnv3.data.augment import Augmentation
from qmnv3.data.folder import ImageFolder
from qmnv3.data.loader import Batch
from qmnv3.data.order import START, Position, epoch_order
from qmnv3.data.training_batches import TrainingBatches
from qmnv3.data.workers import WorkerProcesses
from qmnv3.errors import DataError
from qmnv3.preprocessing import Preprocessing

SPEC = Preprocessing(16, 16, (0.5,) * 3, (0.5,) * 3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> ImageFolder:
    """26 images of two classes."""
    root = tmp_path_factory.mktemp("photos")
    generator = np.random.default_rng(0)
    for index in range(26):
        path = root / f"class{index % 2}" / f"{index:02d}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (20, 24, 3), np.uint8)).save(path)
    return find_images(root, classes=True)


def take(folder: ImageFolder, count: int, **options: object) -> list[Batch]:
    settings = {"batch_size": 4, "seed": 5} | options
    batches = TrainingBatches(folder, SPEC, Augmentation(), **settings)  # type: ignore[arg-type]
    try:
        return [next(batches) for _ in range(count)]
    finally:
        batches.close()


def all_same(ours: list[Batch], theirs: list[Batch]) -> bool:
    return all(
        a.paths == b.paths and np.array_equal(a.images, b.images) for a, b in zip(ours, theirs, strict=True)
    )


@pytest.mark.parametrize("processes", [1, 4])
def test_other_processes_share_the_batches_that_a_training_began_with(
    folder: ImageFolder, processes: int
) -> None:
    """Of two processes with four images each."""
    begun = [take(folder, 4, rank=rank, world_size=2) for rank in (0, 1)]
    now = [take(folder, 4, rank=rank, world_size=processes, begun_by=2) for rank in range(processes)]
    for step in range(4):
        expected, found = ([part[step].paths for part in parts] for parts in (begun, now))
        assert {len(paths) for paths in found} == {8 // processes}
        assert sorted(sum(found, ())) == sorted(sum(expected, ()))


@pytest.mark.parametrize("processes", [3, 16])
def test_processes_that_cannot_share_such_a_batch_are_refused(folder: ImageFolder, processes: int) -> None:
    found = f"{processes} processes: 2 began with 8 images .*; start a number of processes that divides 8"
    with pytest.raises(DataError, match=found):
        take(folder, 1, world_size=processes, begun_by=2)


def test_the_order_is_a_permutation_and_another_one_each_epoch() -> None:
    orders = [epoch_order(100, 3, epoch) for epoch in (0, 1, 0)]
    assert sorted(orders[0]) == list(range(100))
    assert np.array_equal(orders[0], orders[2]) and not np.array_equal(orders[0], orders[1])
    assert not np.array_equal(orders[0], epoch_order(100, 4, 0))


def test_an_epoch_shows_each_image_once_and_then_looks_different(folder: ImageFolder) -> None:
    batches = take(folder, 12)
    first = [path for batch in batches[:6] for path in batch.paths]
    assert len(first) == len(set(first)) == 24
    assert [folder.classes[label] for batch in batches for label in batch.labels] == [
        path.parent.name for batch in batches for path in batch.paths
    ]
    again = {
        path: image for batch in batches[6:] for path, image in zip(batch.paths, batch.images, strict=True)
    }
    known = {
        path: image for batch in batches[:6] for path, image in zip(batch.paths, batch.images, strict=True)
    }
    assert not any(np.array_equal(again[path], known[path]) for path in again.keys() & known.keys())


def test_threads_do_not_matter_and_any_position_can_be_resumed(folder: ImageFolder) -> None:
    whole = take(folder, 14, workers=1)
    assert all_same(whole, take(folder, 14, workers=4))
    for at, start in ((1, (0, 1)), (5, (0, 5)), (6, (0, 6)), (6, (1, 0)), (9, (1, 3))):
        assert all_same(whole[at:], take(folder, 14 - at, start=Position(*start)))


def test_processes_decode_what_threads_do(folder: ImageFolder, tmp_path: Path) -> None:
    assert all_same(take(folder, 3, batch_size=20), take(folder, 3, batch_size=20, processes=True, workers=3))
    (tmp_path / "0.png").write_bytes(b"\x89PNG broken")
    Image.new("RGB", (20, 20)).save(tmp_path / "1.png")
    broken = find_images(tmp_path, classes=False)
    batches = TrainingBatches(broken, SPEC, Augmentation(), batch_size=2, seed=0, processes=True)
    assert next(batches).paths == 2 * (tmp_path / "1.png",)
    assert "0.png: corrupt" in batches.skipped.reasons[0]
    batches.close()
    assert not multiprocessing.active_children()


WORKER = """
import os, sys
from qmnv3.data.workers import WorkerProcesses
if __name__ == "__main__":
    run = WorkerProcesses(1)
    print(run(os.getpid), flush=True)
    sys.stdin.read()
"""


def test_processes_end_with_a_killed_parent(tmp_path: Path) -> None:
    (tmp_path / "parent.py").write_text(WORKER)
    command = [sys.executable, str(tmp_path / "parent.py")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = Path("/proc") / parent.stdout.readline().strip()
        assert child.exists()
        parent.kill()
    deadline = time.monotonic() + 30
    while _lives(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _lives(child)


def _lives(process: Path) -> bool:
    """Not gone, and not a zombie that nobody has asked for."""
    try:
        return bool((process / "cmdline").read_bytes())
    except OSError:
        return False


def test_what_ends_a_training_is_left_to_it() -> None:
    """Ctrl-C and SIGTERM, which may reach every process of a job: the training saves, and needs images."""
    run = WorkerProcesses(1)
    process = run(os.getpid)
    for each in (signal.SIGINT, signal.SIGTERM):
        os.kill(process, each)
    assert run(os.getpid) == process
    run.close()


def test_a_killed_process_is_an_error_of_one_line() -> None:
    run = WorkerProcesses(1)
    with pytest.raises(DataError, match=r"a process that decodes images died; .*lower --workers"):
        run(os.kill, run(os.getpid), signal.SIGKILL)
    run.close()


def test_two_processes_see_what_one_with_the_doubled_batch_sees(folder: ImageFolder) -> None:
    whole = take(folder, 5, batch_size=8)
    halves = [take(folder, 5, batch_size=4, rank=rank, world_size=2) for rank in (0, 1)]
    for batch, first, second in zip(whole, *halves, strict=True):
        assert batch.paths[0::2] == first.paths and batch.paths[1::2] == second.paths
        assert np.array_equal(batch.images[1::2], second.images)


def test_a_small_folder_is_one_smaller_batch(folder: ImageFolder) -> None:
    batches = TrainingBatches(folder, SPEC, Augmentation(), batch_size=100, seed=0)
    assert batches.steps_per_epoch == 1 and len(next(batches)) == 26
    batches.close()
    with pytest.raises(DataError, match="26 images for 27 processes"):
        TrainingBatches(folder, SPEC, Augmentation(), batch_size=1, seed=0, world_size=27)


def test_a_corrupt_image_is_named_once_and_left_out(tmp_path: Path) -> None:
    for index in range(6):
        Image.new("RGB", (20, 20)).save(tmp_path / f"{index}.png")
    (tmp_path / "3.png").write_bytes(b"\x89PNG broken")
    folder = find_images(tmp_path, classes=False)
    batches = TrainingBatches(folder, SPEC, Augmentation(), batch_size=3, seed=0)
    sizes = [len(next(batches)) for _ in range(4)]
    assert sorted(sizes) == [2, 2, 3, 3]
    assert batches.skipped.paths == [tmp_path / "3.png"] and "3.png: corrupt" in batches.skipped.reasons[0]
    batches.close()


def test_a_batch_without_any_image_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "only.png").write_bytes(b"not an image")
    folder = find_images(tmp_path, classes=False)
    with pytest.raises(DataError, match=r"none of a batch can be read; .*only.png"):
        next(TrainingBatches(folder, SPEC, Augmentation(), batch_size=3, seed=0))


def test_closing_stops_the_threads(folder: ImageFolder) -> None:
    before = set(threading.enumerate())
    batches = TrainingBatches(folder, SPEC, Augmentation(), batch_size=4, seed=0, start=START)
    next(batches)
    assert set(threading.enumerate()) - before
    batches.close()
    assert not set(threading.enumerate()) - before


def test_a_batch_of_one_image_holds_it_twice(tmp_path: Path, folder: ImageFolder) -> None:
    """BatchNorm of 1x1 maps takes no statistics of one value; the gradient is that of the one."""
    (single,) = take(folder, 1, batch_size=1)
    assert single.images.shape[0] == len(single.labels) == len(single) == 2
    assert np.array_equal(single.images[0], single.images[1]) and single.labels[0] == single.labels[1]
    (shared,) = take(folder, 1, batch_size=1, rank=1, world_size=2)
    assert len(shared) == 1

    batch = torch.from_numpy(single.images).permute(0, 3, 1, 2)
    net = nn.Sequential(nn.Conv2d(3, 4, 16), nn.BatchNorm2d(4))
    assert net(batch).shape == (2, 4, 1, 1)
