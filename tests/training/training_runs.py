"""Trainings of a small network that take a moment."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from qmnv3.data.loader import Batch, SkippedImages
from qmnv3.data.order import Position
from qmnv3.training.config import EmaConfig, OptimizerConfig, TrainConfig
from qmnv3.training.loop import train
from qmnv3.training.task import ClassificationTask

STEPS_PER_EPOCH = 7


class Noise:
    """Batches of noise whose class shifts its mean; what is in one follows from its position."""

    steps_per_epoch = STEPS_PER_EPOCH

    def __init__(self, start: Position, processes: int, poison_at: Position | None = None) -> None:
        # After the last batch of an epoch comes the next one.
        self.position = start if start.batch < self.steps_per_epoch else Position(start.epoch + 1, 0)
        self.poison_at = poison_at
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
