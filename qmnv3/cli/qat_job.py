"""The whole of `qmnv3 qat`: load, calibrate, train, freeze, convert, and save a RUN."""

import copy
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import typer
from safetensors.torch import save
from torch import fx, nn

from calibration.freeze import FlooredScale
from calibration.progress import Progress, silent
from calibration.report import layer_table
from calibration.statistics import collect
from qmnv3.cli.deployed import deployed
from qmnv3.cli.ptq_job import Photos, fingerprint
from qmnv3.cli.qat_start import QatJob, Start, checkpoint, like_start, load_float, make_start, photos
from qmnv3.cli.train_job import check_training_folder
from qmnv3.cli.training_data import (
    Judge,
    TrainingData,
    batch_source,
    class_outputs,
    decoding_workers,
    find_training_data,
    validation,
    whole_images,
)
from qmnv3.cli.training_view import TrainingView
from qmnv3.data.image_set import IntArray
from qmnv3.data.loader import SkippedImages
from qmnv3.errors import DataError, ExportError
from qmnv3.ir import Metadata, QuantGraph
from qmnv3.models.weights import LoadedModel
from qmnv3.qat.distillation import Teacher
from qmnv3.qat.model import QatModel
from qmnv3.qat.task import QatTask, freeze_trained, reestimate_batch_norm
from qmnv3.quant.convert import convert
from qmnv3.quant.fake_quant import activation_sites
from qmnv3.quant.sites import read_sites
from qmnv3.quant.state import State, model_state
from qmnv3.runs import CALIBRATED, check_out, save_run
from qmnv3.training.distributed import alone, join_world
from qmnv3.training.logs import EVENTS, LOG
from qmnv3.training.loop import Outcome, train


@dataclass(frozen=True)
class QatResult:
    """What `run_qat` did. `float_accuracy` is a share, None without validation images; `outcome.start` and
    `outcome.best` are the exported int8 file's.
    """

    out: Path
    outcome: Outcome
    float_accuracy: float | None
    seconds: float

    def summary(self) -> str:
        """Two lines for a person."""
        judged, best, start = "", self.outcome.best, self.outcome.start
        if best is not None and self.float_accuracy is not None:
            judged = f"; top-1 {100 * best:.2f} % in int8, {100 * self.float_accuracy:.2f} % in float"
        if start is not None:
            judged += f", {100 * start:.2f} % before training"
        if self.outcome.kept_start:
            judged += ", which no epoch was better than: the calibrated model is kept"
        return (
            f"{self.out}: {self.outcome.steps} steps, {self.seconds:.0f} s{judged}\n"
            f"next: qmnv3 inspect {self.out}; qmnv3 export --int8 --checkpoint {self.out} --out export"
        )


def run_qat(job: QatJob, progress: Progress = silent) -> QatResult | None:
    """Train `job.model` with quantization and write the RUN folder, as `qmnv3 ptq` does.

    Until it is complete, checkpoints and log lie in OUT.training; a killed run goes on from there with
    `resume`. Of several processes (torchrun) the first writes the RUN, the others return None.
    Raises a QmnError for anything wrong with the model, the weights or the images.
    """
    started = time.perf_counter()
    check_out(job.out)
    world = join_world(job.device)
    if world.leads:
        check_training_folder(job.work, resume=job.resume, restarted=world.restarted)
    job = like_start(job)
    taught_alone = job.config.distillation.weight == 1.0
    data = find_training_data(job.data, job.val, labels=False if taught_alone else None)
    loaded = load_float(job)
    start = make_start(job, data, loaded, progress, world)
    outputs = read_sites(start.parent)[-1].output_shape[1]
    labelled = _with_labels(job, data, outputs)
    trained, judged = class_outputs(labelled, outputs)
    unreadable = SkippedImages()
    workers = decoding_workers(job.config.training, world)
    judge = validation(data, loaded.preprocessing, "cpu", judged, unreadable, workers)
    metadata = Metadata(job.model, loaded.preprocessing, _labels(labelled, trained, outputs))
    model = QatModel(copy.deepcopy(start.model), job.config.forms, start.floored)
    freeze = _freezing(job, data, loaded, start)
    with TrainingView(job.config.training.epochs) as view:
        outcome = train(
            _task(job, labelled, start, model),
            batch_source(labelled, loaded.preprocessing, job.config.training, world, trained),
            job.config.training,
            job.work,
            recipe=job.begun_with(data),
            validate=_judge_trained(judge, freeze, metadata),
            judge_start=None if judge is None else lambda: judge(deployed(start.model, metadata)),
            unreadable=unreadable,
            world=world,
            resume=job.resume,
            reporter=view if world.leads else None,
        )
    if not world.leads:
        return None
    frozen, floors = start.model, start.report["floored_scales"]
    if not outcome.kept_start:
        with alone():
            frozen, floored = freeze(model)
        floors = [asdict(floor) for floor in floored]
    judge_float = validation(data, loaded.preprocessing, job.device, judged, unreadable, workers)
    in_float = None if judge_float is None else judge_float(start.parent.to(job.device))
    start.parent.cpu()
    graphs = convert(frozen, metadata, "int8"), convert(start.parent, metadata, "float32")
    layers = _layers(job, photos(job, data, loaded), frozen, progress)
    report = start.report | {"floored_scales": floors, "layers": layers}
    _save(job, graphs, report, outcome, in_float, model_state(frozen))
    return QatResult(job.out, outcome, in_float, time.perf_counter() - started)


def _layers(job: QatJob, images: Photos, frozen: fx.GraphModule, progress: Progress) -> list[dict[str, Any]]:
    """The table of `qmnv3 inspect`, of the network as it is now and not as it was calibrated."""
    config = job.config.calibration
    described = copy.deepcopy(frozen)
    for site in activation_sites(described).values():
        site.factors = None  # its statistics are taken in its own units
    statistics = collect(
        described,
        images,
        frozenset({"channels"}),
        expected=config.images,
        seed=config.seed,
        progress=progress,
    )
    equalized = {name: site.factors is not None for name, site in activation_sites(frozen).items()}
    return [row | {"equalized": equalized[row["site"]]} for row in layer_table(described, statistics)]


def _with_labels(job: QatJob, data: TrainingData, outputs: int) -> TrainingData:
    """`data` with labels where they teach nothing but can be shown: its folders are the model's classes."""
    if not data.labelled:
        with suppress(DataError):
            found = find_training_data(job.data, job.val, labels=None)
            class_outputs(found, outputs)
            if len(found.train) == len(data.train):
                return found
    return data


def _labels(data: TrainingData, trained: IntArray, outputs: int) -> tuple[str, ...]:
    """Names of all `outputs`, where the folders are all of the model's classes."""
    plain = np.array_equal(trained, np.arange(outputs))
    return data.train.classes if data.labelled and plain else ()


def _task(job: QatJob, data: TrainingData, start: Start, model: QatModel) -> QatTask:
    config = job.config
    taught = config.distillation.weight > 0 or not data.labelled
    teacher = None
    if taught:
        parent = copy.deepcopy(start.parent).to(job.device)
        teacher = Teacher(parent, config.distillation.features)
    return QatTask(
        model,
        config.schedule,
        config.distillation,
        teacher=teacher,
        labelled=data.labelled,
        accumulate=config.training.accumulate,
        label_smoothing=config.training.label_smoothing,
        mixing=config.training.mixing,
    )


Freeze = Callable[[QatModel], tuple[fx.GraphModule, tuple[FlooredScale, ...]]]


def _freezing(job: QatJob, data: TrainingData, loaded: LoadedModel, start: Start) -> Freeze:
    """Makes of a `QatModel` what it is deployed as, and leaves it as it is; also gives the floored scales."""
    config = job.config.training

    def freeze(model: QatModel) -> tuple[fx.GraphModule, tuple[FlooredScale, ...]]:
        trained, frozen = copy.deepcopy(model), copy.deepcopy(start.model)
        if config.reestimate_images:
            count, seed = config.reestimate_images, config.seed
            reestimate_batch_norm(trained, whole_images(data, loaded.preprocessing, count, seed, job.device))
        floored = freeze_trained(trained.cpu(), frozen)
        return frozen, floored

    return freeze


def _judge_trained(
    judge: Judge | None, freeze: Freeze, metadata: Metadata
) -> Callable[[nn.Module], float] | None:
    """Judges the file that a `QatModel` would be exported to; what cannot be one has 0."""
    if judge is None:
        return None

    def judge_file(model: nn.Module) -> float:
        assert isinstance(model, QatModel)
        try:
            file = deployed(freeze(model)[0], metadata)
        except ExportError as error:
            typer.echo(f"warning: what this epoch learned cannot be deployed: {error}", err=True)
            return 0.0
        return judge(file)

    return judge_file


def _save(
    job: QatJob,
    graphs: tuple[QuantGraph, QuantGraph],
    report: dict[str, Any],
    outcome: Outcome,
    float_accuracy: float | None,
    state: State,
) -> None:
    provenance = {
        "command": "qat",
        "model": job.model,
        "weights": fingerprint(checkpoint(job)),
        "start": None if job.start is None else str(job.start),
        "calibration_images": str(job.data),
        "skipped_images": list(outcome.skipped),
        "recipe": job.config.model_dump(),
        "warnings": report["coverage"],
        "training": asdict(outcome) | {"float_accuracy": float_accuracy},
    }
    logs = [job.work / LOG, *sorted((job.work / EVENTS).glob("*"))]
    extra = {str(path.relative_to(job.work)): path.read_bytes() for path in logs}
    save_run(job.out, *graphs, report, provenance, extra | {CALIBRATED: save(state)})
    shutil.rmtree(job.work, ignore_errors=True)
