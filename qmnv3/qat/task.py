"""What the training loop trains in quantization-aware training."""

import math
from collections.abc import Iterable

import torch
from torch import fx

from calibration.freeze import FlooredScale, freeze
from qmnv3.qat.config import DistillationConfig, QatScheduleConfig
from qmnv3.qat.distillation import Teacher, feature_loss, logits_loss
from qmnv3.qat.model import QatModel
from qmnv3.training.batch_norm import averaging
from qmnv3.training.config import MixingConfig
from qmnv3.training.mixing import mix


class QatTask:
    """A `QatModel`, its schedule and its loss.

    Where in the schedule it is follows from the step alone. `labelled` says whether labels are classes of the
    model; without labels and without a `teacher` there is nothing to learn from. `accumulate` batches make a
    step.
    """

    leaves_out_parameters = True

    def __init__(
        self,
        model: QatModel,
        schedule: QatScheduleConfig,
        distillation: DistillationConfig,
        *,
        teacher: Teacher | None,
        labelled: bool,
        accumulate: int = 1,
        label_smoothing: float = 0.0,
        mixing: MixingConfig | None = None,
    ) -> None:
        self.model = model
        self._schedule, self._distillation = schedule, distillation
        self._teacher = teacher
        self._taught = (distillation.weight if labelled else 1.0) if teacher is not None else 0.0
        self._accumulate = accumulate
        self._smoothing = label_smoothing
        self._mixing = mixing or MixingConfig()

    def loss(self, images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean loss of the batch, and logits."""
        mixed = mix(images, labels, self._mixing)
        logits, features = self.model.features(mixed.images, self._distillation.features)
        loss = torch.zeros((), device=logits.device)
        if self._taught < 1.0:
            own = mixed.cross_entropy(logits.float(), self._smoothing)
            loss = loss + (1.0 - self._taught) * own
        if self._teacher is not None and self._taught > 0.0:
            lesson = self._teacher(mixed.images)
            taught = logits_loss(logits, lesson.logits, self._distillation.temperature)
            loss = loss + self._taught * taught
            for name, feature in features.items():
                loss = loss + self._distillation.feature_weight * feature_loss(feature, lesson.features[name])
        return loss, logits

    def before_step(self, step: int, total: int) -> None:
        """Switch on what is due at `step`, with grids that fit the parameters."""
        schedule, done = self._schedule, step / max(1, total)
        self.model.settle()
        self.model.quantize(done >= schedule.quantize_after)
        if done >= schedule.freeze_batch_norm_after:
            self.model.freeze_batch_norm()
        if done >= schedule.freeze_ranges_after:
            self.model.freeze_ranges()
        if schedule.damping:
            # Every batch's backward pass adds it, once a step is meant.
            strength = schedule.damping / self._accumulate
            self.model.damp(strength * (1.0 - math.cos(math.pi * done)) / 2.0)

    def after_step(self) -> None:
        """Take in what ranges observed: nothing must be pending when a checkpoint is saved."""
        self.model.settle()


@torch.no_grad()
def reestimate_batch_norm(model: QatModel, batches: Iterable[torch.Tensor]) -> None:
    """Take BatchNorm's running statistics anew: their plain means over `batches` [N, 3, H, W].

    Ranges stay.
    """
    layers = list(model.layers())
    folds = [layer.folds for layer in layers]
    was_training = model.training
    for layer in layers:
        layer.folds = False
    model.train()
    for output in model.outputs():
        output.eval()  # which then observes nothing
    try:
        with averaging([layer.norm for layer in layers if layer.norm is not None]):
            for images in batches:
                model(images)
    finally:
        model.train(was_training)
        for layer, fold in zip(layers, folds, strict=True):
            layer.folds = fold


def freeze_trained(model: QatModel, prepared: fx.GraphModule) -> tuple[FlooredScale, ...]:
    """Give `prepared`, which `model` was made from, what was learned; as calibration freezes scales.

    `qmnv3.quant.convert` then takes it as it takes a calibrated one. Returns the floored scales.
    """
    model.settle()
    return freeze(prepared, model.write(prepared))
