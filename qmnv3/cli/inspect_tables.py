"""The tables of `qmnv3 inspect`, from the JSON of a RUN; `qmnv3 ptq` shows the rungs too."""

from typing import Any

from rich.table import Table


def layers(rows: list[dict[str, Any]], title: str) -> Table:
    """The per-layer table."""
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


def equalization(rows: list[dict[str, Any]], cost: dict[str, float] | None) -> Table | None:
    """What equalization took, or would have; None where it did not run."""
    if not rows:
        return None
    table = Table(title="equalization: groups of tensors whose channels are scaled together")
    if cost is not None:
        slower, most = cost["gates_us"] / cost["network_us"], cost["max_slowdown"]
        table.caption = (
            f"predicted: {cost['network_us']:.1f} µs without gates, {cost['gates_us']:.1f} µs of gates, "
            f"{100 * slower:.2f} % slower of at most {100 * most:.2f} %"
        )
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


def reconstruction(rows: list[dict[str, Any]]) -> Table | None:
    """What each block learned, on images it did not learn from; None where nothing was to learn."""
    if not rows:
        return None
    table = Table(title="block reconstruction: what was learned, judged on other images")
    for name in ("last tensor", "layers", "predicted KL, 1e-4", "taken"):
        table.add_column(name, justify="left" if name == "last tensor" else "right")
    for row in rows:
        change = f"{1e4 * row['kl_before']:.1f} → {1e4 * row['kl_after']:.1f}"
        table.add_row(row["block"], str(row["layers"]), change, "yes" if row["taken"] else "")
    return table


def int16(report: dict[str, Any] | None, cost: str | None) -> Table | None:
    """Which tensors have 16 bits and what that gains and costs; None where the recipe asked for none."""
    if report is None:
        return None
    before, after = (report[key]["estimate"] for key in ("kl_before", "kl_after"))
    table = Table(title=f"int16 tensors: KL {before:.4f} to {after:.4f} before bias correction", caption=cost)
    for name in ("tensor", "KL its int8 rounding added, 1e-4", "predicted cost µs"):
        table.add_column(name, justify="left" if name == "tensor" else "right")
    for row in report["sites"]:
        table.add_row(row["site"], f"{1e4 * row['kl_added']['estimate']:.1f}", f"{row['cost_us']:.1f}")
    return table


def rungs(rows: list[dict[str, Any]]) -> Table:
    """The levels that a ladder tried, at least one."""
    images = rows[0]["fidelity"]["images"]
    table = Table(title=f"rungs, judged on {images} held-out images; seconds without the pass they share")
    for name in ("level", "adds", "seconds", "agreement %", "KL nats", "estimated drop, points"):
        table.add_column(name, justify="left" if name == "adds" else "right")
    for row in rows:
        fidelity = row["fidelity"]
        table.add_row(
            str(row["level"]),
            row["name"],
            f"{row['seconds']:.1f}",
            f"{100 * fidelity['agreement']:.1f}",
            f"{fidelity['kl']:.4f}",
            f"{fidelity['drop']:.2f} ({fidelity['drop_low']:.2f}, {fidelity['drop_high']:.2f})",
        )
    return table


def _interval(low: float | None, high: float | None) -> str:
    return "–" if low is None or high is None else f"{low:.3g} .. {high:.3g}"


def _number(value: float | None, form: str, factor: float = 1.0) -> str:
    return "–" if value is None else form.format(factor * value)
