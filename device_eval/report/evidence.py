"""Gathering what the report is given: RUN folders, model files, and results of other commands."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from device_eval.lint import check, read_model
from device_eval.lint.description import Model
from device_eval.lint.lint import Report as LintReport
from device_eval.report import paper_records, records
from qmnv3.errors import ReportError
from qmnv3.files import check_model_file
from qmnv3.runs import CALIBRATION, PROVENANCE, is_run, load_report

RESULTS: dict[str, type[BaseModel]] = {
    "eval": records.Evaluation,
    "bench": records.Benchmark,
    "sensitivity": records.Sensitivity,
    "predict": records.Predictions,
    "lint": records.Lint,
    "check": paper_records.Check,
    "ablate": paper_records.Ablation,
}
"""What each command's JSON holds."""

_AnyRecord = TypeVar("_AnyRecord", bound=BaseModel)


@dataclass(frozen=True)
class Source:
    """One thing given: its kind ("RUN", "model" or a command), and where it came from if it says so."""

    path: Path
    kind: str
    sha256: str
    provenance: records.Provenance | None = None


@dataclass(frozen=True, eq=False)
class Read:
    """A model file or RUN, described and linted; float models are not linted."""

    path: Path
    model: Model
    lint: LintReport | None
    calibration: records.Calibration | None = None


@dataclass(frozen=True, eq=False)
class Evidence:
    """Everything given; `results` by command, in the order given."""

    sources: tuple[Source, ...]
    models: tuple[Read, ...]
    results: tuple[tuple[Source, BaseModel], ...]

    def of(self, kind: type[_AnyRecord]) -> list[_AnyRecord]:
        """All results of one kind."""
        return [result for _, result in self.results if isinstance(result, kind)]


def gather(paths: Sequence[Path]) -> Evidence:
    """Read every path once, whatever it is.

    Raises ReportError for JSON that is no result of a command known here, or damaged; ModelFileError and
    GraphError as the readers of models do.
    """
    sources: list[Source] = []
    models: list[Read] = []
    results: list[tuple[Source, BaseModel]] = []
    for path in {path.resolve(): path for path in paths}.values():
        if path.suffix == ".json" and not path.is_dir():
            source, result = _read_result(path)
            results.append((source, result))
        else:
            source, read = _read_model(path)
            models.append(read)
        sources.append(source)
    order = ("RUN", "model", *RESULTS)
    sources.sort(key=lambda source: order.index(source.kind))
    return Evidence(tuple(sources), tuple(models), tuple(results))


def _read_result(path: Path) -> tuple[Source, BaseModel]:
    try:
        check_model_file(path)
    except ValueError as error:
        raise ReportError(f"{path}: {error}; give what --json wrote") from error
    content = path.read_bytes()
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ReportError(f"{path}: not JSON ({_short(str(error))}); give what --json wrote") from error
    command = value.get("command") if isinstance(value, dict) else None
    if not isinstance(command, str) or command not in RESULTS:
        named = f'of "command" {command!r:.40}' if command is not None else 'without "command"'
        known = ", ".join(RESULTS)
        raise ReportError(f"{path}: JSON {named}; give what `--json` of these wrote: {known}")
    result = _record(RESULTS[command], value, path, f"run `qmnv3 {command}` again")
    provenance = _record(records.Provenance, value, path, f"run `qmnv3 {command}` again")
    return Source(path, command, hashlib.sha256(content).hexdigest(), provenance), result


def _read_model(path: Path) -> tuple[Source, Read]:
    model = read_model(path)
    quantized = any(tensor.quantized for tensor in model.tensors.values())
    lint = check(model) if quantized else None
    if not is_run(path):
        return Source(path, "model", hashlib.sha256(path.read_bytes()).hexdigest()), Read(path, model, lint)
    again = "run `qmnv3 ptq` again"
    calibration = _record(records.Calibration, load_report(path, CALIBRATION), path / CALIBRATION, again)
    provenance = _record(records.Provenance, load_report(path, PROVENANCE), path / PROVENANCE, again)
    sha256 = hashlib.sha256((path / PROVENANCE).read_bytes()).hexdigest()
    return Source(path, "RUN", sha256, provenance), Read(path, model, lint, calibration)


def _record(kind: type[_AnyRecord], value: Any, path: Path, advice: str) -> _AnyRecord:
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ReportError(f"{path}: {where}: {first['msg']}; {advice}") from error


def _short(text: str) -> str:
    return text if len(text) <= 80 else text[:77] + "..."
