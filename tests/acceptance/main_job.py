"""The main job from the command line, and how near its int8 file stays to the float one."""

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.special import log_softmax

from device_eval.runners.litert import LitertRunner
from device_eval.statistics import Proportion, proportion
from qmnv3.data import find_images, load_batches, sample
from qmnv3.preprocessing import Preprocessing


@dataclass(frozen=True)
class Nearness:
    """KL divergence from float (nats) and share of equal top-1."""

    kl: float
    agreement: Proportion


def qmnv3(*arguments: object) -> str:
    """What a command prints; it must succeed."""
    command = [sys.executable, "-m", "qmnv3", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def held_out_photos(folder: Path) -> list[int]:
    """Numbers of the photos that `qmnv3 ptq` leaves out by default."""
    photos = find_images(folder, classes=False)
    return sorted(set(range(len(photos.paths))) - set(sample(photos, 200, 0)))


def nearness(
    exact: Path, quantized: Path, folder: Path, indices: Sequence[int], spec: Preprocessing
) -> Nearness:
    """Of two TFLite files under XNNPACK, on these photos of `folder`; no labels, so little noise."""
    runners = [LitertRunner(model, "xnnpack", 2) for model in (exact, quantized)]
    logits: list[list[np.ndarray]] = [[], []]
    for batch in load_batches(find_images(folder, classes=False), spec, 50, indices=indices):
        for runner, rows in zip(runners, logits, strict=True):
            rows.append(runner.run(batch.images))
    of_float, of_int8 = (log_softmax(np.concatenate(rows).astype(np.float64), axis=1) for rows in logits)
    kl = float((np.exp(of_float) * (of_float - of_int8)).sum(1).mean())
    equal = of_float.argmax(1) == of_int8.argmax(1)
    return Nearness(kl, proportion(int(equal.sum()), len(equal)))
