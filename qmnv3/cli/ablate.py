"""`qmnv3 ablate`: a recipe's networks side by side: accuracy, latency and size."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from device_eval.ablation import Row
    from qmnv3.cli.ablate_config import Axis
    from qmnv3.cli.ablate_engine import Engine
    from qmnv3.cli.ablate_job import Outcome

EXAMPLES = """
Build every network of a recipe, export it in each lowering, and compare accuracy, latency and size in one
table and one plot, beside the MobileNetV3 paper's figures.

Latency and size need no training: weights do not change speed. Accuracy is of a small proxy trained on
--data, from scratch or a variant's weights. Whatever is finished is kept in OUT: a killed command, given
again, goes on; noisy latencies are measured again. Pixel latencies are predicted, not measured.

With --cluster every machine must see OUT, images and weights under the same path; latency is measured where
the command runs. Recipes: placement (Table 5, Figure 8), components (Figure 9), multiplier_resolution
(Figure 7).

**Examples**

    qmnv3 ablate placement --out runs/placement

    qmnv3 ablate multiplier_resolution --axes size --out runs/sizes --jobs 2

    qmnv3 ablate components --data imagenette/ --out runs/components

    qmnv3 ablate placement --data imagenette/ --training-device cuda --out runs/placement

    qmnv3 ablate placement --data imagenet/ --out /shared/placement --cluster head:6379

    qmnv3 ablate placement --device adb --benchmark-model android_aarch64_benchmark_model --out runs/phone
"""

AXES = ("accuracy", "latency", "size")


def command(
    recipe: Annotated[str, typer.Argument(help="Name of a shipped recipe or a YAML file.")],
    out: Annotated[Path, typer.Option(help="Folder for cells, ablation.json, .md and .svg.")],
    axes: Annotated[
        str | None, typer.Option(help="accuracy, latency, size, comma-separated; default all (see --data).")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Images to train on, with train/ and val/; else no accuracy.")
    ] = None,
    val: Annotated[Path | None, typer.Option(help="Images to judge by, if not DATA/val.")] = None,
    training_device: Annotated[str, typer.Option(help="Trains: cpu or cuda.")] = "cpu",
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Processes here that build and train cells (default 1).")
    ] = None,
    cluster: Annotated[
        str | None,
        typer.Option(help="Ray cluster that does so instead: HOST:PORT, ray://HOST:PORT or local."),
    ] = None,
    device: Annotated[
        str, typer.Option(help="Measures latency: host, adb (the only phone connected) or adb:SERIAL.")
    ] = "host",
    benchmark_model: Annotated[
        str | None,
        typer.Option(help="TFLite's benchmark_model for the phone: a file, or URL#sha256=DIGEST to fetch."),
    ] = None,
    runs: Annotated[int, typer.Option(min=1, help="Measured runs of each file.")] = 50,
    warmup: Annotated[int, typer.Option(min=0, help="Least runs of each file before measuring.")] = 10,
) -> None:
    """Accuracy, latency and size of a recipe's networks in one table and one plot."""
    from device_eval.latency import Plan, Report
    from qmnv3.cli.ablate_config import AblationConfig
    from qmnv3.cli.ablate_job import Ablation, run_ablation
    from qmnv3.cli.bench import find_device
    from qmnv3.errors import DataError
    from qmnv3.training.distributed import require_device
    from recipes import load_recipe

    config = load_recipe(recipe, AblationConfig)
    if val is not None and data is None:
        raise DataError(f"--val {val}: is for networks trained on --data; give it too")
    chosen = _axes(axes, data)
    _refuse_unused(chosen, {"--data": data, "--training-device": training_device, "--device": device})
    require_device(training_device, "--training-device", elsewhere=cluster is not None)
    where = find_device(device, benchmark_model, 180.0)
    plan = Plan(runs=runs, warmup=warmup)
    engine = _engine(jobs, cluster)
    ablation = Ablation(config, chosen, out, where, engine, plan, data, val, training_device)
    outcome = run_ablation(ablation, Report(note=lambda text: typer.echo(f"note: {text}", err=True)))
    settings: dict[str, object] = {
        "recipe": recipe,
        "axes": list(chosen),
        "data": data and str(data),
        "val": val and str(val),
        "training_device": training_device,
        "runs": runs,
        "warmup": warmup,
        "device": outcome.device,
    }
    _report(outcome, settings, config.model_dump(mode="json"), out)
    if outcome.failures:
        raise typer.Exit(1)


command.__doc__ = EXAMPLES


def _axes(text: str | None, data: Path | None) -> "tuple[Axis, ...]":
    from qmnv3.errors import RecipeError

    if text is None:
        return ("accuracy", "latency", "size") if data is not None else ("latency", "size")
    names = [name.strip() for name in text.split(",")]
    unknown = [name for name in names if name not in AXES]
    if unknown:
        raise RecipeError(f"--axes {text}: no axis {unknown[0]!r}; choose from {', '.join(AXES)}")
    if "accuracy" in names and data is None:
        raise RecipeError(f"--axes {text}: accuracy needs images to train on; give --data")
    found: list[Axis] = [axis for axis in ("accuracy", "latency", "size") if axis in names]
    return tuple(found)


def _refuse_unused(axes: "tuple[Axis, ...]", given: "dict[str, object]") -> None:
    """RecipeError for an option that says something about an axis that is left out."""
    from qmnv3.errors import RecipeError

    belongs = {"--data": "accuracy", "--training-device": "accuracy", "--device": "latency"}
    for option, value in given.items():
        if value not in (None, "cpu", "host") and belongs[option] not in axes:
            axis = belongs[option]
            missing = "--data" if axis == "accuracy" and given["--data"] is None else f"{axis} to --axes"
            raise RecipeError(f"{option} {value}: is about {axis}, which is left out; add {missing}")


def _engine(jobs: int | None, cluster: str | None) -> "Engine":
    from qmnv3.cli.ablate_engine import Processes
    from qmnv3.cli.ablate_ray import RayCluster
    from qmnv3.errors import ClusterError

    if cluster is None:
        return Processes(jobs or 1)
    if jobs is not None:
        raise ClusterError(f"--jobs {jobs}: a cluster takes as many cells as it has CPUs; leave out --jobs")
    return RayCluster(cluster)


def _report(outcome: "Outcome", settings: dict[str, object], recipe: dict[str, object], out: Path) -> None:
    from device_eval.ablation import claims, notes_of, rows_of, to_markdown, write_plot
    from qmnv3.environment import environment
    from qmnv3.files import atomic_file, write_json

    cells, failures, device = outcome.cells, outcome.failures, outcome.device
    rows, claimed = rows_of(cells), claims(cells)
    _print(rows)
    notes = [f"[{number}] {note}" for number, note in enumerate(notes_of(rows), 1)]
    for line in (*notes, *claimed):
        typer.echo(line)
    content = {"cells": list(cells), "failures": failures, "resolved_recipe": recipe}
    write_json(
        out / "ablation.json", {"command": "ablate", **settings, "environment": environment(), **content}
    )
    with atomic_file(out / "ablation.md") as temporary:
        text = to_markdown(rows, failures, device["name"] if device else "", claimed)
        temporary.write_text(text, encoding="utf-8")
    if write_plot(rows, out / "ablation.svg"):
        typer.echo(f"{out}: ablation.json, ablation.md, ablation.svg")
    else:
        typer.echo(f"{out}: ablation.json, ablation.md; no picture: pip install 'qmnv3[plot]'")
    for name, text in failures.items():
        typer.echo(f"failed: {name}: {text}", err=True)


def _print(rows: "list[Row]") -> None:
    from rich.table import Table

    from device_eval.ablation import TEXT_COLUMNS, table_of
    from qmnv3.cli.options import table_console

    table = Table(title="Pixel 1: predicted, not measured; paper: its own figures", title_justify="left")
    headings, records = table_of(rows)
    for heading in headings:
        two_lines = heading.replace(" (", "\n(")
        table.add_column(two_lines, justify="left" if heading in TEXT_COLUMNS else "right", overflow="fold")
    for record in records:
        table.add_row(*record)
    table_console(table).print(table)
