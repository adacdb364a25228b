"""The size of a cell: its files with random weights, and what is counted and predicted from them."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from calibration.config import PtqConfig
from device_eval.latency.structure import structure
from device_eval.predictor import predict_graph
from qmnv3.cli.ablate_cell import CellJob, Record, Result
from qmnv3.cli.ptq_job import PtqJob, run_ptq
from qmnv3.errors import ModelError
from qmnv3.export.files import export_run
from qmnv3.ir import HardSwish, Logistic, QuantGraph
from qmnv3.lowering import Target
from qmnv3.models.checkpoint import save_checkpoint
from qmnv3.models.count import count
from qmnv3.models.network import MobileNet
from qmnv3.models.weights import load_model
from qmnv3.runs import load_run_graph

FLOAT = "float32"
# Weights are random: what is equalized and in which ranges does not change what a network costs to run.
PLAIN = PtqConfig(level=1, images=4, batch_size=4)
EQUALIZED = PtqConfig(level=2, images=4, batch_size=4)


@dataclass(frozen=True)
class Exported:
    """A file and the RUN it is of; `form` is "float32", or "int8" and how nonlinearities are lowered."""

    form: str
    run: Path
    path: Path


def size_record(job: CellJob) -> Record:
    """Where the cell's size is kept."""
    return Record(job.folder, "size", {**job.cell.network, "lowerings": list(job.config.lowerings)})


def size(job: CellJob) -> Result:
    """Export the cell's files with random weights: multiply-adds, parameters, bytes, predicted latency."""
    return size_record(job).read_or_make(lambda: _measure(job))


def _measure(job: CellJob) -> Result:
    cell, work = job.cell, job.folder / "work"
    loaded = load_model(cell.model, resolution=cell.resolution, **cell.model_options)
    if not isinstance(loaded.model, MobileNet):
        raise ModelError(f"model {cell.model}: only built-in models have variants")
    cost = count(loaded.model, cell.resolution)
    weights = work / "random.safetensors"
    save_checkpoint(weights, loaded.model, loaded.preprocessing)
    start = PtqJob(cell.model, weights, job.digits / "train", work, PLAIN)
    made = export_forms(start, EQUALIZED, job.config.lowerings, job.folder / "files")
    result = {
        "madds": cost.madds,
        "params": cost.params,
        "files": [_file(exported, job.folder) for exported in made],
    }
    shutil.rmtree(work)
    return result


def export_forms(
    start: PtqJob, equalized: PtqConfig, lowerings: Sequence[str], files: Path
) -> list[Exported]:
    """Quantize as `start` says, below its `out`, and write TFLite files: float, and int8 in each lowering.

    The equalized one is of a RUN of its own, quantized as `equalized` says.
    """
    plain = start.out / "plain"
    run_ptq(replace(start, out=plain))
    [path] = export_run(plain, files / FLOAT, (FLOAT,), "tflite")
    made = [Exported(FLOAT, plain, path)]
    for form, lowering in _forms(load_run_graph(plain), lowerings):
        run = plain
        if lowering == "equalized":
            run = start.out / "equalized"
            run_ptq(replace(start, out=run, config=equalized))
        target: Target = "tflite-builtin" if lowering == "op" else "xnnpack"
        [path] = export_run(run, files / form.replace(" ", "_"), ("int8",), "tflite", target)
        made.append(Exported(form, run, path))
    return made


def _forms(graph: QuantGraph, lowerings: Sequence[str]) -> list[tuple[str, str]]:
    """Name and lowering of each int8 file; there is a choice only where there is an h-swish."""
    if any(isinstance(op, HardSwish) for op in graph.ops):
        return [(f"int8 {name}", name) for name in lowerings]
    return [("int8 lut" if any(isinstance(op, Logistic) for op in graph.ops) else "int8", "add-mul")]


def _file(exported: Exported, folder: Path) -> Result:
    path, parts = exported.path, structure(exported.path)
    prediction = predict_graph(load_run_graph(exported.run, exported.form.split()[0]), path)
    partitions = parts.partitions
    assert partitions is not None
    return {
        "form": exported.form,
        "file": str(path.relative_to(folder)),
        "size_bytes": parts.size_bytes,
        "arena_bytes": parts.arena_bytes,
        "partitions": partitions.count,
        # XNNPACK's reason; then there are no partitions.
        "refused": partitions.refused and partitions.refused.removeprefix(f"{path}: "),
        "op_counts": parts.op_counts,
        "predicted": [device.to_json() for device in prediction.devices],
        "notes": list(prediction.notes),
    }
