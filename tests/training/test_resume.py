"""Runs that were killed, stopped or hit a full disk go on, to the bit."""

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from training.training_runs import STEPS_PER_EPOCH, KillAt, Killed, Noise, config, run

from qmnv3.errors import TrainingError, TrainingStopped
from qmnv3.training.logs import read_log
from qmnv3.training.randomness import seed_step


class SignalAt:
    """A reporter that has the process signalled after a step."""

    def __init__(self, step: int, number: int) -> None:
        self.at, self.number = step, number

    def step(self, record: dict[str, Any], total: int) -> None:
        if record["step"] == self.at:
            os.kill(os.getpid(), self.number)

    def validated(self, record: dict[str, Any]) -> None:
        pass


@pytest.mark.parametrize("kind", ["sgd", "adamw", "rmsprop"])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_resumed_run_ends_as_one_that_was_not_interrupted(
    tmp_path: Path, kind: str, accumulate: int
) -> None:
    """Killed in the middle of the second epoch; dropout, averages and momentum included."""
    settings = config(kind, accumulate=accumulate)
    whole = run(tmp_path / "whole", settings)
    with pytest.raises(Killed):
        run(tmp_path / "killed", settings, reporter=KillAt(5))
    resumed = run(tmp_path / "killed", settings, resume=True)
    for a, b in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    logs = [
        [
            {k: v for k, v in line.items() if k != "images_per_s"}
            for line in read_log(tmp_path / name / "log.jsonl")
        ]
        for name in ("whole", "killed")
    ]
    assert logs[0] == logs[1] and len(logs[0]) == 3 * (STEPS_PER_EPOCH // accumulate)


def validations(out: Path) -> list[int]:
    return [line["step"] for line in read_log(out / "log.jsonl") if "validation" in line]


class KilledAtFirstStep:
    def step(self, record: dict[str, Any], total: int) -> None:
        raise Killed

    def validated(self, record: dict[str, Any]) -> None:
        pass


def test_what_training_began_with_is_judged_once_and_stays_in_the_log(tmp_path: Path) -> None:
    settings, judged = config(save_every_s=1e9), []

    def judge_start() -> float:
        judged.append(0.25)
        return 0.25

    options = {"validate": lambda model: 0.5, "judge_start": judge_start}
    with pytest.raises(Killed):
        run(tmp_path, settings, reporter=KilledAtFirstStep(), **options)
    run(tmp_path, settings, resume=True, **options)
    assert judged == [0.25]
    assert validations(tmp_path) == [STEPS_PER_EPOCH * epoch for epoch in (0, 1, 2, 3)]


class KilledAtFirstValidation:
    def step(self, record: dict[str, Any], total: int) -> None:
        pass

    def validated(self, record: dict[str, Any]) -> None:
        raise Killed


def test_a_validation_that_comes_again_is_logged_once(tmp_path: Path) -> None:
    """Killed when the validation is in the log, and what it judged in no checkpoint."""
    with pytest.raises(Killed):
        run(tmp_path, config(), validate=lambda model: 0.5, reporter=KilledAtFirstValidation())
    assert validations(tmp_path) == [STEPS_PER_EPOCH]
    run(tmp_path, config(), validate=lambda model: 0.5, resume=True)
    assert validations(tmp_path) == [STEPS_PER_EPOCH * epoch for epoch in (1, 2, 3)]
    run(tmp_path, config(), validate=lambda model: 0.5, resume=True)  # there is nothing left to do
    assert validations(tmp_path) == [STEPS_PER_EPOCH * epoch for epoch in (1, 2, 3)]


def test_a_line_that_was_cut_off_is_no_part_of_the_log(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        run(tmp_path, config(), reporter=KillAt(5))
    with (tmp_path / "log.jsonl").open("a") as log:
        log.write('{"step": 6, "lo')
    run(tmp_path, config(), resume=True)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 3 * STEPS_PER_EPOCH + 1))


def test_a_save_that_was_killed_leaves_nothing_for_long(tmp_path: Path) -> None:
    run(tmp_path, config(epochs=1))
    checkpoints = tmp_path / "checkpoints"
    (checkpoints / ".last.safetensors.x1y2.tmp").write_bytes(b"half of it")
    run(tmp_path, config(epochs=1), resume=True)
    assert [path.name for path in checkpoints.iterdir()] == ["last.safetensors"]


class Fewer(Noise):
    steps_per_epoch = 3


def test_other_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        run(tmp_path, config(), reporter=KillAt(5))
    with pytest.raises(TrainingError, match=r"last\S+: was begun with 7 batches .* now there are 3; resume"):
        run(tmp_path, config(), batches=Fewer, resume=True)


def test_random_numbers_of_a_step_are_its_own() -> None:
    drawn = []
    for rank, step in ((0, 0), (0, 1), (1, 0), (1, 1), (0, 1)):
        seed_step(7, rank, step)
        drawn.append(tuple(torch.rand(3).tolist()))
    assert len(set(drawn)) == 4 and drawn[1] == drawn[4]


@pytest.fixture
def hangs_up() -> Iterator[None]:
    """Also where the tests run under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("hangs_up")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_run_after_the_step_with_all_saved(tmp_path: Path, number: int) -> None:
    settings = config(save_every_s=1e9)
    whole = run(tmp_path / "whole", settings)
    with pytest.raises(TrainingStopped, match="stopped at step 5; --resume goes on") as stopped:
        run(tmp_path / "stopped", settings, reporter=SignalAt(5, number))
    assert stopped.value.exit_code == 128 + number
    resumed = run(tmp_path / "stopped", settings, resume=True)
    assert torch.equal(whole[0].weight, resumed[0].weight)


def test_a_full_disk_leaves_the_checkpoint_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(tmp_path, config(epochs=1))
    last = tmp_path / "checkpoints" / "last.safetensors"
    before = last.read_bytes()

    def full(path: Path, content: bytes) -> int:
        path.open("wb").write(content[:100])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
        patch.setattr(Path, "write_bytes", full)
        run(tmp_path, config(epochs=2), batches=Noise)
    assert last.read_bytes() == before and len(list(last.parent.iterdir())) == 1


def test_another_recipe_is_refused_by_its_first_difference(tmp_path: Path) -> None:
    run(tmp_path, config())
    with pytest.raises(TrainingError, match=r"optimizer.rate: 0.01 \(now 0.02\)"):
        changed = config().model_copy(
            update={"optimizer": config().optimizer.model_copy(update={"rate": 0.02})}
        )
        run(tmp_path, changed, resume=True)


@pytest.mark.parametrize("content", [b"", b"{}", b"\x80" * 100])
def test_a_damaged_checkpoint_is_an_error_of_one_line(tmp_path: Path, content: bytes) -> None:
    run(tmp_path, config())
    (tmp_path / "checkpoints" / "last.safetensors").write_bytes(content)
    with pytest.raises(TrainingError, match="not a checkpoint"):
        run(tmp_path, config(), resume=True)


@pytest.mark.parametrize("options", [("10",), ("2", "--command", "qat")], ids=["train", "qat"])
def test_kill_9_at_any_moment_leaves_a_run_that_can_go_on(tmp_path: Path, options: tuple[str, ...]) -> None:
    """A few kills at random moments here; the script takes more."""
    command = [sys.executable, Path(__file__).with_name("kill_at_random.py"), tmp_path, *options]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600)
    assert done.returncode == 0, done.stderr
    assert "ended as the unbroken run" in done.stdout
