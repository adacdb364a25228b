"""SVG for the report: elements, scales and axes. Colours are classes, given by the page's style sheet."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import asinh, ceil, floor, isclose, log10, sinh
from typing import Literal
from xml.etree import ElementTree as ET

WIDTH = 960
_SMALLEST = 1e-30
Kind = Literal["linear", "log", "symlog"]
"""symlog is linear near 0 and logarithmic far from it, on both sides."""


def element(parent: ET.Element, tag: str, title: str = "", /, **attributes: str | float) -> ET.Element:
    """A child with attributes (`cls` for class, `_` for `-`); `title` is shown on hovering."""
    child = ET.SubElement(parent, tag)
    for name, value in attributes.items():
        text = value if isinstance(value, str) else f"{value:.5g}"
        child.set({"cls": "class"}.get(name, name.replace("_", "-")), text)
    if title:
        ET.SubElement(child, "title").text = title
    return child


def text(parent: ET.Element, x: float, y: float, content: str, cls: str = "", anchor: str = "start") -> None:
    """One line of text."""
    element(parent, "text", x=x, y=y, cls=cls, text_anchor=anchor).text = content


def canvas(id_: str, title: str, description: str, height: float) -> ET.Element:
    """An empty picture that screen readers call by its title and describe."""
    named = {"role": "img", "aria-labelledby": f"{id_}-title {id_}-desc"}
    root = ET.Element("svg", {"viewBox": f"0 0 {WIDTH} {height:.5g}", **named})
    ET.SubElement(root, "title", {"id": f"{id_}-title"}).text = title
    ET.SubElement(root, "desc", {"id": f"{id_}-desc"}).text = description
    return root


@dataclass(frozen=True)
class Scale:
    """Values from `low` to `high` placed from pixel `start` to `end`; what is outside lies on these."""

    low: float
    high: float
    start: float
    end: float
    kind: Kind = "linear"

    def __call__(self, value: float) -> float:
        """Pixels of a value."""
        low, high = self._warp(self.low), self._warp(self.high)
        share = (self._warp(min(max(value, self.low), self.high)) - low) / (high - low)
        return self.start + share * (self.end - self.start)

    def _warp(self, value: float) -> float:
        match self.kind:
            case "linear":
                return value
            case "log":
                return log10(value)
            case "symlog":
                return asinh(value)

    def ticks(self) -> list[float]:
        """Round values to label, within the scale."""
        match self.kind:
            case "linear":
                step = _round_step((self.high - self.low) / 5)
                first = ceil(self.low / step - 1e-9)
                return [step * i for i in range(first, floor(self.high / step + 1e-9) + 1)]
            # Too narrow for powers of ten.
            case "log" if self.high < 5 * self.low:
                return Scale(self.low, self.high, self.start, self.end).ticks()
            case "log":
                decades = range(floor(log10(self.low)), ceil(log10(self.high)) + 1)
                factors = (1, 2, 5) if len(decades) <= 4 else (1,)
                return [v for d in decades for f in factors if self.low <= (v := f * 10.0**d) <= self.high]
            case "symlog":
                sides = [s * 10.0**d for s in (-1, 1) for d in range(0, 12, _decade_step(self))]
                return sorted(v for v in [0.0, *sides] if self.low <= v <= self.high)


def scale(values: Sequence[float], start: float, end: float, kind: Kind = "linear") -> Scale:
    """A scale that holds all `values` with room at its ends; a log one holds the upper 6 decades."""
    low, high = min(values, default=0.0), max(values, default=1.0)
    if kind == "log":
        positive = [value for value in values if value > _SMALLEST] or [1.0]
        high = 1.2 * max(positive)
        return Scale(max(min(positive) / 1.2, high / 1e6), high, start, end, kind)
    if isclose(low, high, abs_tol=_SMALLEST):
        low, high = low - 0.5 * (abs(low) or 1), high + 0.5 * (abs(high) or 1)
    if kind == "symlog":
        return Scale(sinh(1.05 * asinh(low)), sinh(1.05 * asinh(high)), start, end, kind)
    room = 0.04 * (high - low)
    # No room below 0 where nothing is negative.
    return Scale(max(low - room, 0.0) if low >= 0 else low - room, high + room, start, end)


def x_axis(root: ET.Element, along: Scale, top: float, bottom: float, label: str) -> None:
    """Vertical lines with numbers below, and the quantity's name under them."""
    for value in along.ticks():
        x = along(value)
        element(root, "line", x1=x, x2=x, y1=top, y2=bottom, cls="grid")
        text(root, x, bottom + 15, number(value), "tick", "middle")
    text(root, (along.start + along.end) / 2, bottom + 33, label, "label", "middle")


def y_axis(root: ET.Element, along: Scale, left: float, right: float, label: str) -> None:
    """Horizontal lines with numbers at the left, and the quantity's name above them."""
    for value in along.ticks():
        y = along(value)
        element(root, "line", x1=left, x2=right, y1=y, y2=y, cls="grid")
        text(root, left - 6, y + 4, number(value), "tick", "end")
    text(root, 4, min(along.start, along.end) - 10, label, "label")


def legend(root: ET.Element, names: Sequence[str], left: float, y: float) -> None:
    """Marks with their series' names in a line; nothing for one unnamed series."""
    for index, name in enumerate(names):
        if name:
            mark(root, index, left, y - 4, 4.5)
            text(root, left + 10, y, name, "tick")
        left += 34 + 6.5 * len(name)


def mark(root: ET.Element, series: int, x: float, y: float, r: float, title: str = "") -> None:
    """A point: series differ in shape as well as in colour."""
    cls = f"mark s{series % 4}"
    if series % 4 == 0:
        element(root, "circle", title, cx=x, cy=y, r=r, cls=cls)
        return
    corners = {
        1: ((-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)),
        2: ((0, -1.2), (1.1, 0.8), (-1.1, 0.8)),
        3: ((0, -1.3), (1.3, 0), (0, 1.3), (-1.3, 0)),
    }[series % 4]
    points = " ".join(f"{x + r * dx:.2f},{y + r * dy:.2f}" for dx, dy in corners)
    element(root, "polygon", title, points=points, cls=cls)


def number(value: float) -> str:
    """A tick's number, short."""
    return f"{value:.3g}" if 1e-4 <= abs(value) < 1e5 or value == 0 else f"{value:.0e}"


def shortened(name: str, length: int = 46) -> str:
    """Names differ at their ends: the beginning goes."""
    return name if len(name) <= length else "…" + name[1 - length :]


def svg(root: ET.Element) -> str:
    """As text to put into a page."""
    return ET.tostring(root, encoding="unicode")


def _round_step(step: float) -> float:
    power = 10.0 ** floor(log10(step))
    return power * next(f for f in (1, 2, 5, 10) if step <= f * power * (1 + 1e-9))


def _decade_step(along: Scale) -> int:
    return 1 if max(abs(along.low), abs(along.high)) < 1e4 else 2
