"""Where everything came from: files with their checksums, commits, versions, machines, resolved recipes."""

from typing import Any

import yaml

from device_eval.report.document import Column, Recipe, Section, Table
from device_eval.report.evidence import Evidence, Source
from qmnv3.errors import ReportError

_DIGITS = 12


def section(evidence: Evidence) -> Section:
    """A row for each thing given."""
    columns = (
        Column("input", "input"),
        Column("kind", "kind"),
        Column("created", "created"),
        Column("git_commit", "commit"),
        Column("cpu", "processor"),
        Column("platform", "system"),
        Column("versions", "versions"),
        Column("sha256", "SHA-256"),
    )
    rows = tuple(_row(source) for source in evidence.sources)
    made = [s.provenance.environment for s in evidence.sources if s.provenance is not None]
    different: dict[str, set[str | None]] = {
        "commits of qmnv3": {environment.git_commit for environment in made},
        "processors": {environment.cpu for environment in made},
    }
    notes = [
        f"The inputs were made with {len(values)} different {noun}."
        for noun, values in different.items()
        if len(values) > 1
    ]
    if any(source.kind == "RUN" for source in evidence.sources):
        notes.append("The SHA-256 of a RUN is that of its run.json.")
    return Section("provenance", "Provenance", tables=(Table("Inputs", columns, rows),), notes=tuple(notes))


def recipes(evidence: Evidence) -> tuple[Recipe, ...]:
    """The resolved recipe of each input that has one; ReportError where it is nested beyond reason."""
    return tuple(
        Recipe(str(source.path), _yaml(source, source.provenance.recipe))
        for source in evidence.sources
        if source.provenance is not None and source.provenance.recipe
    )


def _row(source: Source) -> tuple[str | None, ...]:
    made = source.provenance.environment if source.provenance is not None else None
    if made is None:
        return str(source.path), source.kind, None, None, None, None, None, source.sha256[:_DIGITS]
    named = {"python": made.python, **made.versions}
    return (
        str(source.path),
        source.kind,
        made.created,
        made.git_commit and made.git_commit[:_DIGITS],
        made.cpu,
        made.platform,
        ", ".join(f"{name} {value}" for name, value in named.items() if value is not None),
        source.sha256[:_DIGITS],
    )


def _yaml(source: Source, recipe: dict[str, Any]) -> str:
    try:
        return str(yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True))
    except RecursionError:
        raise ReportError(f"{source.path}: its recipe is nested too deep; make it again") from None
