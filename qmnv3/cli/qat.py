"""`qmnv3 qat`: quantization-aware training."""

from pathlib import Path
from typing import Annotated

import typer

from qmnv3.cli import training_options as options
from qmnv3.cli.skipped import skipped_line

EXAMPLES = """
Train a model with its quantization, from a float checkpoint to an int8 RUN.

It is calibrated first (equalization included), then trained on DIR/train/CLASS/IMAGE with the float
model as a teacher, validating on DIR/val. Images without class folders will do: then it learns from the
float model alone. So will shards: tar files of WebDataset's layout (key.jpg beside key.cls), local or behind
URLs. OUT is a RUN as `qmnv3 ptq` writes; a killed run goes on with --resume. Recipes: v3l_qat, v3s_qat,
v2_qat, v3s_qat_minmax. Several processes or machines: `torchrun --nproc-per-node N -m qmnv3 qat ...`.

**Examples**

    qmnv3 qat --model small --weights runs/float/model.safetensors --data imagenette/ --out runs/small_qat

    qmnv3 qat --model large --weights v3_large.safetensors --data imagenet/ --device cuda

    qmnv3 qat --model small --weights v3_small.safetensors --data photos/ --out runs/distilled --epochs 10

    qmnv3 qat --model small --weights v3_small.safetensors --data 'shards/train-{000000..000009}.tar'

    qmnv3 qat --model small --weights v3_small.safetensors --data photos/ --out runs/distilled --resume

    qmnv3 qat --model small --weights v3_small.safetensors --data photos/ --start runs/best --out runs/better
"""
RECIPES = {"large": "v3l_qat", "small": "v3s_qat", "v2": "v2_qat"}


def command(
    model: Annotated[str, typer.Option(help="large, small, v2, ... or package.module:function.")],
    data: Annotated[
        str,
        typer.Option(
            help="Folder with train/ and val/, or of images to train on; or shards: 'train-{000..146}.tar' "
            "with any path or URL before it, or a folder of .tar files."
        ),
    ],
    weights: Annotated[
        Path | None,
        typer.Option(
            help="Float checkpoint, .safetensors or .pth; default that of --start, else the best published."
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="RUN folder to write; default runs/MODEL_qat.")] = None,
    val: options.Val = None,
    recipe: Annotated[
        str | None, typer.Option(help="Name of a shipped recipe or a YAML file; default the model's.")
    ] = None,
    level: Annotated[
        int | None, typer.Option(min=0, max=5, help="Level of calibration to start from, as in `qmnv3 ptq`.")
    ] = None,
    start: Annotated[
        Path | None,
        typer.Option(help="RUN of `qmnv3 ptq` to start from, with its bits, instead of calibrating."),
    ] = None,
    epochs: options.Epochs = None,
    batch_size: options.BatchSize = None,
    rate: options.Rate = None,
    distill: Annotated[
        float | None, typer.Option(min=0, max=1, help="Share of the loss that is the float model's.")
    ] = None,
    accumulate: options.Accumulate = None,
    precision: options.Precision = None,
    workers: options.Workers = None,
    seed: options.Seed = None,
    width: Annotated[float | None, typer.Option(help="Width multiplier; default the checkpoint's.")] = None,
    resolution: Annotated[
        int | None, typer.Option(min=32, help="Input side in pixels; default the checkpoint's, or 224.")
    ] = None,
    device: options.Device = "cpu",
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", help="Go on with the run in OUT.training; torchrun's processes also begin it."
        ),
    ] = False,
) -> None:
    """Train a model with its quantization, from a float checkpoint to an int8 RUN."""
    from qmnv3.cli.options import path_or_url
    from qmnv3.cli.progress import progress
    from qmnv3.cli.qat_job import run_qat
    from qmnv3.cli.qat_start import QatJob
    from qmnv3.qat.config import QatConfig
    from recipes import load_recipe

    overrides = {
        "calibration.level": level,
        "calibration.seed": seed,
        "distillation.weight": distill,
        "training.epochs": epochs,
        "training.batch_size": batch_size,
        "training.accumulate": accumulate,
        "training.precision": precision,
        "training.workers": workers,
        "training.seed": seed,
        "training.optimizer.rate": rate,
    }
    config = load_recipe(recipe or RECIPES.get(model, "v3s_qat"), QatConfig, **overrides)
    run = out or Path("runs") / f"{model.rpartition(':')[2]}_qat"
    images, judged = path_or_url(data), None if val is None else path_or_url(val)
    job = QatJob(model, weights, images, judged, run, config, start, width, resolution, device, resume)
    result = run_qat(job, progress)
    if result is None:
        return
    for line in skipped_line(result.outcome.skipped):
        typer.echo(f"warning: {line}", err=True)
    typer.echo(result.summary())


command.__doc__ = EXAMPLES
