"""`qmnv3 ptq` by several processes that torchrun starts."""

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from cli_command import ENVIRONMENT, HERE, Finished, run_main, untouched
from safetensors.numpy import load_file

from qmnv3.cli.ptq_job import Photos
from qmnv3.data.folder import find_images
from qmnv3.preprocessing import Preprocessing
from qmnv3.training.distributed import World

LAUNCHER = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
# Batches of two, so that both processes have some; every level has something to do.
RECIPE = "level: 5\nbatch_size: 2\nreconstruction: {steps: 2}\n"


def torchrun(*arguments: object) -> Finished:
    command = [*LAUNCHER, *map(str, arguments)]
    environment = ENVIRONMENT | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    return Finished(done.returncode, done.stdout, done.stderr)


@dataclass(frozen=True)
class Runs:
    """What one process wrote, and what two wrote and printed of which the first was killed once."""

    one: Path
    two: Path
    printed: Finished


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, photos: Path, weights: Path) -> Runs:
    folder = tmp_path_factory.mktemp("runs")
    recipe = folder / "recipe.yaml"
    recipe.write_text(RECIPE)
    given = ("ptq", "--model", "user_nets:tiny", "--weights", weights, "--calib", photos, "--recipe", recipe)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as torchrun's processes have: sums are then of the same order
    try:
        assert run_main(*given, "--out", folder / "one" / "RUN") == 0
    finally:
        torch.set_num_threads(threads)
    command = ("--max-restarts", 1, HERE / "dying_command.py", *given, "--out", folder / "two" / "RUN")
    return Runs(folder / "one" / "RUN", folder / "two" / "RUN", torchrun(*command))


def test_two_processes_write_what_one_writes(runs: Runs) -> None:
    assert runs.printed.code == 0, runs.printed.stderr
    one, two = (load_file(run / "int8.safetensors") for run in (runs.one, runs.two))
    assert one.keys() == two.keys()
    for name, array in one.items():
        np.testing.assert_array_equal(two[name], array, name)
    reports = [json.loads((run / "calibration.json").read_text()) for run in (runs.one, runs.two)]
    grids = [[(row["scale"], row["zero_point"]) for row in report["layers"]] for report in reports]
    assert grids[0] == grids[1]
    assert [report["images"] for report in reports] == [6, 6]


def test_only_the_first_process_speaks_and_writes(runs: Runs) -> None:
    lines = runs.printed.stdout.splitlines()
    assert sum("int8 against float" in line for line in lines) == 1
    assert runs.printed.stderr.count("warning: calibration images") == 1
    assert [path.name for path in runs.two.parent.iterdir()] == ["RUN"]


def test_a_job_started_again_goes_on_with_the_next_block(runs: Runs) -> None:
    blocks = [line for line in runs.printed.stdout.splitlines() if line.startswith("block ")]
    count = len(json.loads((runs.two / "calibration.json").read_text())["reconstruction"])
    assert blocks == [f"block {index}" for index in range(count)]
    assert count > 1
    assert f"RUN.partial: continues at block 2 of {count}" in runs.printed.stderr


def test_all_end_with_one_line_when_some_fail(tmp_path: Path, photos: Path) -> None:
    """Images of both processes are corrupt."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for index in range(4):
        (folder / f"{index}.png").write_bytes(b"no image")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE)
    given = ("--model", "user_nets:tiny", "--resolution", 32, "--calib", folder, "--recipe", recipe)
    with untouched(tmp_path):
        done = torchrun("-m", "qmnv3", "ptq", *given, "--out", tmp_path / "RUN")
    assert done.code != 0
    assert done.stdout == ""
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, done.stderr
    assert "corrupt image" in errors[0]
    assert "qmnv3/cli" not in done.stderr  # no traceback of ours


def test_batches_take_turns_and_a_share_may_have_no_good_image(tmp_path: Path, photos: Path) -> None:
    folder = tmp_path / "photos"
    shutil.copytree(photos, folder)
    images = find_images(folder, classes=False)
    for index in (2, 3):
        images.path(index).write_bytes(b"no image")
    source = Photos(images, Preprocessing(32, 32), 2, (5, 4, 3, 2, 1), skip_bad=True)
    whole = Photos(images, Preprocessing(32, 32), 1, (5, 4, 1), skip_bad=False)
    shares = [source.share(World(rank, 2, "cpu")) for rank in (0, 1)]
    assert all(share is not None for share in shares)
    first, second = (list(share.images()) for share in shares if share)
    assert [len(batch) for batch in first] == [2, 1]
    np.testing.assert_array_equal(np.concatenate(first), np.concatenate(list(whole())))
    assert second == []
    assert source.skipped == [images.path(3), images.path(2)]
    assert (
        Photos(images, Preprocessing(32, 32), 2, (5, 4, 1), skip_bad=True).share(World(0, 1, "cpu")) is None
    )
