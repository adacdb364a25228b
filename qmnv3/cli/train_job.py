"""The whole of `qmnv3 train`: load, train, save weights."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn
from torch.distributed import is_torchelastic_launched

from qmnv3.cli.training_data import (
    Judge,
    TrainingData,
    batch_source,
    class_outputs,
    decoding_workers,
    find_training_data,
    identity,
    validation,
    whole_images,
)
from qmnv3.cli.training_view import TrainingView
from qmnv3.data.loader import SkippedImages
from qmnv3.environment import environment
from qmnv3.errors import MisfitError, ModelError, ProcessError, QmnError, TrainingError, TrainingStopped
from qmnv3.files import write_json
from qmnv3.models.checkpoint import save_checkpoint
from qmnv3.models.config import ModelOptions
from qmnv3.models.network import MobileNet
from qmnv3.models.user_model import is_user_model
from qmnv3.models.weights import LoadedModel, load_model
from qmnv3.training.batch_norm import reestimate_batch_norm
from qmnv3.training.checkpoints import LAST
from qmnv3.training.config import TrainConfig
from qmnv3.training.distributed import World, alone, gpu_name, join_world
from qmnv3.training.loop import CHECKPOINTS, Outcome, train
from qmnv3.training.task import ClassificationTask

WEIGHTS, SUMMARY = "model.safetensors", "train.json"


@dataclass(frozen=True)
class TrainJob:
    """What to train on what. Without `weights` from scratch; with them, a classifier that does not fit the
    folders' classes is begun anew.
    """

    model: str
    weights: Path | None
    data: Path | str
    val: Path | str | None
    out: Path
    config: TrainConfig
    width: float | None = None
    resolution: int | None = None
    device: str = "cpu"
    resume: bool = False

    def given(self) -> dict[str, str | None]:
        """Where weights and images were, for people."""
        val = None if self.val is None else str(self.val)
        return {"weights": str(self.weights), "data": str(self.data), "val": val}


def run_train(job: TrainJob) -> Outcome:
    """Train and write `job.out`/model.safetensors, train.json, log.jsonl and checkpoints/.

    Raises a QmnError for anything wrong with the model, the weights or the images.
    """
    world = join_world(job.device)
    if world.leads:
        check_training_folder(job.out, resume=job.resume, restarted=world.restarted)
    with resumable(job.out) if world.leads else nullcontext():
        return _run(job, world)


def _run(job: TrainJob, world: World) -> Outcome:
    data = find_training_data(job.data, job.val, labels=True)
    loaded = _load(job, data)
    network = loaded.model
    if not isinstance(network, MobileNet):
        raise ModelError(f"model {job.model}: only built-in models can be trained")
    trained, judged = class_outputs(data, len(data.train.classes))
    unreadable = SkippedImages()
    workers = decoding_workers(job.config, world)
    judge = validation(data, loaded.preprocessing, job.device, judged, unreadable, workers)
    count = job.config.reestimate_images

    def fresh(model: nn.Module) -> None:
        images = whole_images(data, loaded.preprocessing, count, job.config.seed, job.device)
        reestimate_batch_norm(model, images)

    recipe: dict[str, Any] = {"model": network.config.to_json(), "resolution": job.resolution}
    recipe |= job.config.model_dump(exclude={"workers"})  # which change nothing
    with TrainingView(job.config.epochs) as view:
        outcome = train(
            ClassificationTask(network, job.config.label_smoothing, job.config.mixing),
            batch_source(data, loaded.preprocessing, job.config, world, trained),
            job.config,
            job.out,
            recipe=recipe | identity(job.weights, data),
            validate=_with_fresh_statistics(judge, fresh) if judge and count else judge,
            unreadable=unreadable,
            world=world,
            resume=job.resume,
            reporter=view if world.leads else None,
        )
    if world.leads:
        if count:
            with alone():
                fresh(network)
        save_checkpoint(job.out / WEIGHTS, network.cpu(), loaded.preprocessing)
        write_json(job.out / SUMMARY, _summary(outcome, recipe | job.given(), world))
    return outcome


def check_training_folder(out: Path, *, resume: bool, restarted: bool = False) -> None:
    """TrainingError where a new run would overwrite another, or there is none to resume.

    One that was killed before its first checkpoint can be resumed: it begins. Processes that torchrun
    `restarted` go on with what there is; those it starts may `resume` what there is not yet.
    """
    last = out / CHECKPOINTS / LAST
    if out.is_file():
        raise TrainingError(f"{out}: is a file; choose another --out")
    if restarted:
        return
    if resume and not out.exists() and not is_torchelastic_launched():
        raise TrainingError(f"{out}: no such folder, there is no training to resume; begin without --resume")
    if not resume and last.exists():
        raise TrainingError(f"{out}: holds a training already; give --resume to go on, or another --out")


@contextmanager
def resumable(out: Path) -> Iterator[None]:
    """Make the folder of a training, so that --resume goes on when the block is killed.

    Where its input turns out to be wrong nothing is left.
    """
    missing = [folder for folder in (out, *out.parents) if not folder.exists()]
    out.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except (QmnError, OSError) as error:
        if not isinstance(error, ProcessError | TrainingStopped):
            for folder in missing:
                with suppress(OSError):  # it is no longer empty
                    folder.rmdir()
        raise


def _load(job: TrainJob, data: TrainingData) -> LoadedModel:
    options: ModelOptions = {"num_classes": len(data.train.classes)}
    if job.width is not None:
        options["width"] = job.width
    if job.config.bn_momentum is not None:
        options["bn_momentum"] = job.config.bn_momentum
    if is_user_model(job.model):
        raise ModelError(f"model {job.model}: only built-in models can be trained")
    load = partial(load_model, job.model, job.weights, resolution=job.resolution, seed=job.config.seed)
    try:
        return load(**options)
    except MisfitError:
        return load(new_classifier=len(data.train.classes), **options)


def _with_fresh_statistics(
    judge: Judge, refresh: Callable[[nn.Module], None]
) -> Callable[[nn.Module], float]:
    """Judges what would be kept at the end, and changes nothing."""

    def judge_copy(model: nn.Module) -> float:
        kept = copy.deepcopy(model)
        refresh(kept)
        return judge(kept)

    return judge_copy


def _summary(outcome: Outcome, recipe: dict[str, Any], world: World) -> dict[str, Any]:
    return {
        "steps": outcome.steps,
        "best_validation": outcome.best,
        "seconds": outcome.seconds,
        "skipped_images": list(outcome.skipped),
        "recipe": recipe,
        "environment": environment()
        | {"gpu": gpu_name(world.device), "processes": world.size, "begun_by_processes": outcome.begun_by},
    }
