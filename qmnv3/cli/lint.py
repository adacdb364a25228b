"""`qmnv3 lint`: what is wrong with a quantized file, found without running it."""

from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from device_eval.lint import Finding, Report

FAILED = 1
INDENT, TWICE = (0, 0, 0, 2), (0, 0, 0, 4)
EFFECTS = {
    "refused": "a runtime refuses the file",
    "wrong results": "its numbers come out wrong",
    "accuracy": "costs accuracy",
    "speed": "costs speed",
    "use": "concerns whoever uses it",
}
STYLES = {"error": "bold red", "warning": "yellow", "note": "cyan"}

EXAMPLES = """
Explain what costs a quantized model accuracy or speed, or makes a runtime refuse it, from the file alone.

Exit code 0 without errors (with `--strict`, without warnings too), else 1; 2 when a file cannot be read.

**Examples**

    qmnv3 lint out/model_int8.tflite

    qmnv3 lint runs/small out/model_int8.onnx --strict --json findings.json

    qmnv3 lint somebody_elses.tflite --examples 20
"""


def command(
    models: Annotated[list[Path], typer.Argument(help=".tflite and .onnx files and RUN folders.")],
    strict: Annotated[bool, typer.Option("--strict", help="Warnings fail too.")] = False,
    examples: Annotated[int, typer.Option(min=1, help="Places shown per rule and severity.")] = 3,
    json: Annotated[Path | None, typer.Option(help="Write every finding here.")] = None,
) -> None:
    """Explain what is wrong with a quantized file."""
    from device_eval.lint import lint
    from qmnv3.cli.options import table_console

    reports = [lint(path) for path in models]
    console = table_console()
    for report in reports:
        _print(console, report, examples)
    for report in reports:
        console.print(_verdict(report, strict), highlight=False, markup=False, soft_wrap=True)
    if json is not None:
        _write(json, reports, strict)
    if any(_fails(report, strict) for report in reports):
        raise typer.Exit(FAILED)


command.__doc__ = EXAMPLES


def _fails(report: "Report", strict: bool) -> bool:
    return report.count("error") > 0 or (strict and report.count("warning") > 0)


def _print(console: "Console", report: "Report", examples: int) -> None:
    from rich.text import Text

    console.print(Text(f"{report.path}: {report.format}, {report.operations} operations", style="bold"))
    for (severity, rule), group in groupby(report.findings, key=lambda f: (f.severity, f.rule)):
        findings = list(group)
        count = f" ({len(findings)})" if len(findings) > 1 else ""
        title = Text.assemble((severity, STYLES[severity]), f" {rule}{count}: {EFFECTS[findings[0].effect]}")
        console.print(title)
        _print_places(console, findings, examples)
    console.print()


def _print_places(console: "Console", findings: "list[Finding]", examples: int) -> None:
    from rich.padding import Padding
    from rich.text import Text

    for finding in findings[:examples]:
        console.print(Padding(Text(finding.where, style="bold"), INDENT, expand=False))
        console.print(Padding(Text(finding.what), TWICE, expand=False))
    if len(findings) > examples:
        console.print(Text(f"  and {len(findings) - examples} more (--examples, --json)", style="dim"))
    # Findings of one rule mostly share these; show each once.
    advice = dict.fromkeys((finding.why, finding.fix) for finding in findings[:examples])
    for why, fix in advice:
        console.print(Padding(Text(f"why: {why}"), INDENT, expand=False))
        console.print(Padding(Text(f"do: {fix}"), INDENT, expand=False))


def _verdict(report: "Report", strict: bool) -> str:
    from device_eval.lint.finding import EFFECTS, SEVERITIES

    counts = ", ".join(_plural(report.count(severity), severity) for severity in SEVERITIES)
    parts = [f"{'FAIL' if _fails(report, strict) else 'ok'} {report.path.name}: {counts}"]
    for effect in EFFECTS:
        rules = dict.fromkeys(f.rule for f in report.findings if f.effect == effect and f.severity != "note")
        if rules:
            parts.append(f"{effect}: {', '.join(rules)}")
    return "; ".join(parts)


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _write(path: Path, reports: "list[Report]", strict: bool) -> None:
    from qmnv3.environment import environment
    from qmnv3.files import write_json

    models = [{**report.to_json(), "failed": _fails(report, strict)} for report in reports]
    head = {"command": "lint", "strict": strict, "environment": environment()}
    write_json(path, {**head, "models": models})
