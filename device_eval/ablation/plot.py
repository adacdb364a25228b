"""The frontier of an ablation as a picture, like Figures 7 and 8: a curve per variant, the paper's beside."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from device_eval.ablation.rows import Row
from qmnv3.files import atomic_file

MARKERS = "os^Dv<>pP*X"


def write_plot(rows: Sequence[Row], path: Path) -> bool:
    """Write an SVG to `path`; False where matplotlib is not installed.

    Left: accuracy against measured latency of the fastest int8 file, in the first runtime that was timed;
    predicted latency where none was, multiply-adds where accuracy was not measured. Unsteady latencies are
    left out. Right: the paper's float networks on a Pixel 1.
    """
    try:
        import matplotlib
    except ModuleNotFoundError:
        return False
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.hashsalt": "ablation", "svg.fonttype": "none", "font.size": 9}):
        figure = Figure(figsize=(11, 4.5), layout="constrained")
        ours, papers = figure.subplots(1, 2)
        _ours(ours, rows)
        _papers(papers, rows)
        with atomic_file(path) as temporary:
            figure.savefig(temporary, format="svg", metadata={"Date": None})
    return True


def points(
    rows: Sequence[Row], *, runtime: str | None, accuracy: bool
) -> dict[str, list[tuple[float, float]]]:
    """By curve, (latency in ms, top-1 in % or millions of multiply-adds) of the fastest int8 file of each
    network, fastest network first; latency is measured in `runtime`, predicted for a Pixel 1 without.
    """
    fastest: dict[tuple[str, float, int], tuple[float, float]] = {}
    for row in rows:
        if runtime is None:
            latency = row.predicted.ms if row.predicted else None
        else:
            latency = None if runtime in row.noisy else (row.measured_ms or {}).get(runtime)
        if accuracy:
            height = row.top1_percent[0] if row.top1_percent else None
        else:
            height = None if row.madds is None else row.madds / 1e6
        if latency is None or height is None or not row.form.startswith("int8"):
            continue
        for curve in row.curves:
            key = curve, row.width, row.resolution
            fastest[key] = min(fastest.get(key, (latency, height)), (latency, height))
    curves: dict[str, list[tuple[float, float]]] = {}
    for (curve, _, _), point in fastest.items():
        curves.setdefault(curve, []).append(point)
    return {curve: sorted(found) for curve, found in curves.items()}


def _ours(axes: Any, rows: Sequence[Row]) -> None:
    runtime = next((name for row in rows for name in row.measured_ms or ()), None)
    accuracy = any(row.top1_percent for row in rows)
    curves = points(rows, runtime=runtime, accuracy=accuracy)
    for marker, (curve, found) in zip(MARKERS * (1 + len(curves)), curves.items(), strict=False):
        axes.plot(*zip(*found, strict=True), marker=marker, label=curve)
    axes.set_title("qmnv3, int8")
    axes.set_xlabel(f"ms in {runtime}, fastest lowering" if runtime else _predicted_label(rows))
    axes.set_ylabel("top-1 %" if accuracy else "million multiply-adds")
    _finish(axes, bool(curves))


def _predicted_label(rows: Sequence[Row]) -> str:
    found = (row.predicted for row in rows if row.predicted and row.form.startswith("int8"))
    errors = [
        f"; error: median {p.median_error_percent:.1f} %, worst {p.worst_error_percent:.1f} %" for p in found
    ]
    return f"predicted Pixel 1 ms (not measured{errors[0] if errors else ''})"


def _papers(axes: Any, rows: Sequence[Row]) -> None:
    curves: dict[str, set[tuple[float, float]]] = {}
    for row in rows:
        if row.paper is not None and row.form == "float32":
            for curve in row.curves:
                curves.setdefault(curve, set()).add((row.paper.pixel1_ms, row.paper.top1_percent))
    for marker, (curve, found) in zip(MARKERS * (1 + len(curves)), curves.items(), strict=False):
        axes.plot(*zip(*sorted(found), strict=True), marker=marker, label=curve)
    axes.set_title("the paper, float, Pixel 1, ImageNet")
    axes.set_xlabel("ms")
    axes.set_ylabel("top-1 %")
    _finish(axes, bool(curves))


def _finish(axes: Any, any_curve: bool) -> None:
    axes.grid(alpha=0.3)
    if any_curve:
        axes.legend(fontsize=8)
