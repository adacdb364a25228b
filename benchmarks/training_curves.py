"""Curves of trainings from their logs.

`python -m benchmarks.training_curves NAME=log.jsonl ... --out curves.svg`
"""

from pathlib import Path
from typing import Annotated

import matplotlib
import typer

from qmnv3.files import atomic_file
from qmnv3.training.logs import read_log

matplotlib.use("svg")
import matplotlib.pyplot as plt

_SMOOTHING = 0.95


def main(
    logs: Annotated[list[str], typer.Argument(help="NAME=log.jsonl of each training.")],
    out: Annotated[Path, typer.Option(help="Picture to write, .svg.")],
) -> None:
    """Smoothed loss and validation accuracy over the epochs."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    for entry in logs:
        name, _, path = entry.rpartition("=")
        records = read_log(Path(path))
        validations = [r for r in records if "validation" in r]
        losses = [r for r in records if "loss" in r]
        per_epoch = max((r["step"] / r["epoch"] for r in validations if r["epoch"]), default=1.0)
        left.plot([r["step"] / per_epoch for r in losses], _smooth([r["loss"] for r in losses]), label=name)
        right.plot(
            [r["step"] / per_epoch for r in validations],
            [100 * r["validation"] for r in validations],
            marker="o",
            markersize=3,
            label=name,
        )
    for axes, title in ((left, "loss, smoothed"), (right, "validation, top-1 %")):
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("epoch")
        axes.grid(alpha=0.3)
    right.legend(fontsize=8)
    matplotlib.rcParams["svg.hashsalt"] = "qmnv3"
    with atomic_file(out) as temporary:
        figure.savefig(temporary, format="svg", metadata={"Date": None})


def _smooth(values: list[float]) -> list[float]:
    smoothed: list[float] = []
    for value in values:
        smoothed.append(value if not smoothed else _SMOOTHING * smoothed[-1] + (1 - _SMOOTHING) * value)
    return smoothed


if __name__ == "__main__":
    typer.run(main)
