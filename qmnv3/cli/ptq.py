"""`qmnv3 ptq`: quantize a float model on a folder of images."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from calibration.ladder import Climb
    from qmnv3.cli.ptq_job import PtqJob

EXAMPLES = """
Quantize a float model to int8 on a folder of images, without training.

Levels: 0 min-max, 1 range search, 2 and equalization, 3 and bias correction, 4 and AdaRound, 5 and block
reconstruction. --target-drop climbs them until the estimated drop is small enough. Level 5 takes minutes and
keeps finished blocks in OUT.partial: a killed command, given again, continues where it was. Several processes
or machines share the images of levels 0 to 3: `torchrun --nproc-per-node N -m qmnv3 ptq ...`.

**Examples**

    qmnv3 ptq --model small --weights v3_small.safetensors --calib photos/ --out runs/small

    qmnv3 ptq --model small --weights v3_small.safetensors --calib photos/ --out runs/ranges --level 1

    qmnv3 ptq --model small --weights v3_small.safetensors --calib photos/ --out runs/best --level 5

    qmnv3 ptq --model v2 --weights v2.safetensors --calib photos/ --out runs/v2 --target-drop 0.5

    qmnv3 ptq --model v2 --weights v2.safetensors --calib photos/ --out runs/minmax --recipe ptq_minmax

    qmnv3 ptq --model small --weights v3_small.safetensors --calib photos/ --out runs/mixed --int16 mul

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
    level: Annotated[
        int | None, typer.Option(min=0, max=5, help="How far to climb; default from the recipe.")
    ] = None,
    target_drop: Annotated[
        float | None,
        typer.Option(min=0.0, help="Climb until the estimated loss of top-1 is at most so many points."),
    ] = None,
    int16: Annotated[
        str | None,
        typer.Option(help="Tensors to keep in 16 bits, SITE[,SITE]: slow, TFLite only; see sensitivity."),
    ] = None,
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
    from calibration.progress import silent
    from qmnv3.cli.progress import progress
    from qmnv3.cli.ptq_job import PtqJob, run_ptq
    from qmnv3.errors import RecipeError
    from qmnv3.training.distributed import join_world
    from recipes import load_recipe

    world = join_world("cpu")
    if level is not None and target_drop is not None:
        raise RecipeError(f"--level {level} picks a rung, --target-drop climbs to one; give one of them")
    wide = {"sites": [name.strip() for name in int16.split(",")]} if int16 else None
    config = load_recipe(recipe, PtqConfig, images=images, seed=seed, level=level, int16=wide)
    job = PtqJob(
        model, weights, calib, out, config, skip_bad, drop_background, width, resolution, target_drop
    )
    if weights is None and world.leads:
        typer.echo("warning: no --weights: weights are random; good for latency, not for accuracy", err=True)
    result = run_ptq(job, progress if world.leads else silent, world)
    if result is None:
        return
    for line in result.warnings:
        typer.echo(f"warning: {line}", err=True)
    if result.climb is not None:
        _print_rungs(result.climb, target_drop or 0.0, job)
    typer.echo(result.summary())


def _print_rungs(climb: "Climb", target: float, job: "PtqJob") -> None:
    from qmnv3.cli.inspect_tables import rungs
    from qmnv3.cli.options import table_console

    table = rungs(climb.to_json())
    table_console(table).print(table)
    if not climb.reached:
        run, photos = shlex.quote(str(job.out)), shlex.quote(str(job.images))
        typer.echo(
            f"no rung meets --target-drop {target}; kept level {climb.config.level}, whose estimated drop is "
            f"least; training can go further: qmnv3 qat --model {job.model} --start {run} --data {photos}"
        )


command.__doc__ = EXAMPLES
