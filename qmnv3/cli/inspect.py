"""`qmnv3 inspect`: the per-layer table of a RUN."""

from pathlib import Path
from typing import Annotated, Any

import typer

EXAMPLES = """
Show a RUN's tensors: range, scale, SQNR, clipped share and what their rounding is predicted to do to the
prediction (KL divergence); which groups were equalized, what each gained and what it costs; which tensors
are int16 and what that does to XNNPACK's partitions; what block reconstruction learned; and a ladder's rungs.

**Examples**

    qmnv3 inspect runs/small

    qmnv3 inspect runs/small --sort kl --json worst.json
"""


def command(
    run: Annotated[Path, typer.Argument(help="RUN folder made by ptq.")],
    sort: Annotated[str, typer.Option(help="network (execution order), sqnr, clipped or kl.")] = "network",
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the table as JSON.")] = None,
) -> None:
    """Show a RUN's tensors."""
    from qmnv3.cli.inspect_tables import equalization, int16, layers, reconstruction, rungs
    from qmnv3.cli.options import table_console
    from qmnv3.errors import GraphError
    from qmnv3.files import write_json
    from qmnv3.runs import CALIBRATION, PROVENANCE, load_report

    report, provenance = load_report(run, CALIBRATION), load_report(run, PROVENANCE)
    try:
        rows = _sorted(report["layers"], sort)
        table = layers(rows, f"{run}: {provenance['model']}, {report['images']} images")
        more = (
            equalization(report["equalization"], report.get("equalization_cost")),
            int16(report.get("int16"), report.get("int16_cost")),
            reconstruction(report["reconstruction"]),
            rungs(report["ladder"]) if report.get("ladder") else None,
        )
        tables = [table, *(extra for extra in more if extra is not None)]
        notes = _notes(report, provenance)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise GraphError(f"{run}: its report is damaged ({error!r}); run `qmnv3 ptq` again") from error
    console = table_console(*tables)
    if json_file:
        write_json(json_file, {"run": provenance, **report, "layers": rows})
    for shown in tables:
        console.print(shown)
    for line in notes:
        console.print(line)


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
        case "kl":
            return sorted(rows, key=lambda r: -(r["predicted_kl"] or 0.0))
    raise typer.BadParameter(f"--sort {key}: choose network, sqnr, clipped or kl")


command.__doc__ = EXAMPLES
