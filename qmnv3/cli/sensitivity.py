"""`qmnv3 sensitivity`: what the rounding of each tensor alone does to the network's prediction."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from calibration.logit_errors import Interval
    from calibration.sensitivity import Analysis, Mode, Sensitivity

EXAMPLES = """
Measure which tensors and weights a network loses accuracy by: each rounded alone, and each left out.

Each is compared with the same network without rounding, equalized as the recipe says; how far that network
and the fully rounded one are from the float network itself is printed beside.

Writes `sensitivity.json` and `sensitivity.svg`, and prints the worst. Labels are not needed. Biases are not
corrected meanwhile (levels of the recipe from 3 on count as 2): they would make up for rounding that is off.

**Examples**

    qmnv3 sensitivity --model small --weights v3_small.safetensors --calib photos/ --out sensitivity/

    qmnv3 sensitivity --model v2 --weights v2.safetensors --calib photos/ --out s/ --images 200 --top 30

    qmnv3 sensitivity --model small --weights v3_small.safetensors --calib photos/ --out s/ --mode one
"""


def command(
    model: Annotated[str, typer.Option(help="large, small, v2, ... or package.module:function.")],
    weights: Annotated[Path, typer.Option(help="Checkpoint, .safetensors or .pth.")],
    calib: Annotated[Path, typer.Option(help="Folder of images to calibrate and measure on.")],
    out: Annotated[Path, typer.Option(help="Folder for sensitivity.json and sensitivity.svg.")],
    recipe: Annotated[str, typer.Option(help="Name of a shipped recipe or a YAML file.")] = "ptq",
    images: Annotated[int, typer.Option(min=2, help="Images to use.")] = 100,
    seed: Annotated[
        int | None, typer.Option(min=0, max=2**63 - 1, help="Draws the images; default from the recipe.")
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="Rows to print of each mode; the files hold all.")] = 15,
    mode: Annotated[
        Literal["one", "all_but_one", "both"],
        typer.Option(help="Round one alone, leave one out, or both; a single mode is measured more exactly."),
    ] = "both",
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
    """Measure what the rounding of each tensor alone does."""
    from calibration.config import PtqConfig
    from qmnv3.cli.options import table_console
    from qmnv3.cli.progress import progress
    from qmnv3.cli.ptq_job import PtqJob
    from qmnv3.cli.sensitivity_job import run_sensitivity
    from recipes import load_recipe

    config = load_recipe(recipe, PtqConfig, images=images, seed=seed)
    job = PtqJob(model, weights, calib, out, config, skip_bad, drop_background, width, resolution)
    modes: tuple[Mode, ...] = ("one", "all_but_one") if mode == "both" else (mode,)
    analysis, warnings = run_sensitivity(job, modes, progress)
    for warning in warnings:
        typer.echo(f"warning: {warning}", err=True)
    console = table_console()
    for name, title in (("one", "rounded alone"), ("all_but_one", "left out of the fully rounded network")):
        rows = [row for row in analysis.rows if row.mode == name]
        if rows:
            shown = f"{min(top, len(rows))} of {len(rows)}"
            console.print(_table(rows[:top], f"{title}, against the unrounded network: {shown}"))
    console.print(_summary(analysis, out))


def _summary(analysis: "Analysis", out: Path) -> str:
    return (
        f"all rounded: KL {_interval(analysis.kl)}, agreement {100 * analysis.agreement.estimate:.1f} %; "
        f"{analysis.images} images, {analysis.passes:.1f} forward passes for {analysis.sites} tensors\n"
        f"against the float network: all rounded KL {_interval(analysis.float_kl)}, unrounded "
        f"(but equalized) KL {_interval(analysis.reference_kl)}\n"
        f"{out / 'sensitivity.json'}, {out / 'sensitivity.svg'}"
    )


def _table(rows: list["Sensitivity"], title: str) -> Any:
    from rich.table import Table

    table = Table(title=title)
    for name in (
        "tensor",
        "rounding of",
        "KL added",
        "95 %",
        "predicted",
        "SQNR dB",
        "agreement %",
        "images",
    ):
        table.add_column(name, justify="left" if name in ("tensor", "rounding of") else "right")
    for row in rows:
        table.add_row(
            row.site,
            row.kind,
            f"{row.kl_added.estimate:.5f}",
            _ends(row.kl_added),
            "–" if row.predicted_kl is None else f"{row.predicted_kl:.5f}",
            "exact" if row.sqnr_db is None else f"{row.sqnr_db:.1f}",
            f"{100 * row.agreement.estimate:.1f}",
            str(row.images),
        )
    return table


def _interval(value: "Interval") -> str:
    return f"{value.estimate:.4f} {_ends(value)}"


def _ends(value: "Interval") -> str:
    # Parentheses: rich takes brackets for markup.
    return "–" if value.low is None else f"({value.low:.5f}, {value.high:.5f})"


command.__doc__ = EXAMPLES
