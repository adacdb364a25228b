"""What a report holds, whatever it is written as: sections of verdicts, tables, figures and notes."""

from dataclasses import dataclass
from typing import Any, Literal

from device_eval.report.figures import Figure

Status = Literal["good", "warning", "bad", "open"]
"""open: the data given does not decide it."""


@dataclass(frozen=True)
class Estimate:
    """A figure with the ends of its interval."""

    value: float
    low: float | None
    high: float | None


Cell = str | int | float | Estimate | None
"""None: not known, or not there."""


@dataclass(frozen=True)
class Column:
    """`key` names it in JSON, units included, `heading` for people; `form` is a format of numbers."""

    key: str
    heading: str
    form: str = ""

    @property
    def numeric(self) -> bool:
        """Whether it holds numbers."""
        return bool(self.form)

    def text(self, cell: Cell) -> str:
        """A cell for people."""
        if cell is None:
            return "–"
        if isinstance(cell, str):
            return cell
        if not isinstance(cell, Estimate):
            return format(cell, self.form)
        if cell.low is None or cell.high is None:
            return format(cell.value, self.form)
        return f"{cell.value:{self.form}} [{cell.low:{self.form}}, {cell.high:{self.form}}]"


@dataclass(frozen=True)
class Table:
    """Rows of as many cells as there are columns."""

    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]

    def without_empty_columns(self) -> "Table":
        """Without columns in which nothing is known."""
        kept = [i for i in range(len(self.columns)) if any(row[i] is not None for row in self.rows)]
        rows = tuple(tuple(row[i] for i in kept) for row in self.rows)
        return Table(self.title, tuple(self.columns[i] for i in kept), rows)

    def to_json(self) -> dict[str, Any]:
        """Rows as objects by the columns' keys."""
        keys = [column.key for column in self.columns]
        rows = [{k: _plain(cell) for k, cell in zip(keys, row, strict=True)} for row in self.rows]
        return {"title": self.title, "rows": rows}


@dataclass(frozen=True)
class Verdict:
    """One line of the summary."""

    status: Status
    subject: str
    text: str


@dataclass(frozen=True)
class Section:
    """One part of the report; figures stand before tables, notes last."""

    id: str
    title: str
    lead: str = ""
    figures: tuple[Figure, ...] = ()
    tables: tuple[Table, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Missing:
    """A section there is no data for, and the command that would give it."""

    title: str
    command: str


@dataclass(frozen=True)
class Recipe:
    """The resolved recipe of one input, as YAML."""

    source: str
    yaml: str


@dataclass(frozen=True)
class Report:
    """The whole of it. `version` is that of the qmnv3 which wrote it."""

    title: str
    version: str
    verdicts: tuple[Verdict, ...]
    sections: tuple[Section, ...]
    missing: tuple[Missing, ...]
    recipes: tuple[Recipe, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types, everything that is shown included."""
        return {
            "command": "report",
            "version": self.version,
            "title": self.title,
            "verdicts": [vars(verdict) for verdict in self.verdicts],
            "sections": [
                {
                    "id": section.id,
                    "title": section.title,
                    "lead": section.lead,
                    "figures": [figure.to_json() for figure in section.figures],
                    "tables": [table.to_json() for table in section.tables],
                    "notes": list(section.notes),
                }
                for section in self.sections
            ],
            "missing": [vars(missing) for missing in self.missing],
            "recipes": [vars(recipe) for recipe in self.recipes],
        }


def _plain(cell: Cell) -> Any:
    return vars(cell) if isinstance(cell, Estimate) else cell
