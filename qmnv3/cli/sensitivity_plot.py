"""The table of `qmnv3 sensitivity` as a picture: KL added by each rounding, with its interval."""

from collections.abc import Sequence
from html import escape
from math import ceil, floor, log10

from calibration.sensitivity import Sensitivity

# 4 to 1 or better against white as well as against a dark page: no background is drawn.
INK = "#7a7f87"
COLOURS = {"activation": "#2f81f7", "weight": "#d9822b"}
TITLES = {"one": "rounded alone", "all_but_one": "left out of the fully rounded network"}
SHOWN = 40
LINE, NAMES, WIDTH, HEAD = 15, 270, 480, 46
# Decades of KL shown at most: what is smaller lies on the axis.
DECADES = 5


def plot(rows: Sequence[Sensitivity]) -> str:
    """An SVG with a panel for each mode, the worst `SHOWN` of each; KL in nats on a logarithmic axis."""
    modes = [mode for mode in TITLES if any(row.mode == mode for row in rows)]
    panels = [[row for row in rows if row.mode == mode][:SHOWN] for mode in modes]
    low, high = _decades([row for panel in panels for row in panel])
    top, parts = 0, list[str]()
    for mode, panel in zip(modes, panels, strict=True):
        parts += [f'<g transform="translate(0 {top})">', *_panel(panel, TITLES[mode], low, high), "</g>"]
        top += HEAD + LINE * len(panel) + 24
    width = NAMES + WIDTH + 30
    style = f'font-family="sans-serif" font-size="11" fill="{INK}"'
    opening = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {top}" {style}>'
    return "\n".join([opening, *parts, "</svg>", ""])


def _decades(rows: Sequence[Sensitivity]) -> tuple[int, int]:
    """Powers of ten between which the axis runs."""
    values = [row.kl_added.estimate for row in rows if row.kl_added.estimate > 0]
    values += [row.kl_added.high for row in rows if row.kl_added.high is not None and row.kl_added.high > 0]
    if not values:
        return -DECADES, 0
    high = ceil(log10(max(values)))
    return min(max(floor(log10(min(values))), high - DECADES), high - 1), high


def _panel(rows: Sequence[Sensitivity], title: str, low: int, high: int) -> list[str]:
    bottom = HEAD + LINE * len(rows)
    parts = [_text(10, 14, f"{title}: KL divergence added, nats (line: 95 % interval; ring: predicted)")]
    for index, (kind, colour) in enumerate(COLOURS.items()):
        left = NAMES + 5 + 100 * index
        parts += [f'<circle cx="{left}" cy="26" r="4" fill="{colour}"/>', _text(left + 8, 30, kind)]
    for power in range(low, high + 1):
        at = _x(10.0**power, low, high)
        ends = f'x1="{at:.1f}" y1="{HEAD - 6}" x2="{at:.1f}" y2="{bottom}"'
        parts += [
            f'<line {ends} stroke="{INK}" stroke-opacity="0.3"/>',
            _text(at, bottom + 14, f"1e{power}", "middle"),
        ]
    for index, row in enumerate(rows):
        parts += _row(row, HEAD + LINE * index + 6, low, high)
    return parts


def _row(row: Sensitivity, y: int, low: int, high: int) -> list[str]:
    added, colour = row.kl_added, COLOURS[row.kind]
    start, end = (_x(added.estimate if v is None else v, low, high) for v in (added.low, added.high))
    parts = [
        _text(NAMES - 10, y + 4, row.site, "end"),
        f'<line x1="{start:.1f}" y1="{y}" x2="{end:.1f}" y2="{y}" stroke="{colour}"/>',
        f'<circle cx="{_x(added.estimate, low, high):.1f}" cy="{y}" r="4" fill="{colour}"/>',
    ]
    if row.predicted_kl is not None:
        at = _x(row.predicted_kl, low, high)
        parts.append(f'<circle cx="{at:.1f}" cy="{y}" r="4" fill="none" stroke="{INK}"/>')
    return parts


def _x(value: float, low: int, high: int) -> float:
    """Place of a KL divergence; what is 0, negative or outside lies on the axis' ends."""
    exponent = log10(value) if value > 0 else low
    return NAMES + WIDTH * (min(max(exponent, low), high) - low) / (high - low)


def _text(x: float, y: int, text: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y}" text-anchor="{anchor}">{escape(text)}</text>'
