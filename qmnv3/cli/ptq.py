"""`qmnv3 ptq`: quantize a float model on a folder of images."""

from pathlib import Path
from typing import Annotated

import typer

EXAMPLES = """
Quantize a float model to int8 on a folder of images, without training.

**Examples**

    qmnv3 ptq --model small --weights v3_small.safetensors --calib photos/ --out runs/small

    qmnv3 ptq --model v2 --weights v2.safetensors --calib photos/ --out runs/v2 --recipe ptq_minmax

    qmnv3 ptq --model large --width 0.75 --resolution 192 --calib photos/ --out runs/latency

    qmnv3 ptq --model my_package.nets:build --calib photos/ --out runs/mine
"""


def command(
    model: Annotated[str, typer.Option(help="large, small, v2, ... or package.module:function.")],
    calib: Annotated[Path, typer.Option(help="Folder of images to calibrate on; labels are not needed.")],
    out: Annotated[Path, typer.Option(help="RUN folder to write.")],
    weights: Annotated[
        Path | None, typer.Option(help="Checkpoint, .safetensors or .pth. Random weights without it.")
    ] = None,
    recipe: Annotated[str, typer.Option(help="Name of a shipped recipe or a YAML file.")] = "ptq",
    images: Annotated[int | None, typer.Option(min=1, help="Images to use; default from the recipe.")] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, max=2**63 - 1, help="Draws the images; default from the recipe.")
    ] = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave out and count images that cannot be read.")
    ] = False,
    drop_background: Annotated[
        bool, typer.Option("--drop-background", help="Drop class 0 of a 1001-class checkpoint.")
    ] = False,
    width: Annotated[
        float | None, typer.Option(help="Width multiplier; default the checkpoint's, or 1.0.")
    ] = None,
    resolution: Annotated[
        int | None, typer.Option(min=32, help="Input side in pixels; default the checkpoint's, or 224.")
    ] = None,
) -> None:
    """Quantize a float model to int8 on a folder of images, without training."""
    from calibration.config import PtqConfig
    from qmnv3.cli.progress import progress
    from qmnv3.cli.ptq_job import PtqJob, run_ptq
    from recipes import load_recipe

    config = load_recipe(recipe, PtqConfig, images=images, seed=seed)
    job = PtqJob(model, weights, calib, out, config, skip_bad, drop_background, width, resolution)
    if weights is None:
        typer.echo("warning: no --weights: weights are random; good for latency, not for accuracy", err=True)
    result = run_ptq(job, progress)
    for line in result.warnings:
        typer.echo(f"warning: {line}", err=True)
    typer.echo(result.summary())


command.__doc__ = EXAMPLES
