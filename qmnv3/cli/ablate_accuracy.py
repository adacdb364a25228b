"""The accuracy of a cell: trained on small images, quantized, and judged by the files exported."""

from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr
from dataclasses import asdict
from pathlib import Path

from device_eval.evaluation import evaluate, make_subject
from device_eval.runners import open_model
from qmnv3.cli.ablate_cell import CellJob, Record, Result
from qmnv3.cli.ptq_job import PtqJob, run_ptq
from qmnv3.cli.train_job import SUMMARY, WEIGHTS, TrainJob, run_train
from qmnv3.data.folder import find_images
from qmnv3.export.files import export_run
from qmnv3.models.checkpoint import save_checkpoint
from qmnv3.models.network import MobileNet
from qmnv3.models.weights import load_model
from qmnv3.training.checkpoints import LAST
from qmnv3.training.loop import CHECKPOINTS


def accuracy_record(job: CellJob) -> Record:
    """Where the cell's accuracy is kept."""
    config = job.config
    assert job.data is not None and job.val is not None
    settings = {
        **job.cell.network,
        "resolution": _side(job),
        "training": config.training.model_dump(mode="json"),
        "calibration": config.calibration.model_dump(mode="json"),
        "data": str(job.data.resolve()),
        "val": str(job.val.resolve()),
    }
    return Record(job.folder, "accuracy", settings)


def accuracy(job: CellJob) -> Result:
    """Train the cell from scratch on small images, quantize, and classify the validation images.

    What is half done stays in a folder of these settings, and a killed training goes on there.
    """
    record = accuracy_record(job)
    return record.read_or_make(lambda: _measure(job, job.folder / f"training-{record.fingerprint[:8]}"))


def _side(job: CellJob) -> int:
    return job.config.training_resolution or job.cell.resolution


def _measure(job: CellJob, work: Path) -> Result:
    assert job.data is not None and job.val is not None
    weights, run = _train(job, work), work / "RUN"
    run_ptq(PtqJob(job.cell.model, weights, job.data, run, job.config.calibration))
    paths = export_run(run, work / "files", ("float32", "int8"), "tflite")
    folder = find_images(job.val, classes=True)
    parent, int8 = (make_subject(open_model(path, "xnnpack"), folder) for path in paths)
    result = evaluate(folder, int8, parent)
    assert result.other is not None and result.comparison is not None
    found = {"float32": result.other.top1, "int8": result.this.top1}
    difference = result.comparison.difference
    return {
        "resolution": _side(job),
        "images": len(result.paths),
        "top1": {name: _percent(asdict(value), ("estimate", "low", "high")) for name, value in found.items()},
        "int8_minus_float": _percent(asdict(difference), ("estimate", "low", "high")),
    }


def _train(job: CellJob, work: Path) -> Path:
    """The weights, trained unless they were before."""
    cell, config, trained = job.cell, job.config.training, work / "trained"
    assert job.data is not None and job.val is not None
    if not (trained / SUMMARY).is_file():
        loaded = load_model(cell.model, resolution=_side(job), seed=config.seed, **cell.model_options)
        assert isinstance(loaded.model, MobileNet)
        initial = work / "initial.safetensors"
        save_checkpoint(initial, loaded.model, loaded.preprocessing)
        resume = (trained / CHECKPOINTS / LAST).is_file()
        training = TrainJob(
            cell.model, initial, job.data, job.val, trained, config, None, _side(job), resume=resume
        )
        # Several trainings would draw their progress over one another.
        with (work / "training.log").open("a", encoding="utf-8") as log, redirect_stderr(log):
            run_train(training)
    return trained / WEIGHTS


def _percent(values: Mapping[str, float], names: Sequence[str]) -> dict[str, float]:
    return {name: 100 * values[name] for name in names}
