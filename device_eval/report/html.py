"""The report as one HTML page that needs nothing else: style, script and figures are inside."""

import re
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from device_eval.report.document import Cell, Estimate, Report
from device_eval.report.figures import Figure

_PARTS = re.compile(r"[^/_]*[/_]*")


def to_html(report: Report) -> str:
    """The whole page; everything from files is escaped."""
    loader = PackageLoader("device_eval.report", "page")
    # Not by suffix: the templates' names end in .j2.
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"draw": _draw, "sort_key": _sort_key, "breakable": _breakable}
    parts = {name: Markup(loader.get_source(environment, f"report.{name}")[0]) for name in ("css", "js")}
    return environment.get_template("report.html.j2").render(report=report, **parts)


def _draw(figure: Figure, id_: str) -> Markup:
    # Built by ElementTree, which escapes.
    return Markup(figure.svg(id_))


def _breakable(text: str) -> Markup:
    """Paths and tensors' names have no spaces at which a narrow cell could break them."""
    return Markup("<wbr>").join(escape(part) for part in _PARTS.findall(text))


def _sort_key(cell: Cell) -> Any:
    return cell.value if isinstance(cell, Estimate) else "" if cell is None else cell
