"""The loop on a small task: learning, logs, what cannot be trained."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from training.training_runs import STEPS_PER_EPOCH, KillAt, Killed, Noise, config, network, run

from qmnv3.data.loader import Batch, SkippedImages
from qmnv3.errors import TrainingError
from qmnv3.training.config import EmaConfig, OptimizerConfig
from qmnv3.training.logs import LOG, read_log
from qmnv3.training.loop import train
from qmnv3.training.task import ClassificationTask


def test_an_epoch_shorter_than_an_update_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        TrainingError, match=r"accumulate: 8 batches make an update, but an epoch has 7; lower"
    ):
        run(tmp_path, config(accumulate=8))


class Skipping(Noise):
    """One image of the first epoch cannot be read, and neither in the second."""

    def __next__(self) -> Batch:
        if self.position.batch == 2:
            self.skipped.paths[:] = [Path("bad.jpg")]
        return super().__next__()


def test_an_image_that_cannot_be_read_is_named_at_once_and_counted_once(tmp_path: Path) -> None:
    settings = config(epochs=2)
    with pytest.raises(Killed):
        run(tmp_path, settings, batches=Skipping, reporter=KillAt(5))
    outcome = train(
        ClassificationTask(network()), Skipping, settings, tmp_path, recipe=settings.model_dump(), resume=True
    )
    assert outcome.skipped == ("bad.jpg",)
    named = [line for line in read_log(tmp_path / "log.jsonl") if "skipped" in line]
    assert named == [{"step": 3, "epoch": 0, "skipped": "bad.jpg"}]


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


def test_what_training_began_with_is_to_be_beaten(tmp_path: Path) -> None:
    for start, kept in ((0.9, True), (0.8, True), (0.75, False)):
        judged, out = iter([0.5, 0.8, 0.7]), tmp_path / f"{start}"
        outcome = train(
            ClassificationTask(network()),
            Noise,
            config(),
            out,
            recipe={},
            validate=lambda model, judged=judged: next(judged),
            judge_start=lambda start=start: start,
        )
        assert (outcome.kept_start, outcome.start, outcome.best) == (kept, start, max(start, 0.8))
        found = [(line["epoch"], line["validation"]) for line in read_log(out / LOG) if "validation" in line]
        assert found == [(0, start), (1, 0.5), (2, 0.8), (3, 0.7)]


def test_validation_images_that_cannot_be_read_are_named_and_counted(tmp_path: Path) -> None:
    unreadable = SkippedImages()

    def judge(model: nn.Module) -> float:
        unreadable.add(Path("val/bad.jpg"), "corrupt")
        return 0.5

    settings = config(epochs=2)
    task = ClassificationTask(network())
    outcome = train(task, Noise, settings, tmp_path, recipe={}, validate=judge, unreadable=unreadable)
    assert outcome.skipped == ("val/bad.jpg",)
    named = [line for line in read_log(tmp_path / LOG) if "skipped" in line]
    assert named == [{"step": STEPS_PER_EPOCH, "epoch": 1, "skipped": "val/bad.jpg"}]


def test_all_is_saved_before_a_validation(tmp_path: Path) -> None:
    def judge(model: nn.Module) -> float:
        raise Killed

    settings = config(save_every_s=1e9)
    with pytest.raises(Killed):
        run(tmp_path, settings, validate=judge)
    with safe_open(tmp_path / "checkpoints" / "last.safetensors", framework="pt") as file:
        assert json.loads(file.metadata()["progress"])["step"] == STEPS_PER_EPOCH
    run(tmp_path, settings, validate=lambda model: 0.5, resume=True)
    steps = [line["step"] for line in read_log(tmp_path / LOG) if "loss" in line]
    assert steps == list(range(1, 3 * STEPS_PER_EPOCH + 1))


class Recording(ClassificationTask):
    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self.calls: list[tuple[int, int]] = []

    def before_step(self, step: int, total: int) -> None:
        self.calls.append((step, total))


def test_a_task_knows_how_far_it_is(tmp_path: Path) -> None:
    """Two batches of the seven of an epoch make an update; it is told at validations and in the end too."""
    task, settings = Recording(network()), config(accumulate=2)
    train(task, Noise, settings, tmp_path, recipe={}, validate=lambda model: 0.5)
    steps = [0, 1, 2, 3, 3, 4, 5, 6, 6, 7, 8, 9, 9]
    assert task.calls == [(step, 9) for step in steps]
