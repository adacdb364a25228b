"""The accuracy of a cell: trained on small images, quantized, and judged by the files exported."""

from collections.abc import Mapping
from contextlib import redirect_stderr
from dataclasses import asdict
from pathlib import Path
from typing import cast

from device_eval.evaluation import evaluate, make_subject
from device_eval.runners import open_model
from qmnv3.cli.ablate_cell import CellJob, Record, Result
from qmnv3.cli.ablate_config import Cell
from qmnv3.cli.ablate_export import FLOAT, export_forms
from qmnv3.cli.ptq_job import PtqJob
from qmnv3.cli.train_job import SUMMARY, WEIGHTS, TrainJob, run_train
from qmnv3.data.folder import find_images
from qmnv3.errors import WeightsError
from qmnv3.models.checkpoint import save_checkpoint
from qmnv3.models.config import ModelOptions, model_config
from qmnv3.models.network import MobileNet
from qmnv3.models.weights import LoadedModel, load_model
from qmnv3.training.checkpoints import LAST
from qmnv3.training.loop import CHECKPOINTS


def accuracy_record(job: CellJob) -> Record:
    """Where the cell's accuracy is kept."""
    config = job.config
    settings = {
        **job.cell.network,
        "resolution": _side(job),
        "lowerings": list(config.lowerings),
        "training": config.training.model_dump(mode="json", exclude={"workers"}),
        "calibration": config.calibration.model_dump(mode="json"),
        "inputs": dict(job.inputs),
    }
    return Record(job.folder, "accuracy", settings)


def accuracy(job: CellJob) -> Result:
    """Train the cell on small images, and classify the validation images with each file of it.

    What is half done stays in a folder of these settings, and a killed training goes on there.
    """
    record = accuracy_record(job)
    return record.read_or_make(lambda: _measure(job, job.folder / f"training-{record.fingerprint[:8]}"))


def untrained(cell: Cell, resolution: int, seed: int) -> LoadedModel:
    """What training starts from: exactly the cell's network, whatever its weights' file says of itself.

    The classifier is always begun anew. WeightsError when the file cannot be read or does not fit.
    """
    if cell.weights is None:
        return load_model(cell.model, resolution=resolution, seed=seed, **cell.model_options)
    config = model_config(cell.model, cell.model_options)
    options = {name: value for name, value in config.to_json().items() if name not in ("name", "num_classes")}
    try:
        return load_model(
            cell.model,
            Path(cell.weights),
            new_classifier=config.num_classes,
            resolution=resolution,
            seed=seed,
            **cast(ModelOptions, options),
        )
    except WeightsError as error:
        raise WeightsError(f"variant {cell.variant} at width {cell.width:g}: {error}") from error


def _side(job: CellJob) -> int:
    return job.config.training_resolution or job.cell.resolution


def _measure(job: CellJob, work: Path) -> Result:
    assert job.data is not None and job.val is not None
    calibration = job.config.calibration
    # Only the equalized file may have gates: the others are of a RUN calibrated without.
    without_gates = calibration.equalization.model_copy(update={"max_slowdown": 0.0})
    plain = calibration.model_copy(update={"equalization": without_gates})
    equalized = calibration.model_copy(update={"level": max(calibration.level, 2)})
    # What training left out must not fail what follows.
    start = PtqJob(job.cell.model, _train(job, work), job.data, work, plain, skip_bad=True)
    parent, *others = export_forms(start, equalized, job.config.lowerings, work / "files")
    folder = find_images(job.val, classes=True)
    float32 = make_subject(open_model(parent.path, "xnnpack"), folder)
    top1, differences = dict[str, Result](), dict[str, Result]()
    for exported in others:
        this = make_subject(open_model(exported.path, "xnnpack"), folder)
        result = evaluate(folder, this, float32, skip_bad=True)
        assert result.other is not None and result.comparison is not None
        top1[FLOAT] = _percent(asdict(result.other.top1))
        top1[exported.form] = _percent(asdict(result.this.top1))
        differences[exported.form] = _percent(asdict(result.comparison.difference))
    return {
        "resolution": _side(job),
        "images": len(result.paths),
        "skipped": [str(path) for path in result.skipped.paths],
        "top1": top1,
        "int8_minus_float": differences,
    }


def _train(job: CellJob, work: Path) -> Path:
    """The weights, trained unless they were before."""
    cell, config, trained = job.cell, job.config.training, work / "trained"
    assert job.data is not None and job.val is not None
    if not (trained / SUMMARY).is_file():
        loaded = untrained(cell, _side(job), config.seed)
        assert isinstance(loaded.model, MobileNet)
        initial = work / "initial.safetensors"
        save_checkpoint(initial, loaded.model, loaded.preprocessing)
        resume = (trained / CHECKPOINTS / LAST).is_file()
        side, device = _side(job), job.training_device
        training = TrainJob(
            cell.model, initial, job.data, job.val, trained, config, None, side, device, resume
        )
        # Several trainings would draw their progress over one another.
        with (work / "training.log").open("a", encoding="utf-8") as log, redirect_stderr(log):
            run_train(training)
    return trained / WEIGHTS


def _percent(shares: Mapping[str, float]) -> Result:
    return {name: 100 * shares[name] for name in ("estimate", "low", "high")}
