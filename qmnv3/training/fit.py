"""A plain supervised training loop: SGD, one-cycle learning rate, cross-entropy."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import nn

from qmnv3.errors import TrainingError

Images = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]


@dataclass(frozen=True)
class FitConfig:
    """Hyperparameters of `fit`. `shift` moves each training image by up to so many pixels."""

    epochs: int = 10
    batch_size: int = 32
    learning_rate: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 1e-4
    shift: int = 4
    seed: int = 0


def fit(
    model: nn.Module,
    images: Images,
    labels: Labels,
    config: FitConfig,
    advance: Callable[[int], None] = lambda epochs: None,
) -> float:
    """Train `model` in place on `images` (float32 NHWC, normalised, all in memory); returns the last loss.

    Deterministic under `config.seed`. The last, smaller batch of an epoch is left out, for BatchNorm's sake.
    `advance` is called after every epoch. Raises TrainingError when the loss is no longer finite.
    """
    generator = torch.Generator().manual_seed(config.seed)
    torch.manual_seed(config.seed)  # dropout
    inputs = torch.from_numpy(images).permute(0, 3, 1, 2)
    targets = torch.from_numpy(labels)
    model.to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    optimizer = torch.optim.SGD(
        model.parameters(), config.learning_rate, config.momentum, weight_decay=config.weight_decay
    )
    steps = len(inputs) // config.batch_size
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, config.learning_rate, total_steps=max(1, steps * config.epochs)
    )
    loss = torch.tensor(0.0)
    for epoch in range(config.epochs):
        order = torch.randperm(len(inputs), generator=generator)
        for step in range(steps):
            chosen = order[step * config.batch_size : (step + 1) * config.batch_size]
            loss = F.cross_entropy(model(_shifted(inputs[chosen], config.shift, generator)), targets[chosen])
            if not torch.isfinite(loss):
                raise TrainingError(f"epoch {epoch}, step {step}: loss is {float(loss)}; lower learning_rate")
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
        advance(1)
    model.eval()
    return float(loss.detach())


def _shifted(batch: torch.Tensor, most: int, generator: torch.Generator) -> torch.Tensor:
    """The batch moved by one random offset of up to `most` pixels, edges repeated."""
    top, left = torch.randint(0, 2 * most + 1, (2,), generator=generator).tolist()
    padded = F.pad(batch, (most, most, most, most), mode="replicate")
    return padded[:, :, top : top + batch.shape[2], left : left + batch.shape[3]].contiguous(
        memory_format=torch.channels_last
    )
