"""What a recipe says about quantization-aware training, beside the training itself."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from calibration.config import PtqConfig
from qmnv3.training.config import TrainConfig

RangeForm = Literal["learned", "moving_average", "clip"]
WeightForm = Literal["absmax", "learned"]
Share = Annotated[float, Field(ge=0, le=1)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FormsConfig(_Strict):
    """How grids follow the training.

    `activations`: "learned" scales and zero points (LSQ+, Bhalgat et al. 2020), a "moving_average" of the
    batches' ends (Jacob et al. 2018; `momentum` is the weight of the past), or "clip": the upper end of a
    ReLU is learned (PACT, Choi et al. 2018), all others average. `weights`: scales from the "absmax" of a
    channel, or "learned" (LSQ, Esser et al. 2020).
    """

    activations: RangeForm = "learned"
    weights: WeightForm = "absmax"
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.99


class QatScheduleConfig(_Strict):
    """When what happens, as shares of all training steps.

    Rounding starts after `quantize_after`; averaged ranges observe before, too. BatchNorm takes its
    statistics from the batches until `freeze_batch_norm_after`, ranges change until `freeze_ranges_after`.
    `damping` draws weights to the middle of their bins, more and more along a cosine up to this strength
    (Nagel et al. 2022).
    """

    quantize_after: Share = 0.0
    freeze_batch_norm_after: Share = 0.5
    freeze_ranges_after: Share = 0.9
    damping: Annotated[float, Field(ge=0)] = 0.0

    @model_validator(mode="after")
    def _statistics_are_still_taken(self) -> "QatScheduleConfig":
        if self.freeze_ranges_after < self.quantize_after:
            raise ValueError("freeze_ranges_after is before quantize_after: no range would ever be learned")
        return self


class DistillationConfig(_Strict):
    """What the float parent teaches: `weight` of the loss is KL(parent, model) at the logits, divided by
    `temperature`; the rest is the labels' cross-entropy. Without labels all of it is the parent's.

    `features` are names of sites (`qmnv3 inspect`) whose tensors should be the parent's too; their mean
    square errors, relative to the parent's mean square, count `feature_weight` each.
    """

    weight: Share = 0.5
    temperature: Annotated[float, Field(gt=0)] = 1.0
    features: tuple[str, ...] = ()
    feature_weight: Annotated[float, Field(ge=0)] = 1.0


class QatConfig(_Strict):
    """A whole QAT recipe: training starts from what `calibration` gives, equalization and ranges included."""

    calibration: PtqConfig = PtqConfig()
    forms: FormsConfig = FormsConfig()
    schedule: QatScheduleConfig = QatScheduleConfig()
    distillation: DistillationConfig = DistillationConfig()
    training: TrainConfig = TrainConfig()

    @model_validator(mode="after")
    def _features_are_taught(self) -> "QatConfig":
        if self.distillation.features and self.distillation.weight == 0:
            raise ValueError(
                "distillation.features are the float parent's: they need a distillation.weight above 0"
            )
        return self

    @model_validator(mode="after")
    def _is_no_float_training(self) -> "QatConfig":
        if self.training.compile:
            raise ValueError("training.compile is for float training: grids change with every step")
        return self
