"""What a recipe says about training. Every default of training lives here."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(strict=True, ge=1)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class OptimizerConfig(_Strict):
    """The optimizer; `rate` is for batches of `reference_batch` images and scales with the batch's size.

    "rmsprop" is TensorFlow's: `alpha` is the weight of the past in its mean square, by default 0.9, `eps`
    stands inside the root, by default 0.001. The others have neither; a recipe takes back a base's with null.
    Weight decay spares biases and BatchNorm unless `decay_norms`; these take `bias_rate` times the rate.
    Ranges learned in quantization-aware training take `range_rate` times the rate.
    """

    kind: Literal["rmsprop", "sgd", "adamw"] = "sgd"
    rate: Positive = 0.1
    reference_batch: Count = 256
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    nesterov: bool = False
    alpha: Annotated[float, Field(ge=0, lt=1)] | None = None
    eps: Positive | None = None
    weight_decay: NotNegative = 1e-5
    decay_norms: bool = False
    bias_rate: NotNegative = 1.0
    range_rate: NotNegative = 1.0

    @model_validator(mode="after")
    def _nesterov_has_momentum(self) -> "OptimizerConfig":
        if self.nesterov and (self.kind != "sgd" or self.momentum == 0):
            raise ValueError("nesterov: needs kind sgd and a momentum above 0; leave it out")
        return self

    @model_validator(mode="after")
    def _only_rmsprop_takes_them(self) -> "OptimizerConfig":
        for name in ("alpha", "eps"):
            value = getattr(self, name)
            if value is not None and self.kind != "rmsprop":
                raise ValueError(
                    f"{name} {value:g}: is rmsprop's, {self.kind} has none; leave it out, or give null"
                )
        return self


class ScheduleConfig(_Strict):
    """How the rate changes: it rises linearly over `warmup_epochs`, then

    "exponential": times `decay` every `every_epochs`, in steps with `staircase`; "cosine": down to the share
    `final`; or it stays "constant".
    """

    kind: Literal["exponential", "cosine", "constant"] = "cosine"
    warmup_epochs: NotNegative = 0.0
    decay: Annotated[float, Field(gt=0, le=1)] = 0.99
    every_epochs: Positive = 3.0
    staircase: bool = True
    final: Annotated[float, Field(ge=0, le=1)] = 0.0


class EmaConfig(_Strict):
    """An exponential moving average of the weights, which is what is kept in the end."""

    enabled: bool = False
    decay: Annotated[float, Field(gt=0, lt=1)] = 0.9999


class AugmentationConfig(_Strict):
    """Inception preprocessing: a crop of a random share of the area and aspect, flip, colour distortion.

    `resolution` is the side of the training images, by default that of the evaluated ones: smaller is
    faster, and makes objects look as large as they do in evaluation (Touvron et al. 2019). `shift` instead
    moves the whole image by up to so many pixels, as suits small drawings: then give `min_area` 1.0.
    """

    resolution: Count | None = None
    min_area: Annotated[float, Field(gt=0, le=1)] = 0.08
    min_aspect: Positive = 0.75
    max_aspect: Positive = 4 / 3
    flip: bool = True
    colour: bool = True
    shift: Annotated[int, Field(strict=True, ge=0)] = 0

    @model_validator(mode="after")
    def _aspects_are_a_range(self) -> "AugmentationConfig":
        if self.min_aspect > self.max_aspect:
            raise ValueError(
                f"min_aspect {self.min_aspect:g}: is above max_aspect {self.max_aspect:g}; give them in order"
            )
        return self


class MixingConfig(_Strict):
    """Images blended in pairs: `mixup` fades (Zhang et al. 2018), `cutmix` pastes a box (Yun et al. 2019).

    Each is the alpha of Beta(alpha, alpha) that shares are drawn from, 0 is off; with both, a batch gets one
    or the other at random.
    """

    mixup: NotNegative = 0.0
    cutmix: NotNegative = 0.0


class TrainConfig(_Strict):
    """A whole training: `batch_size` images per process that began it, `accumulate` such batches per update.

    `workers` decode images ahead: threads, by default 2; where a GPU trains processes, by default one for
    every core. The model is validated every `validate_every` epochs and saved every `save_every_s` seconds,
    after every validation and at the end. `bn_momentum` is torch's, the weight of a new batch in BatchNorm's
    running statistics; None leaves the model's (0.01, the paper's 0.99): short runs need more. With
    `reestimate_images` these are taken anew in the end, from so many whole training images. `tensorboard`
    writes event files beside the log. `precision` "bf16" is autocast. `compile` uses torch.compile, which
    needs a C++ compiler (CPU) or Triton (GPU).

    What is not finite ends a training, and so do 100 updates in a row with a loss beyond hope, see
    `qmnv3.training.diagnosis.note_loss`.
    """

    epochs: Count = 10
    batch_size: Count = 32
    accumulate: Count = 1
    seed: Annotated[int, Field(strict=True, ge=0, lt=2**63)] = 0
    bn_momentum: Annotated[float, Field(gt=0, le=1)] | None = None
    reestimate_images: Annotated[int, Field(strict=True, ge=0)] = 0
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    max_grad_norm: Positive | None = None
    precision: Literal["float32", "bf16"] = "float32"
    compile: bool = False
    workers: Count | None = None
    validate_every: Count = 1
    save_every_s: Positive = 300.0
    log_every: Count = 10
    tensorboard: bool = False
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    ema: EmaConfig = EmaConfig()
    augmentation: AugmentationConfig = AugmentationConfig()
    mixing: MixingConfig = MixingConfig()
