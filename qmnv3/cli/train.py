"""`qmnv3 train`: train a float model on images."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from qmnv3.cli import training_options as options
from qmnv3.cli.skipped import skipped_line

EXAMPLES = """
Train a float model on DIR/train/CLASS/IMAGE, validating on DIR/val, or on shards: tar files of
WebDataset's layout (key.jpg beside key.cls), local or behind URLs.

Writes OUT/model.safetensors, which `qmnv3 ptq` and `qmnv3 qat` take as --weights, OUT/log.jsonl and
checkpoints. A killed run goes on with --resume and ends with the same weights. Recipes: v3_modern, v3_paper
(section 6.1.1).

**Examples**

    qmnv3 train --model small --data imagenette/ --resolution 128 --out runs/small_float

    qmnv3 train --model small --weights backbone.safetensors --data imagenette/ --out runs/tuned --epochs 5

    qmnv3 train --model large --data imagenet/ --recipe v3_paper --device cuda --out runs/large_float

    qmnv3 train --model small --data 'shards/train-{000000..000009}.tar' --val imagenette/val --out runs/s

    qmnv3 train --model small --data imagenette/ --resolution 128 --out runs/small_float --resume
"""


def command(
    model: Annotated[str, typer.Option(help="large, small, v2, ...")],
    data: Annotated[
        str,
        typer.Option(
            help="Folder with train/CLASS/IMAGE and val/; or shards: 'train-{000..146}.tar' with any path "
            "or URL before it, or a folder of .tar files."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    val: options.Val = None,
    weights: Annotated[
        Path | None,
        typer.Option(
            help="Checkpoint to start from, .safetensors or .pth. A classifier that does not fit DATA's "
            "classes is begun anew."
        ),
    ] = None,
    recipe: Annotated[str, typer.Option(help="Name of a shipped recipe or a YAML file.")] = "v3_modern",
    epochs: options.Epochs = None,
    batch_size: options.BatchSize = None,
    rate: options.Rate = None,
    accumulate: options.Accumulate = None,
    precision: options.Precision = None,
    workers: options.Workers = None,
    seed: options.Seed = None,
    width: Annotated[float | None, typer.Option(help="Width multiplier.")] = None,
    resolution: Annotated[int | None, typer.Option(min=32, help="Input side in pixels; default 224.")] = None,
    device: options.Device = "cpu",
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in OUT; torchrun's processes also begin it.")
    ] = False,
) -> None:
    """Train a float model on images."""
    from qmnv3.cli.options import path_or_url
    from qmnv3.cli.train_job import WEIGHTS, TrainJob, run_train
    from qmnv3.training.config import TrainConfig
    from recipes import load_recipe

    overrides = {
        "epochs": epochs,
        "batch_size": batch_size,
        "accumulate": accumulate,
        "precision": precision,
        "workers": workers,
        "seed": seed,
        "optimizer.rate": rate,
    }
    config = load_recipe(recipe, TrainConfig, **overrides)
    images, judged = path_or_url(data), None if val is None else path_or_url(val)
    outcome = run_train(
        TrainJob(model, weights, images, judged, out, config, width, resolution, device, resume)
    )
    for line in skipped_line(outcome.skipped):
        typer.echo(f"warning: {line}", err=True)
    best = "" if outcome.best is None else f"best validation {100 * outcome.best:.2f} %, "
    typer.echo(f"{out / WEIGHTS}: {outcome.steps} steps, {best}{outcome.seconds:.0f} s")
    given = shlex.quote(str(images)) + ("" if judged is None else f" --val {shlex.quote(str(judged))}")
    typer.echo(f"next: qmnv3 qat --model {model} --weights {out / WEIGHTS} --data {given} --out {out}_qat")


command.__doc__ = EXAMPLES
