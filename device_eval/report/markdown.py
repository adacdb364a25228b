"""The report as Markdown: everything but the figures, whose numbers the tables have."""

import re
from collections.abc import Iterator
from itertools import chain

from device_eval.report.document import Report, Section, Table

_MARKS = {"good": "✓", "warning": "!", "bad": "✗", "open": "?"}
_SPECIAL = re.compile(r"([\\`*_\[\]<>|~])")


def to_markdown(report: Report) -> str:
    """GitHub's flavour; what comes from files is escaped."""
    return "\n".join(_lines(report)) + "\n"


def _lines(report: Report) -> Iterator[str]:
    yield f"# {_escape(report.title)}"
    yield ""
    for verdict in report.verdicts:
        yield f"- {_MARKS[verdict.status]} **{_escape(verdict.subject)}**: {_escape(verdict.text)}"
    yield ""
    for section in report.sections:
        yield from _section(section)
    for missing in report.missing:
        yield f"{_escape(missing.title)} is left out; this would give it: {_escape(missing.command)}"
        yield ""
    for recipe in report.recipes:
        yield f"### Recipe of {_escape(recipe.source)}"
        yield ""
        # Indented: a fence could be closed by what is inside.
        yield from (f"    {line}" for line in recipe.yaml.splitlines())
        yield ""
    yield f"Written by qmnv3 {report.version}."


def _section(section: Section) -> Iterator[str]:
    yield f"## {_escape(section.title)}"
    yield ""
    if section.lead:
        yield _escape(section.lead)
        yield ""
    yield from chain.from_iterable(_table(table.without_empty_columns()) for table in section.tables)
    for note in section.notes:
        yield _escape(note)
        yield ""


def _table(table: Table) -> Iterator[str]:
    yield f"**{_escape(table.title)}**"
    yield ""
    yield _row([column.heading for column in table.columns])
    yield "|" + "|".join(" ---: " if column.numeric else " --- " for column in table.columns) + "|"
    for row in table.rows:
        yield _row([column.text(cell) for column, cell in zip(table.columns, row, strict=True)])
    yield ""


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(map(_escape, cells)) + " |"


def _escape(text: str) -> str:
    return _SPECIAL.sub(r"\\\1", " ".join(text.split())).replace("&", "&amp;")
