"""Kill a training with SIGKILL at random moments until it is done; it must end as one that was not killed.

`python tests/training/kill_at_random.py FOLDER [KILLS] [SEED] [--command qat]`: weights, averages, optimizer,
log and progress are compared to the bit. Trains on JPEG files, with augmentation, dropout, validation and a
save every step: a small float network or, by the command itself, MobileNetV3-Small with quantization, ranges
that are averaged, and BatchNorm that is on batches first; then the RUNs are compared.
"""

import argparse
import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch._dynamo  # which the first step of an optimizer imports, slower than all the training
from PIL import Image
from safetensors import safe_open
from torch import nn

import qmnv3.cli.qat_job  # noqa: F401 (as above)
from qmnv3.cli import main as qmnv3_command
from qmnv3.data.augment import Augmentation
from qmnv3.data.folder import find_images
from qmnv3.data.training_batches import TrainingBatches
from qmnv3.models.checkpoint import save_checkpoint
from qmnv3.models.weights import load_model
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
QAT_RECIPE = """
calibration: {level: 1, images: 8}
forms: {activations: moving_average, momentum: 0.9}
schedule: {quantize_after: 0.2, freeze_batch_norm_after: 0.5, freeze_ranges_after: 0.8, damping: 0.1}
training:
  epochs: 4
  batch_size: 4
  accumulate: 2
  save_every_s: 1.0e-9
  log_every: 1
  reestimate_images: 8
  optimizer: {kind: adamw, rate: 0.001, reference_batch: 8}
  ema: {enabled: true}
"""


@dataclass(frozen=True)
class Training:
    """What is killed: `train` into a folder, where its log lies, and all that must be alike in the end."""

    train: Callable[[Path], None]
    log: Callable[[Path], Path]
    contents: Callable[[Path], dict[str, Any]]


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
    folder, spec = find_images(images, classes=True), Preprocessing(SIDE, SIDE)
    fixed = torch.randn(16, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(2))
    train(
        ClassificationTask(network()),
        lambda start, _: TrainingBatches(
            folder, spec, Augmentation(), batch_size=CONFIG.batch_size, seed=CONFIG.seed, start=start
        ),
        CONFIG,
        out,
        recipe=CONFIG.model_dump(),
        validate=lambda model: float(model(fixed).softmax(1).max(1).values.mean().detach()),
        resume=(out / "checkpoints" / "last.safetensors").exists(),
    )


def qat(folder: Path, out: Path) -> None:
    """What a user types; the weights, made once, are random."""
    recipe, weights = folder / "qat.yaml", folder / "float.safetensors"
    if not weights.exists():
        loaded = load_model("small", resolution=32, width=0.35, num_classes=2)
        save_checkpoint(weights, loaded.model, loaded.preprocessing)
    recipe.write_text(QAT_RECIPE)
    given = ("--model", "small", "--weights", weights, "--data", folder / "images")
    given += ("--val", folder / "images", "--recipe", recipe, "--out", out)
    begun = (out.with_name(f"{out.name}.training") / "checkpoints" / "last.safetensors").exists()
    sys.argv = ["qmnv3", "qat", *map(str, given), *(["--resume"] if begun else [])]
    try:
        qmnv3_command()
    except SystemExit as end:
        if end.code:
            raise


def start(training: Training, out: Path) -> int:
    """A child that trains. Forked, since importing torch takes longer than the training."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            training.train(out)
            code = 0
        finally:
            os._exit(code)
    return child


def finish(child: int) -> None:
    _, status = os.waitpid(child, 0)
    if status:
        raise SystemExit(f"a training that was not killed ended with status {status}")


def unbroken(training: Training, out: Path) -> tuple[float, float]:
    """Seconds until the first step of a training that is left alone, and of all the others."""
    child, began = start(training, out), time.perf_counter()
    while not steps_in(training.log(out)):
        time.sleep(0.002)
    first_s = time.perf_counter() - began
    finish(child)
    return first_s, time.perf_counter() - began - first_s


def steps_in(log: Path) -> int:
    return log.read_text().count('"loss"') if log.exists() else 0


def kill_until_done(
    training: Training, out: Path, delays: random.Random, longest_s: float, kills: int
) -> list[int]:
    """Steps after which it was killed: `kills` of them, or fewer if it was done before."""
    steps: list[int] = []
    while len(steps) < kills:
        child = start(training, out)
        time.sleep(delays.uniform(0.0, longest_s))
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            if status:
                raise SystemExit(f"after {len(steps)} kills it could not go on: status {status}")
            return steps
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        steps.append(steps_in(training.log(out)))
    finish(start(training, out))
    return steps


def checkpoints(out: Path) -> dict[str, Any]:
    """Which files there are, and all that is in them."""
    found = {"files": sorted(str(path.relative_to(out)) for path in out.rglob("*"))}
    for path in sorted((out / "checkpoints").iterdir()):
        found |= tensors(path)
    return found | {"log": lines(out / "log.jsonl")}


def run_folder(out: Path) -> dict[str, Any]:
    """Which files there are beside and in a RUN, and all that is in them but the time it took."""
    found: dict[str, Any] = {"files": sorted(path.name for path in out.iterdir())}
    found["beside"] = [path.name.removeprefix(out.name) for path in out.parent.glob(f"{out.name}.*")]
    for path in out.glob("*.safetensors"):
        found |= tensors(path)
    for path in out.glob("*.json"):
        found[path.name] = json.loads(path.read_text())
    del found["run.json"]["training"]["seconds"], found["run.json"]["environment"]
    return found | {"log": lines(out / "log.jsonl")}


def tensors(path: Path) -> dict[str, Any]:
    with safe_open(path, framework="numpy") as file:
        found = {f"{path.name} {key}": file.get_tensor(key).tobytes() for key in file.keys()}  # noqa: SIM118
        return found | {f"{path.name} {key}": value for key, value in (file.metadata() or {}).items()}


def lines(log: Path) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in log.read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "images_per_s"} for line in found]


def main(folder: Path, kills: int, seed: int, command: str | None) -> None:
    torch.set_num_threads(1)
    images = folder / "images"
    write_images(images)
    training = Training(lambda out: train_all(images, out), lambda out: out / "log.jsonl", checkpoints)
    if command == "qat":
        work = lambda out: out.with_name(f"{out.name}.training") / "log.jsonl"  # noqa: E731
        training = Training(lambda out: qat(folder, out), work, run_folder)
    first_s, all_s = unbroken(training, folder / "whole")
    # Some are killed before their first step, most of them somewhere in their share of the rest.
    longest_s = 1.5 * (first_s + all_s / kills)
    whole = training.contents(folder / "whole")
    delays = random.Random(seed)
    runs: list[list[int]] = []
    while sum(map(len, runs)) < kills:
        out = folder / f"killed{len(runs)}"
        left = kills - sum(map(len, runs))
        runs.append(kill_until_done(training, out, delays, longest_s, left))
        killed = training.contents(out)
        different = [key for key in whole.keys() | killed.keys() if whole.get(key) != killed.get(key)]
        if different:
            raise SystemExit(f"{out}: {', '.join(sorted(different))} differ from the unbroken run's")
    for steps in runs:
        print(f"killed after steps {steps}, ended as the unbroken run")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("kills", type=int, nargs="?", default=20)
    parser.add_argument("seed", type=int, nargs="?", default=0)
    parser.add_argument("--command", choices=["qat"])
    given = parser.parse_args()
    main(given.folder, given.kills, given.seed, given.command)
