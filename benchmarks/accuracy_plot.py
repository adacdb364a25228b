"""benchmarks.accuracy's results as a picture: points lost against latency, integer-only networks filled."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.accuracy_contenders import PARENT
from benchmarks.accuracy_report import is_integer_only
from qmnv3.files import atomic_file

# 4 to 1 or better against white as well as against a dark page: no background is drawn.
INK = "#7a7f87"
COLOURS = {"LiteRT": "#2f81f7", "ONNX Runtime": "#d9822b", "PyTorch": "#a371f7"}


@dataclass(frozen=True)
class Point:
    """One quantized model: `ratio` of its latency to float in the same runtime, `lost` top-1 points."""

    label: str
    runtime: str
    ratio: float
    lost: float
    integer_only: bool


def points(results: Sequence[dict[str, Any]]) -> list[Point]:
    """Every quantized model that could be measured, in the table's order."""
    return [
        Point(
            result["label"],
            row["runtime"],
            row["latency"]["ratio"],
            100 * (row["val"]["float_top1"]["estimate"] - row["val"]["top1"]["estimate"]),
            is_integer_only(row),
        )
        for result in results
        if result["status"] == "done" and result["contender"] != PARENT.name
        for row in result["rows"]
    ]


def write_plot(path: Path, results: Sequence[dict[str, Any]]) -> None:
    """Draw `points(results)` as an SVG, numbered, names beside it."""
    import matplotlib

    matplotlib.use("svg")
    # Ids from a fixed salt: the same results give the same file.
    matplotlib.rcParams.update({"svg.hashsalt": "accuracy", "svg.fonttype": "none", "font.size": 9})
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9, 5), layout="constrained")
    # Before anything is drawn: margins are then those of the scales.
    axes.set_xscale("log", base=2)
    # Losses range from tenths of a point to tens, and may be gains.
    axes.set_yscale("symlog", linthresh=1)
    found = points(results)
    for number, point in enumerate(found, 1):
        colour = next((c for name, c in COLOURS.items() if point.runtime.startswith(name)), INK)
        axes.plot(
            point.ratio,
            point.lost,
            "o",
            markersize=8,
            color=colour,
            markerfacecolor=colour if point.integer_only else "none",
            label=f"{number}  {point.label}, {point.runtime}",
        )
        axes.annotate(str(number), (point.ratio, point.lost), (6, 4), textcoords="offset points", color=INK)
    _dress(figure, axes, bool(found))
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format="svg", transparent=True, metadata={"Date": None})
    pyplot.close(figure)


def _dress(figure: Any, axes: Any, any_points: bool) -> None:
    axes.set_xlabel("latency relative to float in the same runtime", color=INK)
    axes.set_ylabel("top-1 points lost", color=INK)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.axvline(1, color=INK, linewidth=0.8, linestyle=":")
    axes.axhline(0, color=INK, linewidth=0.8, linestyle=":")
    axes.tick_params(colors=INK)
    for spine in axes.spines.values():
        spine.set_color(INK)
    if any_points:
        title = "filled: integer only"
        legend = axes.legend(
            loc="upper left", bbox_to_anchor=(1.02, 1), frameon=False, labelcolor=INK, title=title
        )
        legend.get_title().set_color(INK)
