"""Running classifiers over labelled images: top-1, top-5, and one model against another."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from device_eval.preparation import Override, Prepared, resolve_preprocessing
from device_eval.runners import Runner
from device_eval.runners.interface import FloatArray
from device_eval.statistics import (
    PairedDifference,
    Proportion,
    kl_divergence,
    log_probabilities,
    paired_difference,
    proportion,
)
from qmnv3.data import Batch, ClassIndex, ImageFolder, SkippedImages, class_index, load_batches
from qmnv3.errors import ModelFileError

IntArray = npt.NDArray[np.int64]
TOP = 5
NO_OVERRIDE = Override()


@dataclass(frozen=True)
class Subject:
    """A model with everything needed to judge it on one folder."""

    runner: Runner
    prepared: Prepared
    classes: ClassIndex

    @property
    def num_classes(self) -> int:
        """Outputs without the background."""
        return self.runner.num_outputs - self.classes.drop_background


def make_subject(
    runner: Runner, folder: ImageFolder, override: Override = NO_OVERRIDE, classes_file: Path | None = None
) -> Subject:
    """Resolve preprocessing and class order of `runner` on `folder`; see the errors of both resolvers."""
    labels = runner.metadata.labels if runner.metadata is not None else ()
    index = class_index(folder, runner.num_outputs, labels, classes_file)
    return Subject(runner, resolve_preprocessing(runner, override), index)


@dataclass(frozen=True, eq=False)
class Accuracy:
    """One model's results; `top` [N, up to 5] are class indices, best first, ties to the lower index."""

    top1: Proportion
    top5: Proportion
    top: IntArray


@dataclass(frozen=True)
class Comparison:
    """This model against another on the same images: accuracy difference, same top-1, KL(other || this)."""

    difference: PairedDifference
    agreement: Proportion
    mean_kl_nats: float


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Results over all images that could be read; `targets` [N] are class indices."""

    paths: tuple[Path, ...]
    targets: IntArray
    this: Accuracy
    other: Accuracy | None
    comparison: Comparison | None
    skipped: SkippedImages

    def to_json(self, root: Path) -> dict[str, Any]:
        """Plain JSON types, every prediction included; image paths relative to `root`."""
        result: dict[str, Any] = {
            "images": len(self.paths),
            "skipped": [path.relative_to(root).as_posix() for path in self.skipped.paths],
            **_accuracy_json(self.this),
        }
        if self.other is not None and self.comparison is not None:
            result["against"] = {**_accuracy_json(self.other), **asdict(self.comparison)}
        result["predictions"] = [
            {
                "image": path.relative_to(root).as_posix(),
                "class": int(self.targets[i]),
                "top5": self.this.top[i].tolist(),
                **({"against_top5": self.other.top[i].tolist()} if self.other else {}),
            }
            for i, path in enumerate(self.paths)
        ]
        return result


def evaluate(
    folder: ImageFolder,
    this: Subject,
    other: Subject | None = None,
    *,
    indices: Sequence[int] | None = None,
    batch_size: int = 32,
    workers: int = 2,
    skip_bad: bool = False,
    advance: Callable[[int], None] = lambda images: None,
) -> Evaluation:
    """Classify `folder` (or `indices` of it) with one or two models, decoding in threads meanwhile.

    `advance(n)` is called after every n images. Raises DataError for unreadable images (unless `skip_bad`),
    ModelFileError for outputs that are not finite or two models with different classes.
    """
    subjects = [this] if other is None else [this, other]
    _check_comparable(subjects)
    specs = dict.fromkeys(subject.prepared.preprocessing for subject in subjects)
    loaders = {
        spec: load_batches(folder, spec, batch_size, indices=indices, skip_bad=skip_bad, workers=workers)
        for spec in specs
    }
    parts: list[_Part] = []
    for batches in zip(*loaders.values(), strict=True):
        by_spec = dict(zip(loaders, batches, strict=True))
        parts.append(_classify(subjects, [by_spec[s.prepared.preprocessing] for s in subjects]))
        advance(len(batches[0]))
    return _summarize(parts, next(iter(loaders.values())).skipped)


@dataclass(frozen=True, eq=False)
class _Part:
    """One batch's results: `tops` per model, `kl` per image (empty without a second model)."""

    paths: tuple[Path, ...]
    targets: IntArray
    tops: list[IntArray]
    kl: npt.NDArray[np.float64]


def _check_comparable(subjects: Sequence[Subject]) -> None:
    first = subjects[0]
    for other in subjects[1:]:
        if first.num_classes != other.num_classes or first.classes.outputs != other.classes.outputs:
            raise ModelFileError(
                f"{first.runner.path} ({first.num_classes} classes) and {other.runner.path} "
                f"({other.num_classes}) have different classes or class orders; they cannot be compared"
            )


def _classify(subjects: Sequence[Subject], batches: Sequence[Batch]) -> _Part:
    outputs = [_run(subject, batch) for subject, batch in zip(subjects, batches, strict=True)]
    targets = np.asarray(subjects[0].classes.outputs, np.int64)[batches[0].labels]
    kl = np.empty(0)
    if len(subjects) == 2:
        this, other = (
            log_probabilities(rows, subject.runner.output_kind)
            for rows, subject in zip(outputs, subjects, strict=True)
        )
        kl = kl_divergence(other, this)
    return _Part(batches[0].paths, targets, [_best(rows) for rows in outputs], kl)


def _run(subject: Subject, batch: Batch) -> FloatArray:
    rows = subject.runner.run(batch.images)
    finite = np.isfinite(rows).all(axis=-1)
    if not finite.all():
        raise ModelFileError(
            f"{subject.runner.path}: outputs for {batch.paths[int(np.argmin(finite))]} are NaN or infinite; "
            "check the weights"
        )
    return rows[:, int(subject.classes.drop_background) :]


def _best(rows: FloatArray) -> IntArray:
    # Integer outputs tie often; a stable sort makes the winner the lower index on every machine.
    return np.argsort(-rows, axis=-1, kind="stable")[:, :TOP].astype(np.int64)


def _summarize(parts: Sequence[_Part], skipped: SkippedImages) -> Evaluation:
    targets = np.concatenate([part.targets for part in parts])
    models = [
        _accuracy(np.concatenate([part.tops[model] for part in parts]), targets)
        for model in range(len(parts[0].tops))
    ]
    other = models[1] if len(models) == 2 else None
    comparison = None
    if other is not None:
        same = models[0].top[:, 0] == other.top[:, 0]
        comparison = Comparison(
            paired_difference(models[0].top[:, 0] == targets, other.top[:, 0] == targets),
            proportion(int(same.sum()), len(same)),
            float(np.concatenate([part.kl for part in parts]).mean()),
        )
    paths = tuple(path for part in parts for path in part.paths)
    return Evaluation(paths, targets, models[0], other, comparison, skipped)


def _accuracy(top: IntArray, targets: IntArray) -> Accuracy:
    hits = top == targets[:, None]
    return Accuracy(
        proportion(int(hits[:, 0].sum()), len(hits)), proportion(int(hits.any(axis=1).sum()), len(hits)), top
    )


def _accuracy_json(accuracy: Accuracy) -> dict[str, Any]:
    return {"top1": asdict(accuracy.top1), "top5": asdict(accuracy.top5)}
