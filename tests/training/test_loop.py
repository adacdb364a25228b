"""The loop on a small task: resuming, kills, divergence, logs."""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from qmnv3.data.loader import Batch, SkippedImages
from qmnv3.data.order import Position
from qmnv3.errors import TrainingError, TrainingStopped
from qmnv3.training.checkpoints import Progress, Trained, save_state
from qmnv3.training.config import EmaConfig, OptimizerConfig, TrainConfig
from qmnv3.training.logs import read_log
from qmnv3.training.loop import train
from qmnv3.training.optimizer import make_optimizer
from qmnv3.training.task import ClassificationTask

STEPS_PER_EPOCH = 7


class Noise:
    """Batches of noise whose class shifts its mean; what is in one follows from its position."""

    steps_per_epoch = STEPS_PER_EPOCH

    def __init__(self, start: Position, poison_at: Position | None = None) -> None:
        self.position, self.poison_at = start, poison_at
        self.skipped = SkippedImages()

    def __next__(self) -> Batch:
        epoch, batch = self.position
        generator = np.random.default_rng([epoch, batch])
        labels = generator.integers(0, 3, 8)
        images = generator.normal(size=(8, 8, 8, 3)).astype(np.float32) + labels[:, None, None, None]
        if self.position == self.poison_at:
            images[0] = np.nan
        self.position = Position(epoch, batch + 1) if batch + 1 < STEPS_PER_EPOCH else Position(epoch + 1, 0)
        return Batch(images.astype(np.float32), labels, ())

    def close(self) -> None:
        pass


def network() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3),
        nn.BatchNorm2d(6),
        nn.Hardswish(),
        nn.Dropout(0.3),
        nn.Flatten(),
        nn.Linear(216, 3),
    )


def config(kind: str = "sgd", **changes: Any) -> TrainConfig:
    base: dict[str, Any] = {
        "epochs": 3,
        "batch_size": 8,
        "save_every_s": 1e-9,
        "log_every": 1,
        "ema": EmaConfig(enabled=True),
    }
    optimizer = OptimizerConfig(kind=kind, rate=0.01, reference_batch=8, momentum=0.9)
    return TrainConfig(optimizer=optimizer, **(base | changes))


class Killed(Exception):
    pass


class SignalAt:
    """A reporter that has the process signalled after a step."""

    def __init__(self, step: int, number: int) -> None:
        self.at, self.number = step, number

    def step(self, record: dict[str, Any], total: int) -> None:
        if record["step"] == self.at:
            os.kill(os.getpid(), self.number)

    def validated(self, record: dict[str, Any]) -> None:
        pass


class KillAt:
    """A reporter that stops the training after a step."""

    def __init__(self, step: int) -> None:
        self.at = step

    def step(self, record: dict[str, Any], total: int) -> None:
        if record["step"] == self.at:
            raise Killed

    def validated(self, record: dict[str, Any]) -> None:
        pass


def run(out: Path, settings: TrainConfig, **options: Any) -> nn.Module:
    model = network()
    recipe = settings.model_dump()
    train(ClassificationTask(model), options.pop("batches", Noise), settings, out, recipe=recipe, **options)
    return model


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


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
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


def test_tensorboard_gets_what_the_log_gets(tmp_path: Path) -> None:
    run(tmp_path, config(epochs=2, tensorboard=True), validate=lambda model: 0.25)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    losses = [line["loss"] for line in read_log(tmp_path / "log.jsonl") if "loss" in line]
    assert [event.value for event in events.Scalars("loss")] == pytest.approx(losses)
    assert [event.step for event in events.Scalars("validation")] == [STEPS_PER_EPOCH, 2 * STEPS_PER_EPOCH]


def test_it_learns_and_keeps_the_best(tmp_path: Path) -> None:
    seen = []

    def judge(model: nn.Module) -> float:
        seen.append([0.5, 0.9, 0.7][len(seen)])
        return seen[-1]

    model = run(tmp_path, config(ema=EmaConfig()), validate=judge)
    losses = [line["loss"] for line in read_log(tmp_path / "log.jsonl") if "loss" in line]
    assert np.mean(losses[-5:]) < 0.6 * np.mean(losses[:3])
    best = load_file(tmp_path / "checkpoints" / "best.safetensors")
    last = load_file(tmp_path / "checkpoints" / "last.safetensors")
    assert torch.equal(model[0].weight, best["model.0.weight"])
    assert not torch.equal(best["model.0.weight"], last["model.0.weight"])


def test_bfloat16_learns_too(tmp_path: Path) -> None:
    run(tmp_path, config(precision="bf16"))
    losses = [line["loss"] for line in read_log(tmp_path / "log.jsonl")]
    assert np.mean(losses[-5:]) < 0.6 * np.mean(losses[:3])


def assert_all_finite(out: Path) -> None:
    state = load_file(out / "checkpoints" / "last.safetensors")
    assert all(bool(torch.isfinite(t).all()) for t in state.values() if t.is_floating_point())


@pytest.mark.parametrize(("accumulate", "batch", "step"), [(1, 2, 9), (2, 2, 4), (2, 3, 4)])
def test_divergence_names_step_layer_and_a_checkpoint_that_is_whole(
    tmp_path: Path, accumulate: int, batch: int, step: int
) -> None:
    """A NaN in the second epoch, in the first or the second batch of an update."""
    poisoned = Position(1, batch)
    found = rf"step {step}: loss is nan, .* first layer .* not finite: 0; lower the rate .*last\.safetensors"
    with pytest.raises(TrainingError, match=found):
        run(
            tmp_path,
            config(accumulate=accumulate),
            batches=lambda start: Noise(start, poisoned),
        )
    assert_all_finite(tmp_path)


class Rooted(nn.Module):
    """Logits gain a root that is zero: they stay finite, their gradients do not."""

    def __init__(self) -> None:
        super().__init__()
        self.net = network()
        self.rooted = False

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.net(images)
        return logits + (logits - logits).sqrt() if self.rooted else logits


class RootedTask(ClassificationTask):
    def before_step(self, step: int, steps_per_epoch: int) -> None:
        self.model.rooted = step == 5


@pytest.mark.parametrize("clip", [None, 1.0])
def test_a_gradient_that_is_not_finite_never_reaches_the_weights(tmp_path: Path, clip: float | None) -> None:
    settings = config(max_grad_norm=clip)
    found = r"step 5: loss is \d\.\d+, gradient nan; .* whose gradient is not finite: net.5.bias; .*last"
    with pytest.raises(TrainingError, match=found):
        train(RootedTask(Rooted()), Noise, settings, tmp_path, recipe={})
    assert_all_finite(tmp_path)
    assert read_log(tmp_path / "log.jsonl")[-1]["step"] == 5


def test_weights_that_overflowed_are_not_saved(tmp_path: Path) -> None:
    model = network()
    optimizer = make_optimizer(model, OptimizerConfig(), effective_batch=8)
    path = tmp_path / "last.safetensors"
    save_state(path, Trained(model, optimizer, None, Progress(), {}))
    before = path.read_bytes()
    nn.init.constant_(model[1].weight, float("inf"))
    with pytest.raises(TrainingError, match=r"step 3: model.1.weight is not finite; lower the rate .*last"):
        save_state(path, Trained(model, optimizer, None, Progress(step=3), {}))
    assert path.read_bytes() == before


def test_gradients_are_clipped_together(tmp_path: Path) -> None:
    """Plain gradient descent by 1 from the same start: the weights move by the bound in all."""
    plain = OptimizerConfig(kind="sgd", rate=1.0, reference_batch=8, momentum=0.0, weight_decay=0.0)
    settings = config(max_grad_norm=0.25, ema=EmaConfig()).model_copy(update={"optimizer": plain})
    with pytest.raises(Killed):
        run(tmp_path, settings, reporter=KillAt(2))
    state = load_file(tmp_path / "checkpoints" / "last.safetensors")
    start = dict(network().named_parameters())
    moved = sum(
        float((state[f"model.{name}"] - value.detach()).square().sum()) for name, value in start.items()
    )
    assert moved**0.5 == pytest.approx(0.25, rel=1e-4)


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


def test_kill_9_at_any_moment_leaves_a_run_that_can_go_on(tmp_path: Path) -> None:
    """Each start is killed a little later; saving after every step, it still ends as an unbroken run."""
    script = "import sys; sys.path[:0] = sys.argv[2:]; import test_loop as t; from pathlib import Path; "
    script += "out = Path(sys.argv[1]); last = out / 'checkpoints' / 'last.safetensors'; "
    script += "t.run(out, t.config(epochs=40), resume=last.exists()); print('done')"
    command = [sys.executable, "-c", script, str(tmp_path / "killed"), str(Path(__file__).parent)]
    log = tmp_path / "killed" / "log.jsonl"
    for lines in (1, 40, 90, 150):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        deadline = time.monotonic() + 60
        while process.poll() is None and (not log.exists() or len(log.read_bytes().splitlines()) < lines):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.kill()
        process.wait()
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout == "done\n", done.stderr
    run(tmp_path / "whole", config(epochs=40))
    states = [load_file(tmp_path / name / "checkpoints" / "last.safetensors") for name in ("killed", "whole")]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[1])
