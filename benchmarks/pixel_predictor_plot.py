"""Predicted against published latencies: every network predicted by a fit without it."""

from pathlib import Path
from typing import Any

from benchmarks.accuracy_plot import INK
from device_eval.predictor.fit import Fit, fitted
from device_eval.predictor.published import PIXELS, Precision, placements
from qmnv3.files import atomic_file

# 3 to 1 or better against white as well as against a dark page: no background is drawn.
COLOURS = {1: "#2f81f7", 2: "#d9822b", 3: "#a371f7"}
MARKERS: dict[Precision, str] = {"float32": "o", "int8": "s"}


def write_plot(path: Path) -> None:
    """Draw all leave-one-out predictions and Table 5's unfitted ones as an SVG."""
    import matplotlib

    matplotlib.use("svg")
    # Ids from a fixed salt: the same fit gives the same file.
    matplotlib.rcParams.update({"svg.hashsalt": "prediction", "svg.fonttype": "none", "font.size": 9})
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 5), layout="constrained")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    for precision, marker in MARKERS.items():
        for pixel in PIXELS:
            found = fitted(pixel, precision)
            _points(axes, found, f"Pixel {pixel}, {precision}", COLOURS[pixel], marker, precision == "int8")
    rows = [row for row in placements() if row.network.nonlinearity != "paper"]
    predicted = [fitted(1, "float32").ms(row.cost) for row in rows]
    label = "Table 5 (Pixel 1, float32), never fitted"
    axes.plot([row.ms for row in rows], predicted, "x", color=COLOURS[1], markersize=9, label=label)
    _dress(axes)
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format="svg", transparent=True, metadata={"Date": None})
    pyplot.close(figure)


def _points(axes: Any, found: Fit, label: str, colour: str, marker: str, hollow: bool) -> None:
    published = [row.ms for row in found.rows]
    errors = found.leave_one_out.relative
    predicted = [ms * (1 + error) for ms, error in zip(published, errors, strict=True)]
    face = "none" if hollow else colour
    axes.plot(published, predicted, marker, color=colour, markerfacecolor=face, label=label)


def _dress(axes: Any) -> None:
    ends = [4, 128]
    axes.plot(ends, ends, color=INK, linewidth=0.8)
    for factor in (1 / 1.1, 1.1):
        axes.plot(ends, [end * factor for end in ends], color=INK, linewidth=0.8, linestyle=":")
    axes.set_xlabel("published ms (dotted: 10 % off)", color=INK)
    axes.set_ylabel("predicted ms, without this network in the fit", color=INK)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.tick_params(colors=INK)
    for spine in axes.spines.values():
        spine.set_color(INK)
    axes.legend(loc="upper left", frameon=False, labelcolor=INK)
