"""Options that `train` and `qat` share."""

from typing import Annotated

import typer

Val = Annotated[str | None, typer.Option(help="Validation folder or shards; default DATA/val.")]
Epochs = Annotated[int | None, typer.Option(min=1, help="Default from the recipe.")]
BatchSize = Annotated[int | None, typer.Option(min=1, help="Images per step; default from the recipe.")]
Rate = Annotated[
    float | None, typer.Option(help="Learning rate at the recipe's reference batch; default its own.")
]
Accumulate = Annotated[int | None, typer.Option(min=1, help="Batches per update; default from the recipe.")]
Precision = Annotated[str | None, typer.Option(help="float32 or bf16 (autocast); default from the recipe.")]
Workers = Annotated[
    int | None,
    typer.Option(min=1, help="Threads, with a GPU processes, that decode images; default 2, or all cores."),
]
Seed = Annotated[int | None, typer.Option(min=0, max=2**63 - 1, help="Default from the recipe.")]
Device = Annotated[str, typer.Option(help="cpu or cuda.")]
