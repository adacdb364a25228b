"""One of the processes of test_processes.py: `processes_worker.py WHAT OUT`.

Each writes into a folder of its own, as if they were on machines that share no files.
"""

import os
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn
from training.kill_at_random import SIDE

from qmnv3.data.augment import Augmentation
from qmnv3.data.folder import find_images
from qmnv3.data.training_batches import TrainingBatches
from qmnv3.preprocessing import Preprocessing
from qmnv3.training.config import EmaConfig, OptimizerConfig, TrainConfig
from qmnv3.training.distributed import World, join_world
from qmnv3.training.logs import Reporter
from qmnv3.training.loop import train
from qmnv3.training.synchronised import batch_norm
from qmnv3.training.task import ClassificationTask

GLOBAL_BATCH = 8


def norm_input() -> torch.Tensor:
    """Far from zero, where sums of squares lose what two passes keep."""
    return torch.randn(8, 4, 6, 6, generator=torch.Generator().manual_seed(3)) * 2 + 50


def normalise(world: World, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Output, running statistics and gradients; of several processes this one's share."""
    norm = nn.BatchNorm2d(4, eps=1e-3, momentum=0.01)
    with torch.no_grad():
        norm.weight.copy_(torch.arange(1.0, 5.0))
        norm.bias.copy_(torch.arange(4.0))
    x = norm_input()[world.rank :: world.size].to(dtype).requires_grad_()
    y = batch_norm(x, norm, norm.weight, norm.bias)
    weights = torch.linspace(-1, 1, norm_input().numel()).reshape(norm_input().shape)
    (y.float() * weights[world.rank :: world.size]).sum().backward()
    assert x.grad is not None and y.dtype == dtype
    return {
        "y": y.detach(),
        "mean": norm.running_mean,
        "var": norm.running_var,
        "gradient": x.grad,
        "weight_gradient": norm.weight.grad,
    }


def network(dropout: float) -> nn.Module:
    torch.manual_seed(1)
    layers = (nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.Hardswish(), nn.Dropout(dropout), nn.Flatten())
    return nn.Sequential(*layers, nn.Linear(8 * 49, 2))


class DieAt:
    """A reporter that kills this process after a step, as a machine dies."""

    def __init__(self, step: int) -> None:
        self.at = step

    def step(self, record: dict[str, object], total: int) -> None:
        if record["step"] == self.at:
            os.kill(os.getpid(), 9)

    def validated(self, record: dict[str, object]) -> None:
        pass


def learn(
    world: World,
    out: Path,
    *,
    dropout: float,
    reporter: Reporter | None = None,
    begun_by: int = 0,
    resume: bool = False,
) -> nn.Module:
    folder, spec = find_images(out.parent / "images", classes=True), Preprocessing(SIDE, SIDE)
    config = TrainConfig(
        epochs=3,
        batch_size=GLOBAL_BATCH // (begun_by or world.size),
        save_every_s=1e-9,
        log_every=1,
        optimizer=OptimizerConfig(kind="sgd", rate=0.01, reference_batch=GLOBAL_BATCH),
        ema=EmaConfig(enabled=True),
    )
    model = network(dropout)
    train(
        ClassificationTask(model),
        lambda start, begun_by: TrainingBatches(
            folder,
            spec,
            Augmentation(),
            batch_size=config.batch_size,
            seed=0,
            start=start,
            rank=world.rank,
            world_size=world.size,
            begun_by=begun_by,
        ),
        config,
        out,
        recipe=config.model_dump(),
        validate=lambda model: 0.5,
        world=world,
        resume=resume,
        reporter=reporter,
    )
    return model


def main(what: str, out: Path) -> None:
    torch.set_num_threads(1)
    world = join_world("cpu")
    out = out / f"machine{world.rank}"
    if what == "plain":
        result = learn(world, out, dropout=0.0).state_dict()
        for dtype in (torch.float32, torch.bfloat16):
            result |= {f"{dtype} {name}": tensor for name, tensor in normalise(world, dtype).items()}
    elif what == "of one":
        result = learn(world, out, dropout=0.0, begun_by=1, resume=True).state_dict()
    elif what == "end":
        result = learn(world, out, dropout=0.0, reporter=DieAt(5)).state_dict()
    else:
        dies = what == "dies" and world.rank == 1 and not world.restarted
        result = learn(world, out, dropout=0.3, reporter=DieAt(5) if dies else None).state_dict()
    save_file({name: tensor.contiguous() for name, tensor in result.items()}, out / "result.safetensors")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
