"""RUN folders: the integer graph as an xnnpack export would lower it."""

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from device_eval.lint.description import Calibrated, Carried, Grid, Model, Op, Tensor
from device_eval.lint.readers.delegate import with_partitions
from qmnv3 import ir
from qmnv3.errors import ExportError, GraphError
from qmnv3.export.tflite import write_tflite
from qmnv3.lowering import lower
from qmnv3.runs import CALIBRATION, load_report, load_run_graph

_KINDS = {
    "Conv2d": "Conv",
    "DepthwiseConv2d": "DepthwiseConv",
    "Flatten": "Reshape",
    "PixelPairs": "Reshape",
}
_WEIGHT_AXIS = {"Conv": 0, "DepthwiseConv": 3}


def read_run(path: Path) -> Model:
    """Describe the int8 graph of a RUN; GraphError when `path` is none or is damaged."""
    graph = lower(load_run_graph(path), "xnnpack")
    described = replace(describe_graph(graph, path), calibrated=_calibrated(path))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.tflite"
        try:
            write_tflite(graph, file)
        except ExportError as error:
            return replace(described, runtime_error=str(error))
        return with_partitions(described, file)


def _calibrated(path: Path) -> Calibrated:
    report = load_report(path, CALIBRATION)
    try:
        return Calibrated(
            tuple(str(line) for line in report.get("coverage", [])),
            {str(row["site"]): float(row["scale"]) for row in report.get("floored_scales", [])},
            {
                str(row["site"]): float(row["clipped_percent"])
                for row in report.get("layers", [])
                if _cut_off(row)
            },
        )
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise GraphError(f"{path}: its report is damaged ({error!r}); run `qmnv3 ptq` again") from error


def _cut_off(row: dict[str, Any]) -> bool:
    """Whether values lie beyond the grid by more than a step: fixed grids end one step below 1."""
    step = float(row["scale"])
    return bool(row["observed_high"] > row["high"] + step or row["observed_low"] < row["low"] - step)


def describe_graph(graph: ir.QuantGraph, path: Path) -> Model:
    """Describe a graph as it is, integers or float; `path` is its name for people."""
    return Model(
        path,
        "run",
        {name: _tensor(tensor) for name, tensor in graph.tensors.items()},
        tuple(_op(i, op) for i, op in enumerate(graph.ops)),
        graph.inputs,
        graph.outputs,
        Carried(True, bool(graph.metadata.labels)),
    )


def _tensor(tensor: ir.Tensor) -> Tensor:
    q = tensor.qparams
    grid = None
    if q is not None:
        scale, zero_point = np.atleast_1d(q.scale), np.atleast_1d(q.zero_point)
        grid = Grid(scale.astype(np.float64), zero_point.astype(np.int64), q.axis or 0)
    return Tensor(tensor.name, tensor.shape, tensor.dtype, grid, tensor.data)


def _op(index: int, op: ir.Op) -> Op:
    native = type(op).__name__
    kind = _KINDS.get(native, native)
    activation = getattr(op, "activation", "none")
    return Op(index, kind, native, op.inputs, (op.output,), activation, _WEIGHT_AXIS.get(kind))
