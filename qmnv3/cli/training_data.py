"""Images for training and validation: folders or shards."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from qmnv3.cli.progress import progress
from qmnv3.data.augment import Augmentation
from qmnv3.data.classes import class_index
from qmnv3.data.folder import find_images, sample
from qmnv3.data.image_set import ImageSet, IntArray
from qmnv3.data.loader import SkippedImages, load_batches
from qmnv3.data.order import Position
from qmnv3.data.shards import are_shards, expand_shards, find_shards
from qmnv3.data.training_batches import TrainingBatches
from qmnv3.environment import usable_cpus
from qmnv3.errors import DataError
from qmnv3.files import file_sha256
from qmnv3.preprocessing import Preprocessing
from qmnv3.training.config import TrainConfig
from qmnv3.training.distributed import World

_VALIDATION_BATCH = 50
_DECODING_THREADS = 2
_STATISTICS_BATCH = 100
_DIGITS = 16

Judge = Callable[[Callable[[Tensor], Tensor]], float]
"""Accuracy of a model, a function of images [N, 3, H, W] to logits [N, outputs]."""


@dataclass(frozen=True)
class TrainingData:
    """Images to train and to validate on; without classes nothing is labelled."""

    train: ImageSet
    val: ImageSet | None

    @property
    def labelled(self) -> bool:
        """Whether every image has a class."""
        return bool(self.train.classes)


def identity(weights: Path | None, data: TrainingData) -> dict[str, str | None]:
    """What a run that is resumed must have been begun with, by content and not by path.

    Images by names and sizes, as reading them all would take too long.
    """
    return {"weights": sha256(weights), "data": _identity(data.train), "val": _identity(data.val)}


def sha256(weights: Path | None) -> str | None:
    """A checkpoint in words."""
    return None if weights is None else f"a file of SHA-256 {file_sha256(weights)[:_DIGITS]}"


def _identity(images: ImageSet | None) -> str | None:
    if images is None:
        return None
    kind = "labelled images" if images.classes else "images"
    return f"{len(images)} {kind}, SHA-256 of names and sizes {images.listing_sha256()[:_DIGITS]}"


def find_training_data(data: Path | str, val: Path | str | None, *, labels: bool | None) -> TrainingData:
    """`data` has train/ and val/ in it, or is itself what to train on; `val` wins. Both may be shards.

    `labels` are needed (True), taken where there are classes (None), or not wanted (False). DataError
    where needed ones are missing, and for a class only the validation has.
    """
    root = data
    if isinstance(data, Path) and (data / "train").is_dir():
        root = data / "train"
        if val is None and (data / "val").is_dir():
            val = data / "val"
    train = _find(root, labels)
    judged = _find(val, True) if val is not None else None
    unknown = sorted(set(judged.classes) - set(train.classes)) if judged and train.classes else []
    if unknown:
        raise DataError(
            f"{val}: class {unknown[0]} is not among those of {root}; it cannot be judged: remove it, or put "
            "a classes.json beside shards to name their classes"
        )
    return TrainingData(train, judged)


def _find(location: Path | str, labels: bool | None) -> ImageSet:
    if are_shards(location):
        locations = expand_shards(location)
        with progress("indexing shards", len(locations)) as advance:
            return find_shards(locations, labels=labels, advance=advance)
    root = Path(location)
    if labels is None:
        labels = root.is_dir() and any(entry.is_dir() for entry in root.iterdir())
    found = find_images(root, classes=labels)
    return found if labels else replace(found, labels=(), classes=())


def class_outputs(data: TrainingData, outputs: int) -> tuple[IntArray, IntArray]:
    """Which of a model's `outputs` is each class of the training, and of the validation folder.

    Both are empty where there are no classes. Classes are matched as by `qmnv3 eval`.
    """
    known = {}
    if data.labelled:
        known = _by_class(data.train, outputs)
    elif data.val is not None:
        known = _by_class(data.val, outputs)
    judged = data.val.classes if data.val is not None else ()
    train = [known[name] for name in data.train.classes]
    return np.asarray(train, np.int64), np.asarray([known[name] for name in judged], np.int64)


def _by_class(folder: ImageSet, outputs: int) -> dict[str, int]:
    found = class_index(folder, outputs)
    background = int(found.drop_background)
    return {name: index + background for name, index in zip(folder.classes, found.outputs, strict=True)}


def decoding_workers(config: TrainConfig, world: World) -> int:
    """How many threads, or processes beside a GPU, decode images: by default there all cores, shared by the
    processes that torchrun started on this machine.
    """
    if config.workers is not None:
        return config.workers
    if world.device == "cpu":
        return _DECODING_THREADS
    return max(_DECODING_THREADS, usable_cpus() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def batch_source(
    data: TrainingData, spec: Preprocessing, config: TrainConfig, world: World, outputs: IntArray
) -> Callable[[Position, int], TrainingBatches]:
    """This process's augmented batches from a position on, of a training that so many processes began; labels
    are the model's `outputs`.
    """
    augmentation = Augmentation(**config.augmentation.model_dump())
    return lambda start, begun_by: TrainingBatches(
        data.train,
        spec,
        augmentation,
        batch_size=config.batch_size,
        seed=config.seed,
        start=start,
        outputs=outputs,
        rank=world.rank,
        world_size=world.size,
        begun_by=begun_by,
        workers=decoding_workers(config, world),
        processes=world.device != "cpu",
    )


def whole_images(
    data: TrainingData, spec: Preprocessing, count: int, seed: int, device: str
) -> Iterator[torch.Tensor]:
    """So many training images [N, 3, H, W] as they are evaluated, for BatchNorm's statistics."""
    chosen = sample(data.train, count, seed)
    for batch in load_batches(data.train, spec, _STATISTICS_BATCH, indices=chosen, skip_bad=True):
        yield torch.from_numpy(batch.for_batch_norm().images).permute(0, 3, 1, 2).to(device)


def validation(
    data: TrainingData,
    spec: Preprocessing,
    device: str,
    outputs: IntArray,
    skipped: SkippedImages,
    workers: int = _DECODING_THREADS,
) -> Judge | None:
    """Share of the validation images a model gets right; their class i is its output `outputs[i]`.

    Corrupt images are left out and added to `skipped`; `workers` threads decode.
    """
    folder = data.val
    if folder is None:
        return None

    @torch.inference_mode()
    def judge(model: Callable[[Tensor], Tensor]) -> float:
        right = seen = 0
        batches = load_batches(folder, spec, _VALIDATION_BATCH, skip_bad=True, workers=workers)
        for batch in batches:
            images = torch.from_numpy(batch.images).permute(0, 3, 1, 2).to(device)
            found = model(images).argmax(1).cpu().numpy()
            right += int((found == outputs[batch.labels]).sum())
            seen += len(batch)
        for path, reason in zip(batches.skipped.paths, batches.skipped.reasons, strict=True):
            skipped.add(path, reason)
        return right / seen

    return judge
