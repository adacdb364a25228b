"""`qmnv3 inspect`: the per-layer table of a RUN."""

from pathlib import Path
from typing import Annotated, Any

import typer

EXAMPLES = """
Show a RUN's tensors: range, scale, SQNR, clipped share and what their rounding is predicted to do to the
prediction (KL divergence); which groups were equalized, what each gained and what it costs; and
what block reconstruction learned.

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
    from qmnv3.cli.options import table_console
    from qmnv3.errors import GraphError
    from qmnv3.files import write_json
    from qmnv3.runs import CALIBRATION, PROVENANCE, load_report

    report, provenance = load_report(run, CALIBRATION), load_report(run, PROVENANCE)
    try:
        rows = _sorted(report["layers"], sort)
        table = _table(rows, f"{run}: {provenance['model']}, {report['images']} images")
        more = [_equalization(report["equalization"]), _reconstruction(report["reconstruction"])]
        notes = _notes(report, provenance)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise GraphError(f"{run}: its report is damaged ({error!r}); run `qmnv3 ptq` again") from error
    console = table_console()
    if json_file:
        write_json(json_file, {"run": provenance, **report, "layers": rows})
    console.print(table)
    for extra in more:
        if extra:
            console.print(extra)
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
        "KL, 1e-4",
        "weights dB",
    ):
        table.add_column(name, justify="left" if name in ("tensor", "operation") else "right", no_wrap=True)
    table.columns[0].min_width = max((len(row["site"]) for row in rows), default=0)
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
            _number(row["predicted_kl"], "{:.1f}", 1e4),
            _number(row["weight_sqnr_db"], "{:.1f}"),
        )
    return table


def _equalization(rows: list[dict[str, Any]]) -> Any:
    """What equalization took, or would have; None where it did not run."""
    from rich.table import Table

    if not rows:
        return None
    table = Table(title="equalization: groups of tensors whose channels are scaled together")
    for name in ("first tensor", "channels", "SQNR dB", "predicted KL, 1e-4", "with gate", "gate µs", "form"):
        table.add_column(name, justify="left" if name in ("first tensor", "form") else "right")
    for row in rows:
        table.add_row(
            row["group"],
            str(row["channels"]),
            f"{_number(row['sqnr_before_db'], '{:.1f}')} → {_number(row['sqnr_after_db'], '{:.1f}')}",
            f"{1e4 * row['kl_before']:.1f} → {1e4 * row['kl_after']:.1f}",
            _number(row["kl_gate"], "{:.1f}", 1e4),
            f"{row['gate_us']:.1f}" if row["hard_swishes"] else "–",
            "" if row["form"] == "none" else row["form"],
        )
    return table


def _reconstruction(rows: list[dict[str, Any]]) -> Any:
    """What each block learned, on images it did not learn from; None where nothing was to learn."""
    from rich.table import Table

    if not rows:
        return None
    table = Table(title="block reconstruction: what was learned, judged on other images")
    for name in ("last tensor", "layers", "predicted KL, 1e-4", "taken"):
        table.add_column(name, justify="left" if name == "last tensor" else "right")
    for row in rows:
        change = f"{1e4 * row['kl_before']:.1f} → {1e4 * row['kl_after']:.1f}"
        table.add_row(row["block"], str(row["layers"]), change, "yes" if row["taken"] else "")
    return table


def _interval(low: float | None, high: float | None) -> str:
    return "–" if low is None or high is None else f"{low:.3g} .. {high:.3g}"


def _number(value: float | None, form: str, factor: float = 1.0) -> str:
    return "–" if value is None else form.format(factor * value)


command.__doc__ = EXAMPLES
