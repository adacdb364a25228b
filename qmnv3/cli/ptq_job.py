"""The whole of `qmnv3 ptq`: load, calibrate, convert, and save a RUN."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import save

from calibration import bias_correction, checkpoints
from calibration.config import PtqConfig
from calibration.ladder import Climb, climb, ladder
from calibration.observers import Turns
from calibration.progress import Progress, silent
from calibration.ptq import Calibration, observe, quantize
from calibration.shares import Share
from calibration.statistics import Images
from qmnv3.cli.int16_cost import int16_cost
from qmnv3.cli.skipped import skipped_line
from qmnv3.data.folder import ImageFolder, find_images, sample
from qmnv3.data.image_set import ImageSet
from qmnv3.data.loader import load_batches
from qmnv3.errors import CalibrationError, DataError
from qmnv3.files import file_sha256
from qmnv3.ir import Metadata
from qmnv3.models.config import ModelOptions
from qmnv3.models.weights import LoadedModel, load_model
from qmnv3.preprocessing import Preprocessing
from qmnv3.quant.convert import convert
from qmnv3.quant.state import model_state
from qmnv3.runs import CALIBRATED, check_out, save_run
from qmnv3.training.distributed import ALONE, World, contents_of_all, names_of_all


@dataclass(frozen=True)
class PtqJob:
    """What to quantize, on what, and where to put it. `model` is a name or "package.module:function".

    `width` and `resolution` default to the checkpoint's, or 1.0 and 224. With `target_drop`, in points of
    top-1, the level is the first that keeps the estimated drop below it.
    """

    model: str
    weights: Path | None
    images: Path
    out: Path
    config: PtqConfig
    skip_bad: bool = False
    drop_background: bool = False
    width: float | None = None
    resolution: int | None = None
    target_drop: float | None = None


@dataclass(frozen=True)
class PtqResult:
    """What `run_ptq` did."""

    out: Path
    calibration: Calibration
    seconds: float
    warnings: tuple[str, ...]
    climb: Climb | None = None
    int16_cost: str | None = None

    def summary(self) -> str:
        """Two lines for a person, more with int16 tensors."""
        logits = self.calibration.logits
        tflite_only = " --format tflite" if self.int16_cost is not None else ""
        sqnr = f"{logits['sqnr_db']:.1f} dB" if logits["sqnr_db"] is not None else "exact"
        return (
            f"{self.out}: {self.calibration.images} images, {len(self.calibration.layers)} tensors, "
            f"{self.seconds:.1f} s; int8 against float on {logits['images']} of them: "
            f"logits SQNR {sqnr}, top-1 agreement {100 * logits['top1_agreement']:.0f} %\n"
            f"{self._int16()}"
            f"next: qmnv3 inspect {self.out}; "
            f"qmnv3 export --int8 --checkpoint {self.out} --out export{tflite_only}"
        )

    def _int16(self) -> str:
        """What int16 tensors gained and cost, if the recipe asked for any."""
        report = self.calibration.to_json()["int16"]
        if report is None:
            return ""
        names = ", ".join(site["site"] for site in report["sites"]) or "none was worth it"
        before, after = (report[key]["estimate"] for key in ("kl_before", "kl_after"))
        cost = "" if self.int16_cost is None else f"{self.int16_cost}\n"
        return f"int16: {names}; KL {before:.4f} to {after:.4f} before bias correction\n{cost}"


def run_ptq(job: PtqJob, progress: Progress = silent, world: World = ALONE) -> PtqResult | None:
    """Quantize `job.model` and write the RUN folder.

    While it runs, what block reconstruction has finished lies in OUT.partial; called again after a kill, it
    goes on from there. Several processes (torchrun) share the pass over the images and bias correction's; the
    first does all the rest and writes the RUN, the others return None when it is written.
    Raises a QmnError for anything wrong with the model, the weights or the images; then nothing is written.
    """
    started = time.perf_counter()
    if world.leads:
        check_out(job.out)
    folder = find_images(job.images, classes=False)
    loaded = load(job)
    chosen, held_out = _split(folder, job)
    photos, unseen = (
        Photos(folder, loaded.preprocessing, job.config.batch_size, indices, job.skip_bad)
        for indices in (chosen, held_out)
    )
    partial = job.out.with_name(f"{job.out.name}.partial")
    climbed: Climb | None = None
    config = job.config
    configs = (config,) if job.target_drop is None else ladder(config)
    share = photos.share(world)
    observed = observe(loaded.model, loaded.preprocessing, photos, configs, progress, share)
    photos.leave_out_what_others_skipped()
    if not world.leads:
        bias_correction.assist(observed.statistics, config)
        return None
    if job.target_drop is None:
        result = quantize(observed, config, progress, partial)
    else:
        climbed = climb(observed, unseen, config, job.target_drop, progress, partial)
        result, config = climbed.calibration, climbed.config
    metadata = Metadata(job.model, loaded.preprocessing)
    int8 = convert(result.model, metadata, "int8")
    float32 = convert(result.parent, metadata, "float32")
    if int8.tensors[int8.outputs[0]].shape[1] == len(folder.classes):
        metadata = replace(metadata, labels=folder.classes)
        int8, float32 = replace(int8, metadata=metadata), replace(float32, metadata=metadata)
    cost = int16_cost(int8)
    skipped = [*photos.skipped, *unseen.skipped]
    warnings = _warnings(job, result, skipped)
    provenance = {
        "command": "ptq",
        "model": job.model,
        "weights": fingerprint(job.weights),
        "calibration_images": str(job.images),
        "skipped_images": [str(path) for path in skipped],
        "recipe": config.model_dump(),
        "target_drop": job.target_drop,
        "threads": torch.get_num_threads(),
        "warnings": warnings,
    }
    ladder_json = climbed.to_json() if climbed else []
    report = result.to_json() | {"ladder": ladder_json, "int16_cost": cost}
    save_run(job.out, int8, float32, report, provenance, {CALIBRATED: save(model_state(result.model))})
    checkpoints.discard(partial)
    bias_correction.dismiss(observed.statistics)
    return PtqResult(job.out, result, time.perf_counter() - started, tuple(warnings), climbed, cost)


def _split(folder: ImageFolder, job: PtqJob) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Images to calibrate on and, for a ladder, others to judge by: a fifth where there are too few."""
    config = job.config
    if job.target_drop is None:
        return sample(folder, config.images, config.seed), ()
    drawn = sample(folder, config.images + config.held_out, config.seed)
    if len(drawn) < 2:
        raise CalibrationError(f"{job.images}: --target-drop needs images to judge by; give at least 2")
    count = min(config.images, len(drawn) - max(min(config.held_out, len(drawn) // 5), 1))
    return drawn[:count], drawn[count:]


class Photos:
    """An image source: every call decodes the chosen images anew, without those found corrupt before."""

    def __init__(
        self, folder: ImageSet, spec: Preprocessing, batch_size: int, chosen: Sequence[int], skip_bad: bool
    ) -> None:
        self._folder, self._spec, self._batch_size = folder, spec, batch_size
        self._chosen, self._skip_bad = tuple(chosen), skip_bad
        self._bad: set[Path] = set()

    @property
    def skipped(self) -> list[Path]:
        """The chosen images found corrupt so far."""
        return [path for path in map(self._folder.path, self._chosen) if path in self._bad]

    def __call__(self) -> Iterator[Images]:
        """The batches from the first on."""
        return self._batches(self._chosen)

    def share(self, world: World) -> Share | None:
        """This process's share, if there are others: batches take turns."""
        if world.size == 1:
            return None
        size = self._batch_size
        firsts = range(world.rank * size, len(self._chosen), world.size * size)
        mine = [index for first in firsts for index in self._chosen[first : first + size]]
        return Share(
            Turns(world.rank, world.size, size),
            lambda: self._batches(mine, may_be_none=True),
            contents_of_all,
        )

    def leave_out_what_others_skipped(self) -> None:
        """Leave out images that any process found corrupt in its share."""
        self._bad = {Path(name) for name in names_of_all([str(path) for path in self._bad])}

    def _batches(self, indices: Sequence[int], *, may_be_none: bool = False) -> Iterator[Images]:
        good = [index for index in indices if self._folder.path(index) not in self._bad]
        batches = load_batches(
            self._folder, self._spec, self._batch_size, indices=good, skip_bad=self._skip_bad
        )
        try:
            for batch in batches:
                yield batch.images
        except DataError:
            # Of one process's few images all may be corrupt.
            if not may_be_none or batches.skipped.count < len(good):
                raise
        self._bad.update(batches.skipped.paths)


def load(job: PtqJob) -> LoadedModel:
    """The float model that `job` names."""
    options: ModelOptions = {} if job.width is None else {"width": job.width}
    return load_model(
        job.model,
        job.weights,
        drop_background=job.drop_background,
        resolution=job.resolution,
        seed=job.config.seed,
        **options,
    )


def _warnings(job: PtqJob, result: Calibration, skipped: Sequence[Path]) -> list[str]:
    lines = []
    if result.images < job.config.images:
        lines.append(f"{job.images}: only {result.images} of the {job.config.images} images asked for")
    lines += [*skipped_line(skipped), *result.coverage]
    if result.floored:
        names = ", ".join(f.site for f in result.floored[:3])
        lines.append(
            f"tensors that are (nearly) always 0 on these images: {names} ({len(result.floored)} in all)"
        )
    return lines


def fingerprint(weights: Path | None) -> dict[str, str] | None:
    """Path and SHA-256 of a checkpoint."""
    if weights is None:
        return None
    return {"path": str(weights), "sha256": file_sha256(weights)}
