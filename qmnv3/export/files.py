"""From a RUN folder to files: lowering for the target, then the writer of each format."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from qmnv3.errors import ExportError
from qmnv3.export.onnx_qdq import write_onnx
from qmnv3.export.tflite import write_tflite
from qmnv3.files import atomic_files
from qmnv3.ir import QuantGraph
from qmnv3.lowering import InterfaceType, Target, lower
from qmnv3.runs import load_run_graph

FORMATS = ("tflite", "onnx")


def export_run(
    run: Path,
    out: Path,
    precisions: Iterable[str] = ("int8",),
    formats: str = "tflite,onnx",
    target: Target | None = None,
    interface: InterfaceType = "int8",
    labels: Path | None = None,
) -> list[Path]:
    """Write `out`/model_{int8,float32}.{tflite,onnx} and return their paths; same input, same bytes.

    `formats` is comma-separated. `target` applies to TFLite (default "xnnpack"); ONNX is always written for
    "ort". Either all files are written or, on any error, none. Raises ExportError for an unknown format or a
    target that does not go with the formats.
    """
    chosen = _formats(formats, target)
    names = _labels(labels) if labels else None
    written = []
    with atomic_files(out) as temporary:
        for precision in precisions:
            graph = load_run_graph(run, precision)
            if names is not None:
                graph = _with_labels(graph, names)
            for kind in chosen:
                name = f"model_{precision}.{kind}"
                if kind == "tflite":
                    write_tflite(lower(graph, target or "xnnpack", interface), temporary / name)
                else:
                    write_onnx(lower(graph, "ort", "float32"), temporary / name)
                written.append(out / name)
    return written


def _formats(formats: str, target: Target | None) -> list[str]:
    chosen = [name.strip() for name in formats.split(",") if name.strip()]
    unknown = [name for name in chosen if name not in FORMATS]
    if unknown or not chosen:
        raise ExportError(f"format {formats!r}: choose from {', '.join(FORMATS)}")
    if target == "ort" and "tflite" in chosen:
        raise ExportError("target 'ort' is ONNX Runtime; add --format onnx, or use xnnpack or tflite-builtin")
    if target not in (None, "ort") and chosen == ["onnx"]:
        raise ExportError(f"target {target!r} runs TFLite files; ONNX is written for 'ort'")
    return chosen


def _labels(path: Path) -> tuple[str, ...]:
    try:
        return tuple(path.read_text(encoding="utf-8").splitlines())
    except (OSError, UnicodeDecodeError) as error:
        raise ExportError(f"{path}: labels cannot be read ({error})") from error


def _with_labels(graph: QuantGraph, labels: tuple[str, ...]) -> QuantGraph:
    outputs = graph.tensors[graph.outputs[0]].shape[1]
    if len(labels) != outputs:
        raise ExportError(f"{len(labels)} labels for {outputs} outputs; one line per class is needed")
    return replace(graph, metadata=replace(graph.metadata, labels=labels))
