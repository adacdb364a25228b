"""`qmnv3 train` and `qmnv3 qat` by processes that torchrun starts, and starts again when one dies."""

import subprocess
import sys
from pathlib import Path

import pytest
from cli_command import ENVIRONMENT, HERE, MODEL, Finished

from qmnv3.cli.train_job import check_training_folder
from qmnv3.errors import TrainingError
from qmnv3.training.distributed import join_world

# A save every step; two steps an epoch for two processes.
TRAINING = (
    "{epochs: 3, batch_size: 6, save_every_s: 1.0e-9, log_every: 1, reestimate_images: 8, workers: 1, "
    "optimizer: {rate: 0.01, reference_batch: 12}}"
)


def torchrun(*arguments: object) -> Finished:
    """More than one restart is allowed: on a busy machine gloo may not find the other process in time."""
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    command = [sys.executable, *launcher, "--max-restarts", "3", str(HERE / "dying_training.py")]
    command += map(str, arguments)
    environment = ENVIRONMENT | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    return Finished(done.returncode, done.stdout, done.stderr)


def steps(done: Finished) -> list[int]:
    return [int(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("step ")]


@pytest.fixture(scope="module")
def recipes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("recipes")
    found = {name: folder / f"{name}.yaml" for name in ("train", "qat")}
    found["train"].write_text(TRAINING)
    found["qat"].write_text(
        "calibration: {level: 1, images: 8}\nforms: {activations: moving_average}\n"
        f"training: {TRAINING}\n"
    )
    return found


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, colours: Path, recipes: dict[str, Path]) -> Finished:
    """By two processes, the second of which is killed in the middle of the last epoch."""
    out = tmp_path_factory.mktemp("trained") / "float"
    done = torchrun("train", *MODEL, "--data", colours, "--recipe", recipes["train"], "--out", out)
    return Finished(done.code, f"{done.stdout}\nout {out}", done.stderr)


def test_train_goes_on_from_the_last_checkpoint_when_it_was_started_again(trained: Finished) -> None:
    assert trained.code == 0, trained.stderr
    assert steps(trained) == [0, 1, 2, 3, 4, 4, 5]
    assert "find_unused_parameters" not in trained.stderr  # a warning


def test_so_does_qat(tmp_path: Path, colours: Path, trained: Finished, recipes: dict[str, Path]) -> None:
    weights = Path(trained.stdout.split()[-1]) / "model.safetensors"
    out = tmp_path / "RUN"
    given = ("qat", "--model", "small", "--weights", weights, "--data", colours, "--recipe", recipes["qat"])
    done = torchrun(*given, "--out", out)
    assert done.code == 0, done.stderr
    assert steps(done) == [0, 1, 2, 3, 4, 4, 5]
    assert (out / "int8.safetensors").is_file()


def test_a_process_alone_is_told_that_it_was_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "1")
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert join_world("cpu").restarted
    for resume in (False, True):
        check_training_folder(tmp_path / "none yet", resume=resume, restarted=True)


def test_torchrun_may_resume_what_is_not_there_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Machines that come later are given the same command as the first ones, which found nothing."""
    with pytest.raises(TrainingError, match=r"no such folder, .* begin without --resume"):
        check_training_folder(tmp_path / "none yet", resume=True)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "a job")
    check_training_folder(tmp_path / "none yet", resume=True)
