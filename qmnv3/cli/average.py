"""`qmnv3 average`: one model from several fine-tunings of the same checkpoint."""

from pathlib import Path
from typing import Annotated

import typer

EXAMPLES = """
Average the weights of several trainings that began with the same checkpoint: often more accurate than the
best of them, at the cost of one (Wortsman et al. 2022, "Model soups"). They should differ in augmentation,
resolution or seed. BatchNorm's statistics are taken anew from whole training images.

**Examples**

    qmnv3 average runs/{plain,mixed}/model.safetensors --model small --data imagenette/ --out soup.safetensors

    qmnv3 average a.safetensors b.safetensors --model small --resolution 128 --data photos --out c.safetensors
"""


def command(
    checkpoints: Annotated[list[Path], typer.Argument(help="Two or more checkpoints of one model.")],
    model: Annotated[str, typer.Option(help="large, small, v2, ...")],
    data: Annotated[str, typer.Option(help="Training images, as for train; val/ beside them is judged.")],
    out: Annotated[Path, typer.Option(help="Checkpoint to write, .safetensors.")],
    val: Annotated[str | None, typer.Option(help="Validation folder or shards; default DATA/val.")] = None,
    resolution: Annotated[
        int | None, typer.Option(min=32, help="Input side in pixels; default the first checkpoint's.")
    ] = None,
    images: Annotated[int, typer.Option(min=1, help="Training images for BatchNorm's statistics.")] = 3000,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    json: Annotated[Path | None, typer.Option(help="Write the accuracies here.")] = None,
) -> None:
    """Average the weights of several trainings of one model."""
    from rich.table import Table

    from qmnv3.cli.average_job import run_average
    from qmnv3.cli.options import path_or_url, table_console
    from qmnv3.environment import environment
    from qmnv3.files import write_json

    judged = None if val is None else path_or_url(val)
    accuracies = run_average(
        checkpoints,
        model,
        path_or_url(data),
        judged,
        out,
        resolution=resolution,
        images=images,
        device=device,
    )
    if accuracies:
        table = Table(title="validation", title_justify="left")
        table.add_column("model", overflow="fold")
        table.add_column("top-1 %", justify="right")
        for name, accuracy in accuracies.items():
            table.add_row(name, f"{100 * accuracy:.2f}")
        table_console(table).print(table)
        *each, average = accuracies.values()
        if average < max(each):
            best = max(accuracies, key=accuracies.__getitem__)
            typer.echo(f"warning: the average is worse than {best} alone: rather take that", err=True)
    typer.echo(f"next: qmnv3 qat --model {model} --weights {out} --data {data}")
    if json is not None:
        value = {"command": "average", "model": model, "images": images, "top1": accuracies}
        write_json(json, {**value, "environment": environment()})


command.__doc__ = EXAMPLES
