"""The report's figures: their data, and how each is drawn."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import sqrt
from typing import Any, Protocol

from device_eval.report.drawing import (
    WIDTH,
    Kind,
    canvas,
    element,
    legend,
    mark,
    scale,
    shortened,
    svg,
    text,
    x_axis,
    y_axis,
)

NAMES = 310
ROW = 20


class Figure(Protocol):
    """Data with a title and a description for those who cannot see it."""

    @property
    def title(self) -> str:
        """What it shows."""

    @property
    def description(self) -> str:
        """How to read it."""

    def svg(self, id_: str) -> str:
        """Drawn for the page; `id_` is unique in it."""

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types, every point included."""


@dataclass(frozen=True)
class Row:
    """A value with its interval, `ring` what was expected instead, `samples` what it is the median of."""

    label: str
    series: str
    value: float
    low: float | None = None
    high: float | None = None
    ring: float | None = None
    samples: tuple[float, ...] = ()


@dataclass(frozen=True)
class Rows:
    """Named rows along one axis."""

    title: str
    description: str
    axis: str
    rows: tuple[Row, ...]
    kind: Kind = "linear"

    def svg(self, id_: str) -> str:
        """One line for each label: rows of one name share it."""
        series = list(dict.fromkeys(row.series for row in self.rows))
        labels = list(dict.fromkeys(row.label for row in self.rows))
        top, bottom = 30, 34 + ROW * len(labels)
        root = canvas(id_, self.title, self.description, bottom + 42)
        shown = [v for row in self.rows for v in _values(row)]
        along = scale(shown, NAMES, WIDTH - 20, self.kind)
        x_axis(root, along, top, bottom, self.axis)
        legend(root, series, NAMES + 6, 16)
        for number, label in enumerate(labels):
            text(root, NAMES - 10, top + ROW * number + 16, shortened(label), "name", "end")
        for row in self.rows:
            y, index = top + ROW * labels.index(row.label) + 12, series.index(row.series)
            for sample in row.samples:
                x = along(sample)
                element(root, "line", x1=x, x2=x, y1=y - 7, y2=y + 7, cls=f"sample s{index % 4}")
            if row.low is not None and row.high is not None:
                ends = {"x1": along(row.low), "x2": along(row.high)}
                element(root, "line", **ends, y1=y, y2=y, cls=f"interval s{index % 4}")
            if row.ring is not None:
                element(root, "circle", cx=along(row.ring), cy=y, r=5.5, cls="ring")
            mark(root, index, along(row.value), y, 4.5, f"{row.label}: {row.value:.4g}")
        return svg(root)

    def to_json(self) -> dict[str, Any]:
        """See `Figure`."""
        return asdict(self)


@dataclass(frozen=True)
class Bar:
    """From `low` to `high`; `inner` is a second, thinner span."""

    label: str
    series: str
    low: float
    high: float
    inner: tuple[float, float] | None = None


@dataclass(frozen=True)
class Bars:
    """Many upright bars side by side in the network's order, named only on hovering."""

    title: str
    description: str
    axis: str
    bars: tuple[Bar, ...]
    kind: Kind = "linear"

    def svg(self, id_: str) -> str:
        """Bars share the width."""
        series = list(dict.fromkeys(bar.series for bar in self.bars))
        left, right, top, bottom = 62, WIDTH - 10, 44, 250
        root = canvas(id_, self.title, self.description, bottom + 26)
        ends = [v for bar in self.bars for v in (bar.low, bar.high, *(bar.inner or ()))]
        up = scale(ends, bottom, top, self.kind)
        y_axis(root, up, left, right, self.axis)
        legend(root, series, left + 200, 16)
        step = (right - left) / max(1, len(self.bars))
        for number, bar in enumerate(self.bars):
            x, index = left + step * number, series.index(bar.series)
            title = f"{bar.label}: {bar.low:.4g} .. {bar.high:.4g}"
            size = {"y": up(bar.high), "height": max(1.0, up(bar.low) - up(bar.high))}
            thick = min(0.76 * step, 24)
            element(
                root, "rect", title, x=x + (step - thick) / 2, width=thick, **size, cls=f"bar s{index % 4}"
            )
            if bar.inner is not None:
                middle = {"x1": x + step / 2, "x2": x + step / 2}
                element(root, "line", **middle, y1=up(bar.inner[0]), y2=up(bar.inner[1]), cls="inner")
        text(root, (left + right) / 2, bottom + 18, "tensors in the network's order", "label", "middle")
        return svg(root)

    def to_json(self) -> dict[str, Any]:
        """See `Figure`."""
        return asdict(self)


@dataclass(frozen=True)
class Point:
    """One operation: multiply-adds per byte moved, billions of them per second, its share of the time."""

    label: str
    series: str
    macs_per_byte: float
    gmacs_per_s: float
    time_percent: float


@dataclass(frozen=True)
class Roofline:
    """Operations by their intensity and speed; the roofs are the best rates any of them reached."""

    title: str
    description: str
    points: tuple[Point, ...]

    def svg(self, id_: str) -> str:
        """Both axes logarithmic; a point's area is its share of the time."""
        series = list(dict.fromkeys(point.series for point in self.points))
        left, right, top, bottom = 62, WIDTH - 20, 44, 380
        root = canvas(id_, self.title, self.description, bottom + 42)
        across = scale([p.macs_per_byte for p in self.points], left, right, "log")
        up = scale([p.gmacs_per_s for p in self.points], bottom, top, "log")
        x_axis(root, across, top, bottom, "multiply-adds per byte moved")
        y_axis(root, up, left, right, "billion multiply-adds per second")
        legend(root, series, left + 260, 16)
        peak, bandwidth = self.roofs()
        corner = min(max(peak / bandwidth, across.low), across.high)
        roof = [(across.low, bandwidth * across.low), (corner, bandwidth * corner), (across.high, peak)]
        path = " ".join(f"{across(x):.2f},{up(min(y, peak)):.2f}" for x, y in roof)
        element(root, "polyline", points=path, cls="roof")
        for point in sorted(self.points, key=lambda p: -p.time_percent):
            place = across(point.macs_per_byte), up(point.gmacs_per_s)
            title = f"{point.label}: {point.gmacs_per_s:.3g} GMAC/s, {point.time_percent:.1f} % of the time"
            mark(root, series.index(point.series), *place, 2.5 + 3 * sqrt(point.time_percent), title)
        return svg(root)

    def roofs(self) -> tuple[float, float]:
        """Billion multiply-adds per second, and billion bytes per second: the best of any operation."""
        peak = max(point.gmacs_per_s for point in self.points)
        return peak, max(point.gmacs_per_s / point.macs_per_byte for point in self.points)

    def to_json(self) -> dict[str, Any]:
        """See `Figure`."""
        return asdict(self)


def _values(row: Row) -> Sequence[float]:
    known = (row.value, row.low, row.high, row.ring, *row.samples)
    return [value for value in known if value is not None]
