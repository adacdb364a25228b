"""`qmnv3 report`: what was measured of a model, on one page."""

from pathlib import Path
from typing import Annotated

import typer

EXAMPLES = """
One HTML page that needs no network: verdicts, accuracy, latency, tensors, sensitivity, partitions, h-swish
sites, time per operation, the paper's tables beside, and where everything came from.

Shows what it is given and measures nothing itself: RUN folders, .tflite and .onnx files, and what `eval`,
`bench`, `sensitivity`, `predict`, `lint`, `check` and `ablate` wrote as JSON. Equal inputs give equal bytes
(docs/report.md).

**Examples**

    qmnv3 report runs/small --out report.html

    qmnv3 report runs/small out/model_int8.tflite eval.json bench.json --out report.html

    qmnv3 report runs/small eval.json --out report.html --md report.md --json report.json
"""


def command(
    inputs: Annotated[
        list[Path], typer.Argument(help="RUN folders, .tflite and .onnx files, JSON of other commands.")
    ],
    out: Annotated[Path, typer.Option(help="The HTML page.")],
    title: Annotated[str, typer.Option(help="Heading of the page.")] = "Quantization report",
    md: Annotated[Path | None, typer.Option(help="The same as Markdown, without figures.")] = None,
    json: Annotated[Path | None, typer.Option(help="The same as JSON, figures' data included.")] = None,
) -> None:
    """One page of everything measured."""
    from json import dumps

    from device_eval.report import build, gather, to_html, to_markdown
    from qmnv3.errors import ReportError
    from qmnv3.files import atomic_file

    taken = {path.resolve() for path in inputs}
    written = [path for path in (out, md, json) if path is not None]
    for path in written:
        if path.resolve() in taken:
            raise ReportError(f"{path}: is given twice, or an input; write each to a file of its own")
        taken.add(path.resolve())
    report = build(gather(inputs), title)
    texts = [to_html(report)]
    texts += [to_markdown(report)] if md is not None else []
    texts += [dumps(report.to_json(), indent=2, allow_nan=False) + "\n"] if json is not None else []
    for path, text in zip(written, texts, strict=True):
        with atomic_file(path) as temporary:
            # A file name need not be Unicode.
            temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
    for verdict in report.verdicts:
        typer.echo(f"{verdict.status:7} {verdict.subject}: {verdict.text}")
    for missing in report.missing:
        typer.echo(f"left out: {missing.title}; give {missing.command}")
    typer.echo(str(out))


command.__doc__ = EXAMPLES
