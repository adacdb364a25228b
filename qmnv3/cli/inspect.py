"""`qmnv3 inspect`: the per-layer table of a RUN."""

from pathlib import Path
from typing import Annotated, Any

import typer

EXAMPLES = """
Show a RUN's tensors: range, scale, SQNR and clipped share, worst first or in network order.

**Examples**

    qmnv3 inspect runs/small

    qmnv3 inspect runs/small --sort sqnr --json worst.json
"""


def command(
    run: Annotated[Path, typer.Argument(help="RUN folder made by ptq.")],
    sort: Annotated[str, typer.Option(help="network (execution order), sqnr or clipped.")] = "network",
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the table as JSON.")] = None,
) -> None:
    """Show a RUN's tensors."""
    from qmnv3.cli.options import table_console
    from qmnv3.errors import GraphError
    from qmnv3.files import write_json
    from qmnv3.runs import CALIBRATION, PROVENANCE, load_report

    report, provenance = load_report(run, CALIBRATION), load_report(run, PROVENANCE)
    try:
        rows = _sorted(report["layers"], sort)
        table = _table(rows, f"{run}: {provenance['model']}, {report['images']} images")
        notes = _notes(report, provenance)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise GraphError(f"{run}: its report is damaged ({error!r}); run `qmnv3 ptq` again") from error
    console = table_console()
    console.print(table)
    for line in notes:
        console.print(line)
    if json_file:
        write_json(json_file, {"run": provenance, **report, "layers": rows})


def _notes(report: dict[str, Any], provenance: dict[str, Any]) -> list[str]:
    floored = [
        f"floored scale: {row['site']} was seen in [{row['observed_low']:.3g}, "
        f"{row['observed_high']:.3g}]; its scale was raised to {row['scale']:.3g}"
        for row in report["floored_scales"]
    ]
    return [*floored, *(f"warning: {line}" for line in provenance["warnings"])]


def _sorted(rows: list[dict[str, Any]], key: str) -> list[dict[str, Any]]:
    match key:
        case "network":
            return rows
        case "sqnr":
            return sorted(rows, key=lambda r: r["sqnr_db"] if r["sqnr_db"] is not None else float("inf"))
        case "clipped":
            return sorted(rows, key=lambda r: -(r["clipped_percent"] or 0.0))
    raise typer.BadParameter(f"--sort {key}: choose network, sqnr or clipped")


def _table(rows: list[dict[str, Any]], title: str) -> Any:
    from rich.table import Table

    table = Table(title=title)
    for name in (
        "tensor",
        "operation",
        "seen",
        "grid",
        "scale",
        "zero",
        "SQNR dB",
        "clipped %",
        "weights dB",
    ):
        table.add_column(name, justify="left" if name in ("tensor", "operation") else "right")
    for row in rows:
        fused = "" if row["activation"] == "none" else f"+{row['activation']}"
        table.add_row(
            row["site"],
            row["kind"] + fused,
            _interval(row["observed_low"], row["observed_high"]),
            _interval(row["low"], row["high"]),
            f"{row['scale']:.3g}",
            str(row["zero_point"]),
            _number(row["sqnr_db"], "{:.1f}"),
            _number(row["clipped_percent"], "{:.3f}"),
            _number(row["weight_sqnr_db"], "{:.1f}"),
        )
    return table


def _interval(low: float | None, high: float | None) -> str:
    return "fixed" if low is None or high is None else f"{low:.3g} .. {high:.3g}"


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else form.format(value)


command.__doc__ = EXAMPLES
