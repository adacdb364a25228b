"""One cell of an ablation: its size, its accuracy, its latency, each kept in a JSON file of its own."""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from calibration.config import PtqConfig
from device_eval.evaluation import evaluate, make_subject
from device_eval.latency import Plan, benchmark
from device_eval.latency.result import Device, Report
from device_eval.latency.structure import structure
from device_eval.predictor import predict_graph
from device_eval.runners import open_model
from qmnv3 import __version__
from qmnv3.cli.ablate_config import AblationConfig, Axis, Cell, fingerprint
from qmnv3.cli.ptq_job import PtqJob, run_ptq
from qmnv3.cli.train_job import SUMMARY, WEIGHTS, TrainJob, run_train
from qmnv3.data.folder import find_images
from qmnv3.errors import ModelError, QmnError, TrainingStopped
from qmnv3.export.files import export_run
from qmnv3.files import write_json
from qmnv3.ir import HardSwish, Logistic, QuantGraph
from qmnv3.lowering import Target
from qmnv3.models.checkpoint import save_checkpoint
from qmnv3.models.count import count
from qmnv3.models.network import MobileNet
from qmnv3.models.weights import load_model
from qmnv3.runs import load_run_graph
from qmnv3.training.checkpoints import LAST
from qmnv3.training.loop import CHECKPOINTS

Result = dict[str, Any]
FLOAT = "float32"
# Weights are random: what is equalized and in which ranges does not change what a network costs to run.
PLAIN = PtqConfig(level=1, images=4, batch_size=4)
EQUALIZED = PtqConfig(level=2, images=4, batch_size=4)


@dataclass(frozen=True)
class CellJob:
    """What to find out about a cell. `digits` are images for networks that are not trained; `data` is for
    those that are (None without the accuracy axis). Results go to a folder of the cell's below `out`.
    """

    cell: Cell
    config: AblationConfig
    axes: tuple[Axis, ...]
    out: Path
    digits: Path
    data: Path | None = None
    val: Path | None = None

    @property
    def folder(self) -> Path:
        """The cell's own."""
        return self.out / "cells" / self.cell.name


@dataclass(frozen=True)
class Found:
    """Results and reasons of failure by axis."""

    results: Mapping[str, Result]
    failures: Mapping[str, str]


def attempt(job: CellJob) -> Found:
    """Size (also what latency needs) and accuracy; whatever goes wrong is that axis' failure."""
    steps: dict[str, Callable[[], Result]] = {}
    if {"size", "latency"} & set(job.axes):
        steps["size"] = lambda: size(job)
    if "accuracy" in job.axes:
        steps["accuracy"] = lambda: accuracy(job)
    results, failures = dict[str, Result](), dict[str, str]()
    for axis, step in steps.items():
        try:
            results[axis] = step()
        except TrainingStopped:
            raise KeyboardInterrupt from None
        except Exception as error:
            failures[axis] = reason(error)
    return Found(results, failures)


def reason(error: BaseException) -> str:
    """One line; the kind of error where it is no message of ours."""
    text = " ".join(str(error).split())
    return text if isinstance(error, QmnError) else f"{type(error).__name__}: {text}"


def size(job: CellJob) -> Result:
    """Export the cell's files with random weights: multiply-adds, parameters, bytes, predicted latency."""
    settings = {"cell": asdict(job.cell), "lowerings": list(job.config.lowerings)}
    return _kept(job.folder, "size", settings, lambda: _export(job))


def _export(job: CellJob) -> Result:
    cell, work, files = job.cell, job.folder / "work", job.folder / "files"
    loaded = load_model(cell.model, resolution=cell.resolution, **cell.model_options)
    if not isinstance(loaded.model, MobileNet):
        raise ModelError(f"model {cell.model}: only built-in models have variants")
    cost = count(loaded.model, cell.resolution)
    weights = work / "random.safetensors"
    save_checkpoint(weights, loaded.model, loaded.preprocessing)
    images, plain, equalized = job.digits / "train", work / "plain", work / "equalized"
    run_ptq(PtqJob(cell.model, weights, images, plain, PLAIN))
    [path] = export_run(plain, files / FLOAT, (FLOAT,), "tflite")
    made: list[tuple[str, Path, Path]] = [(FLOAT, plain, path)]
    for form, lowering in _forms(load_run_graph(plain), job.config.lowerings):
        run = plain
        if lowering == "equalized":
            run = equalized
            run_ptq(PtqJob(cell.model, weights, images, run, EQUALIZED))
        target: Target = "tflite-builtin" if lowering == "op" else "xnnpack"
        [path] = export_run(run, files / form.replace(" ", "_"), ("int8",), "tflite", target)
        made.append((form, run, path))
    result = {
        "madds": cost.madds,
        "params": cost.params,
        "files": [_file(form, run, path, job.folder) for form, run, path in made],
    }
    shutil.rmtree(work)
    return result


def _forms(graph: QuantGraph, lowerings: Sequence[str]) -> list[tuple[str, str]]:
    """Name and lowering of each int8 file; there is a choice only where there is an h-swish."""
    if any(isinstance(op, HardSwish) for op in graph.ops):
        return [(f"int8 {name}", name) for name in lowerings]
    return [("int8 lut" if any(isinstance(op, Logistic) for op in graph.ops) else "int8", "add-mul")]


def _file(form: str, run: Path, path: Path, folder: Path) -> Result:
    parts = structure(path)
    prediction = predict_graph(load_run_graph(run, form.split()[0]), path)
    pixel1 = next(device for device in prediction.devices if device.pixel == 1)
    return {
        "form": form,
        "file": str(path.relative_to(folder)),
        "size_bytes": parts.size_bytes,
        "arena_bytes": parts.arena_bytes,
        "partitions": parts.partitions.count if parts.partitions else None,
        "op_counts": parts.op_counts,
        "predicted_pixel1_ms": pixel1.predicted_ms,
        "predicted": [device.to_json() for device in prediction.devices],
    }


def accuracy(job: CellJob) -> Result:
    """Train the cell from scratch on small images, quantize, and classify the validation images."""
    config, cell = job.config, job.cell
    assert job.data is not None and job.val is not None
    side = config.training_resolution or cell.resolution
    settings = {
        "model": cell.model,
        "options": dict(cell.options),
        "width": cell.width,
        "resolution": side,
        "training": config.training.model_dump(mode="json"),
        "calibration": config.calibration.model_dump(mode="json"),
        "data": str(job.data.resolve()),
        "val": str(job.val.resolve()),
    }
    return _kept(job.folder, "accuracy", settings, lambda: _train(job, side, fingerprint(settings)[:8]))


def _train(job: CellJob, side: int, mark: str) -> Result:
    """What is half done stays in a folder of these settings, and a killed training goes on there."""
    cell, config, work = job.cell, job.config, job.folder / f"training-{mark}"
    assert job.data is not None and job.val is not None
    trained, run = work / "trained", work / "RUN"
    if not (trained / SUMMARY).is_file():
        options = cell.model_options
        loaded = load_model(cell.model, resolution=side, seed=config.training.seed, **options)
        assert isinstance(loaded.model, MobileNet)
        initial = work / "initial.safetensors"
        save_checkpoint(initial, loaded.model, loaded.preprocessing)
        resume = (trained / CHECKPOINTS / LAST).is_file()
        # Several trainings would draw their progress over one another.
        with (work / "training.log").open("a", encoding="utf-8") as log, redirect_stderr(log):
            run_train(
                TrainJob(
                    cell.model,
                    initial,
                    job.data,
                    job.val,
                    trained,
                    config.training,
                    None,
                    side,
                    resume=resume,
                )
            )
    run_ptq(PtqJob(cell.model, trained / WEIGHTS, job.data, run, config.calibration))
    paths = export_run(run, work / "files", ("float32", "int8"), "tflite")
    folder = find_images(job.val, classes=True)
    parent, int8 = (make_subject(open_model(path, "xnnpack"), folder) for path in paths)
    result = evaluate(folder, int8, parent)
    assert result.other is not None and result.comparison is not None
    found = {"float32": result.other.top1, "int8": result.this.top1}
    difference = result.comparison.difference
    return {
        "resolution": side,
        "images": len(result.paths),
        "top1": {name: _percent(asdict(value), ("estimate", "low", "high")) for name, value in found.items()},
        "int8_minus_float": _percent(asdict(difference), ("estimate", "low", "high")),
    }


def _percent(values: Mapping[str, float], names: Sequence[str]) -> dict[str, float]:
    return {name: 100 * values[name] for name in names}


def latency(
    job: CellJob, baseline: CellJob | None, device: Device, where: str, plan: Plan, report: Report
) -> Result:
    """Time the cell's files, and in turns with them the first int8 file of `baseline`; ratios are to it."""
    files = {job.folder / file["file"]: file["form"] for file in size(job)["files"]}
    reference = None
    if baseline is not None:
        reference = baseline.folder / next(f["file"] for f in size(baseline)["files"] if f["form"] != FLOAT)
    settings = {
        "cell": asdict(job.cell),
        "lowerings": list(job.config.lowerings),
        "baseline": None if baseline is None else asdict(baseline.cell),
        "plan": asdict(plan),
        "device": where,
    }

    def measure() -> Result:
        extra = [] if reference is None or reference in files else [reference]
        measured = benchmark([*extra, *files], plan, device, report)
        first = {entry.runtime: entry.p50_us for entry in measured.latencies if entry.path == reference}
        taken = [entry for entry in measured.to_json()["latencies"] if Path(entry["path"]) in files]
        for entry in taken:
            entry["form"] = files[Path(entry["path"])]
            entry["ratio"] = entry["p50_us"] / first[entry["runtime"]] if entry["runtime"] in first else None
            # Those to whatever file came first say nothing here.
            del entry["ratio_p50"], entry["path"]
        refusals = [f"{files.get(r.path, 'baseline')}: {r.reason}" for r in measured.measurement.refusals]
        conditions = dict(measured.measurement.conditions)
        return {"latencies": taken, "refusals": refusals, "conditions": conditions}

    return _kept(job.folder, "latency", settings, measure)


def _kept(folder: Path, axis: str, settings: Result, work: Callable[[], Result]) -> Result:
    """The result in the cell's file if it is of these settings, else a new one."""
    path, key = folder / f"{axis}.json", fingerprint({"version": __version__, **settings})
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        result: Result = kept["result"]
        if kept["fingerprint"] == key and all(
            (folder / f["file"]).is_file() for f in result.get("files", ())
        ):
            return result
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        pass  # none yet, or damaged: made anew
    result = work()
    write_json(path, {"fingerprint": key, "settings": settings, "result": result})
    return result
