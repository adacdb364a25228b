"""`qmnv3 info`: layers, parameters and multiply-adds of a model."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from qmnv3.models.config import ModelOptions
    from qmnv3.models.count import ModelCost

EXAMPLES = """
Show a model's layers, parameters and multiply-adds.

MAdds count convolutions and linear layers (squeeze-and-excite's too); BatchNorm, bias, activations, pooling,
squeeze-and-excite's multiplication and residual additions are not counted.

**Examples**

    qmnv3 info --model large --width 0.75 --resolution 224

    qmnv3 info --model large --last-stage original   # as before Figure 5

    qmnv3 info --model my_package.nets:build --json costs.json

    qmnv3 info --paper   # Tables 3 and 9 of the paper next to these models, in Markdown
"""


def command(
    model: Annotated[
        str,
        typer.Option(help="large, small, large_minimalistic, small_minimalistic, v2, or module:function."),
    ] = "large",
    width: Annotated[float | None, typer.Option(help="Width multiplier; default 1.0.")] = None,
    resolution: Annotated[int, typer.Option(min=1, help="Side of the input in pixels.")] = 224,
    classes: Annotated[int | None, typer.Option(min=1, help="Number of classes; default 1000.")] = None,
    stem_width: Annotated[int | None, typer.Option(help="Filters of the first layer: 16 or 32.")] = None,
    head_width: Annotated[
        int | None, typer.Option(help="Width of the head: 1280, or 1024 as released.")
    ] = None,
    last_stage: Annotated[
        str | None, typer.Option(help="V3: efficient, efficient_bn (BatchNorm in the head) or original.")
    ] = None,
    squeeze_excite: Annotated[
        str | None, typer.Option(help="V3: squeezed to 1/4 of the expansion or of the input, or none.")
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the table as JSON.")] = None,
    paper: Annotated[bool, typer.Option(help="Compare Tables 3 and 9 instead, in Markdown.")] = False,
) -> None:
    """Show a model's layers, parameters and multiply-adds."""
    if paper:
        from qmnv3.cli.paper_costs import comparison, figures

        typer.echo(comparison(list(figures())))
        return
    from dataclasses import asdict

    from qmnv3.cli.options import table_console
    from qmnv3.files import write_json
    from qmnv3.models.count import count
    from qmnv3.models.weights import load_model

    asked = {
        "width": width,
        "num_classes": classes,
        "stem_width": stem_width,
        "head_width": head_width,
        "last_stage": last_stage,
        "squeeze_excite": squeeze_excite,
    }
    options = cast("ModelOptions", {key: value for key, value in asked.items() if value is not None})
    cost = count(load_model(model, **options).model, resolution)
    title = f"{model}, {resolution}x{resolution}" + "".join(f", {key} {x}" for key, x in options.items())
    table_console().print(_table(cost, title))
    typer.echo(f"parameters: {cost.params:,} ({cost.params / 1e6:.2f} M)")
    typer.echo(f"MAdds: {cost.madds:,} ({cost.madds / 1e6:.1f} M)")
    if json_file:
        write_json(json_file, {"model": model, "resolution": resolution, "options": options, **asdict(cost)})


def _table(cost: "ModelCost", title: str) -> "Table":
    from rich.table import Table

    table = Table(title=title)
    for name in ("layer", "operation", "output", "parameters", "MAdds", "MAdds %"):
        table.add_column(name, justify="left" if name in ("layer", "operation") else "right")
    for layer in cost.layers:
        table.add_row(
            layer.name,
            layer.kind,
            "x".join(str(size) for size in layer.output),
            f"{layer.params:,}",
            f"{layer.madds:,}",
            f"{100 * layer.madds / max(1, cost.madds):.1f}",
        )
    return table


command.__doc__ = EXAMPLES
