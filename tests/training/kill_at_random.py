"""Kill a training with SIGKILL at random moments until it is done; it must end as one that was not killed.

`python tests/training/kill_at_random.py FOLDER [KILLS] [SEED]`: weights, averages, optimizer, log and
progress are compared to the bit. Trains on JPEG files, with augmentation, dropout, validation and a save
every step.
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch._dynamo  # which the first step of an optimizer imports, slower than all the training
from PIL import Image
from safetensors import safe_open
from torch import nn

from qmnv3.data.augment import Augmentation
from qmnv3.data.folder import find_images
from qmnv3.data.training_batches import TrainingBatches
from qmnv3.preprocessing import Preprocessing
from qmnv3.training.config import EmaConfig, OptimizerConfig, TrainConfig
from qmnv3.training.loop import train
from qmnv3.training.task import ClassificationTask

SIDE = 16
CONFIG = TrainConfig(
    epochs=8,
    batch_size=4,
    accumulate=2,
    save_every_s=1e-9,
    log_every=1,
    optimizer=OptimizerConfig(kind="rmsprop", rate=0.001, reference_batch=8),
    ema=EmaConfig(enabled=True),
)


def write_images(folder: Path) -> None:
    generator = np.random.default_rng(0)
    for index in range(46):
        path = folder / "ab"[index % 2] / f"{index:02}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = generator.integers(0, 128, (24, 24, 3)) + 100 * (index % 2)
        Image.fromarray(pixels.astype(np.uint8)).save(path)


def network() -> nn.Module:
    torch.manual_seed(1)
    layers = (nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.Hardswish(), nn.Dropout(0.3), nn.Flatten())
    return nn.Sequential(*layers, nn.Linear(8 * 49, 2))


def train_all(images: Path, out: Path) -> None:
    torch.set_num_threads(1)
    folder, spec = find_images(images, classes=True), Preprocessing(SIDE, SIDE)
    fixed = torch.randn(16, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(2))
    train(
        ClassificationTask(network()),
        lambda start: TrainingBatches(
            folder, spec, Augmentation(), batch_size=CONFIG.batch_size, seed=CONFIG.seed, start=start
        ),
        CONFIG,
        out,
        recipe=CONFIG.model_dump(),
        validate=lambda model: float(model(fixed).softmax(1).max(1).values.mean().detach()),
        resume=(out / "checkpoints" / "last.safetensors").exists(),
    )


def start(images: Path, out: Path) -> int:
    """A child that trains. Forked, since importing torch takes longer than the training."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            train_all(images, out)
            code = 0
        finally:
            os._exit(code)
    return child


def finish(child: int) -> None:
    _, status = os.waitpid(child, 0)
    if status:
        raise SystemExit(f"a training that was not killed ended with status {status}")


def unbroken(images: Path, out: Path) -> tuple[float, float]:
    """Seconds until the first step of a training that is left alone, and of all the others."""
    child, began = start(images, out), time.perf_counter()
    while not steps_in(out):
        time.sleep(0.002)
    first_s = time.perf_counter() - began
    finish(child)
    return first_s, time.perf_counter() - began - first_s


def steps_in(out: Path) -> int:
    log = out / "log.jsonl"
    return log.read_text().count('"loss"') if log.exists() else 0


def kill_until_done(
    images: Path, out: Path, delays: random.Random, longest_s: float, kills: int
) -> list[int]:
    """Steps after which it was killed: `kills` of them, or fewer if it was done before."""
    steps: list[int] = []
    while len(steps) < kills:
        child = start(images, out)
        time.sleep(delays.uniform(0.0, longest_s))
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            if status:
                raise SystemExit(f"after {len(steps)} kills it could not go on: status {status}")
            return steps
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        steps.append(steps_in(out))
    finish(start(images, out))
    return steps


def contents(out: Path) -> dict[str, object]:
    """Everything that must be alike; which files there are, too."""
    found: dict[str, object] = {"files": sorted(str(path.relative_to(out)) for path in out.rglob("*"))}
    for path in sorted((out / "checkpoints").iterdir()):
        with safe_open(path, framework="numpy") as file:
            found |= {f"{path.name} {key}": file.get_tensor(key).tobytes() for key in file.keys()}  # noqa: SIM118
            found |= {f"{path.name} {key}": value for key, value in file.metadata().items()}
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    for line in lines:
        line.pop("images_per_s", None)
    return found | {"log": lines}


def main(folder: Path, kills: int = 20, seed: int = 0) -> None:
    images = folder / "images"
    write_images(images)
    first_s, all_s = unbroken(images, folder / "whole")
    # Some are killed before their first step, most of them somewhere in their share of the rest.
    longest_s = 1.5 * (first_s + all_s / kills)
    whole = contents(folder / "whole")
    delays = random.Random(seed)
    runs: list[list[int]] = []
    while sum(map(len, runs)) < kills:
        out = folder / f"killed{len(runs)}"
        left = kills - sum(map(len, runs))
        runs.append(kill_until_done(images, out, delays, longest_s, left))
        killed = contents(out)
        different = [key for key in whole.keys() | killed.keys() if whole.get(key) != killed.get(key)]
        if different:
            raise SystemExit(f"{out}: {', '.join(sorted(different))} differ from the unbroken run's")
    for steps in runs:
        print(f"killed after steps {steps}, ended as the unbroken run")


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
