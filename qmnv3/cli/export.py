"""`qmnv3 export`: write deployable TFLite and ONNX files from a RUN."""

from pathlib import Path
from typing import Annotated, Literal

import typer

EXAMPLES = """
Write TFLite and ONNX files from a RUN folder: the same integers in both.

**Examples**

    qmnv3 export --int8 --checkpoint runs/small --out export/

    qmnv3 export --int8 --checkpoint runs/small --out export/ --format tflite --target tflite-builtin

    qmnv3 export --float32 --checkpoint runs/small --out export/
"""


def command(
    checkpoint: Annotated[Path, typer.Option(help="RUN folder made by ptq.")],
    out: Annotated[Path, typer.Option(help="Folder for model_int8.tflite, model_int8.onnx.")],
    int8: Annotated[bool, typer.Option("--int8", help="Write the fully integer model.")] = False,
    float32: Annotated[bool, typer.Option("--float32", help="Write its float parent.")] = False,
    format: Annotated[str, typer.Option(help="tflite, onnx or both, comma-separated.")] = "tflite,onnx",
    target: Annotated[
        Literal["xnnpack", "tflite-builtin", "ort"] | None,
        typer.Option(help="Runtime to fit; default xnnpack for TFLite, ort for ONNX."),
    ] = None,
    input_type: Annotated[
        Literal["int8", "uint8", "float32"],
        typer.Option(help="Element type of image and logits in the int8 TFLite file; ONNX has float32."),
    ] = "int8",
    labels: Annotated[
        Path | None, typer.Option(help="Text file, one class name per line, stored in the files.")
    ] = None,
) -> None:
    """Write TFLite and ONNX files from a RUN folder."""
    from qmnv3.export.files import export_run

    if not (int8 or float32):
        raise typer.BadParameter("give --int8, --float32 or both")
    precisions = [name for name, wanted in (("int8", int8), ("float32", float32)) if wanted]
    for path in export_run(checkpoint, out, precisions, format, target, input_type, labels):
        typer.echo(f"{path}  {path.stat().st_size / 2**20:.2f} MiB")
        if path.name == "model_int8.tflite":
            _print_int16(checkpoint, path)


command.__doc__ = EXAMPLES


def _print_int16(checkpoint: Path, path: Path) -> None:
    from qmnv3.lowering import int16_tensors
    from qmnv3.runs import load_run_graph

    names = int16_tensors(load_run_graph(checkpoint, "int8"))
    if names:
        from qmnv3.cli.int16_cost import describe_int16

        typer.echo(describe_int16(names, path))
