"""Where `qmnv3 qat` starts: the float model, calibrated now or in a RUN of `qmnv3 ptq`."""

import copy
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import fx

from calibration.config import WeightConfig
from calibration.progress import Progress, silent
from calibration.ptq import calibrate
from qmnv3.cli.ptq_job import Photos, fingerprint
from qmnv3.cli.train_job import resumable
from qmnv3.cli.training_data import TrainingData, identity, sha256
from qmnv3.data.folder import sample
from qmnv3.errors import GraphError, PrepareError, TrainingError, WeightsError
from qmnv3.models.download import cache_dir, fetch
from qmnv3.models.releases import best_release
from qmnv3.models.weights import LoadedModel, load_model
from qmnv3.qat.config import QatConfig
from qmnv3.quant.prepare import prepare
from qmnv3.quant.state import restore_model
from qmnv3.runs import CALIBRATED, CALIBRATION, PROVENANCE, load_report
from qmnv3.training.distributed import World


@dataclass(frozen=True)
class QatJob:
    """What to train, on what, and where to put it. Without class folders in `data` it learns from the float
    model alone. `start` is a RUN to start from instead of calibrating, see `like_start`.
    """

    model: str
    weights: Path | None
    data: Path | str
    val: Path | str | None
    out: Path
    config: QatConfig
    start: Path | None = None
    width: float | None = None
    resolution: int | None = None
    device: str = "cpu"
    resume: bool = False

    def begun_with(self, data: TrainingData) -> dict[str, Any]:
        """What must be the same for a run to go on; weights and images by content, wherever they lie."""
        start = None if self.start is None else self.start / CALIBRATED
        given: dict[str, Any] = {"model": self.model, "start": sha256(start)}
        given |= identity(checkpoint(self), data)
        given |= {"width": self.width, "resolution": self.resolution}
        return given | self.config.model_dump(exclude={"training": {"workers"}})  # they change nothing

    @property
    def work(self) -> Path:
        """Where the training lies until the RUN is complete."""
        return self.out.with_name(f"{self.out.name}.training")


def like_start(job: QatJob) -> QatJob:
    """`job` with the weights and the bits of the RUN it starts from; TrainingError where it has others.

    Without --weights those at the path that the RUN remembers are taken, if they are still the same.
    """
    if job.start is None:
        return job
    made = load_report(job.start, PROVENANCE)
    try:
        recipe, known = made["recipe"], made["weights"]
        bits = WeightConfig.model_validate(recipe.get("calibration", recipe)["weights"])
        path, sha256 = (None, None) if known is None else (Path(known["path"]), known["sha256"])
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise GraphError(
            f"{job.start / PROVENANCE}: is damaged; make the RUN again with `qmnv3 ptq`"
        ) from error
    calibration = job.config.calibration.model_copy(update={"weights": bits})
    job = replace(job, config=job.config.model_copy(update={"calibration": calibration}))
    weights = job.weights or path
    if weights is None or (job.weights is None and not weights.is_file()):
        missing = "it was made without" if path is None else f"{path} is gone"
        raise TrainingError(
            f"--start {job.start}: needs the weights it was made from, {missing}; give --weights"
        )
    found = fingerprint(weights) if weights.is_file() else None
    if found is not None and sha256 is not None and found["sha256"] != sha256:
        raise TrainingError(
            f"--start {job.start}: was made from {path} (SHA-256 begins {sha256[:8]}), but {weights} has "
            f"{found['sha256'][:8]}; give the same --weights, or calibrate these"
        )
    return replace(job, weights=weights)


def load_float(job: QatJob) -> LoadedModel:
    """The float model that is quantized and teaches."""
    options: dict[str, Any] = {} if job.width is None else {"width": job.width}
    momentum = job.config.training.bn_momentum
    if momentum is not None:
        options["bn_momentum"] = momentum
    return load_model(job.model, checkpoint(job), resolution=job.resolution, **options)


def checkpoint(job: QatJob) -> Path:
    """The checkpoint asked for, else the best published one, fetched once into the user's cache."""
    if job.weights is not None:
        return job.weights
    release = best_release(job.model) if job.width is None else None
    if release is None:
        raise TrainingError(
            f"model {job.model}: no --weights, and none are published; train a float model first: "
            f"qmnv3 train --model {job.model} --data {job.data} --out runs/float"
        )
    try:
        return fetch(release, cache_dir())
    except WeightsError as error:
        raise WeightsError(f"{error}; or give --weights, a checkpoint of {job.model}") from error


@dataclass(frozen=True)
class Start:
    """The calibrated model, its float parent (prepared alike), sites whose scale is floored, the report."""

    model: fx.GraphModule
    parent: fx.GraphModule
    floored: frozenset[str]
    report: dict[str, Any]


def make_start(
    job: QatJob, data: TrainingData, loaded: LoadedModel, progress: Progress, world: World
) -> Start:
    """Calibrate, sharing the images with the other processes, or read the RUN that `job` names."""
    if job.start is not None:
        return _read_start(job, job.start, loaded)
    images, config = photos(job, data, loaded), job.config.calibration
    folder = job.work / "calibration" if world.leads else None
    share, shown = images.share(world), progress if world.leads else silent
    with resumable(job.work) if world.leads else nullcontext():
        found = calibrate(loaded.model, loaded.preprocessing, images, config, shown, folder, share)
    floored = frozenset(floor.site for floor in found.floored)
    return Start(found.model, found.parent, floored, found.to_json())


def _read_start(job: QatJob, run: Path, loaded: LoadedModel) -> Start:
    report, weights = load_report(run, CALIBRATION), job.config.calibration.weights
    try:
        state = load_file(run / CALIBRATED)
    except (OSError, SafetensorError) as error:
        raise GraphError(
            f"{run / CALIBRATED}: cannot be read; make the RUN again with `qmnv3 ptq`"
        ) from error
    parent = prepare(loaded.model, loaded.preprocessing, weights.granularity, weights.bits)
    model = copy.deepcopy(parent)
    try:
        restore_model(model, state)
    except PrepareError as error:
        raise PrepareError(f"--start {run}: is not of model {job.model}: {error}") from error
    return Start(model, parent, frozenset(floor["site"] for floor in report["floored_scales"]), report)


def photos(job: QatJob, data: TrainingData, loaded: LoadedModel) -> Photos:
    """Images to calibrate on, as they are and not augmented."""
    config = job.config.calibration
    chosen = sample(data.train, config.images, config.seed)
    return Photos(data.train, loaded.preprocessing, config.batch_size, chosen, skip_bad=True)
