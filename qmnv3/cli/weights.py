"""`qmnv3 weights`: list and fetch published float checkpoints."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, help="List and fetch published float checkpoints.")


@app.command("list")
def list_weights(
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the table as JSON.")] = None,
) -> None:
    """Show the checkpoints that can be fetched, with size, SHA-256 and licence.

    **Examples**

        qmnv3 weights list

        qmnv3 weights list --json releases.json
    """
    from dataclasses import asdict

    from rich.table import Table

    from qmnv3.cli.options import table_console
    from qmnv3.files import write_json
    from qmnv3.models.releases import LICENCE, RELEASES

    table = Table("name", "model", "size", "top-1 %", "SHA-256", "URL", caption=f"Licence: {LICENCE}")
    for release in RELEASES:
        table.add_row(
            release.name,
            release.model,
            f"{release.size_mib:.1f} MiB",
            f"{release.top1:.1f}",
            f"{release.sha256_prefix}…",
            release.url,
        )
    table_console().print(table)
    if json_file:
        write_json(json_file, {"licence": LICENCE, "releases": [asdict(release) for release in RELEASES]})


@app.command("fetch")
def fetch_weights(
    name: Annotated[str, typer.Argument(help="A name that `qmnv3 weights list` shows.")],
    cache: Annotated[
        Path | None,
        typer.Option(help="Folder to keep it in; default $QMNV3_CACHE or the user's cache directory."),
    ] = None,
) -> None:
    """Download a checkpoint, or go on where a download was cut off; print the path of the checked file.

    **Examples**

        qmnv3 weights fetch small-imagenet1k-v1

        qmnv3 weights fetch v2-imagenet1k-v1 --cache weights/
    """
    from qmnv3.cli.progress import bytes_progress
    from qmnv3.models.download import cache_dir, fetch
    from qmnv3.models.releases import find_release

    release = find_release(name)
    with bytes_progress(release.file_name) as report:
        path = fetch(release, cache_dir(cache), report)
    typer.echo(str(path))
