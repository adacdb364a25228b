"""What a PTQ recipe may say. Every default of calibration lives here."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

ObserverKind = Literal["search", "minmax", "moving_average", "percentile", "mse", "kl"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ActivationConfig(_Strict):
    """Ranges of activation tensors from level 1 on; level 0 always takes "minmax".

    "search" takes the range whose errors move the network's prediction least. The others look at one
    tensor alone: `percentile` is the share of values (in %) the "percentile" observer keeps, `momentum` the
    weight of the past in "moving_average" (which follows batches, so it cannot follow equalization).
    """

    observer: ObserverKind = "search"
    percentile: Annotated[float, Field(gt=50, le=100)] = 99.99
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9


class WeightConfig(_Strict):
    """Grid of weights: symmetric, one scale per output channel or one per tensor.

    8 bits hold [-127, 127], 4 bits [-7, 7] with the scale of least squared error. Both are stored as int8.
    """

    granularity: Literal["per_channel", "per_tensor"] = "per_channel"
    bits: Literal[4, 8] = 8


class EqualizationConfig(_Strict):
    """Which groups of tensors are equalized, from level 2 on, or with `always` at every level: training that
    follows learns ranges and biases itself.

    A group is taken when the whole network's predicted KL divergence falls by more than the share
    `min_gain`. Gates that make it exact through h-swish are depthwise convolutions and cost time: they are
    taken in order of gain per microsecond while the predicted slowdown of the network stays below
    `max_slowdown`; the other h-swishes are equalized as far as they allow without.
    """

    always: bool = False
    min_gain: Annotated[float, Field(ge=0, lt=1)] = 0.001
    max_slowdown: Annotated[float, Field(ge=0)] = 0.105


class BiasCorrectionConfig(_Strict):
    """How biases take back the mean error of quantization (level 3 and up).

    "empirical" compares the quantized network with float on the images. "analytic" expects the inputs that
    the BatchNorm before a layer promises, and corrects for weight rounding alone; layers without such a
    promise are corrected empirically.
    """

    method: Literal["empirical", "analytic"] = "empirical"


class ReconstructionConfig(_Strict):
    """How blocks learn to make the float network's output (level 5).

    Each block takes `steps` steps of Adam, one batch of images each. Rates are per step and fall to 0 along a
    cosine: `weight_rate` in steps of the weight's grid, `bias_rate` in steps of the layer's output grid,
    `range_rate` as a share of the range. A weight ends at most `most_steps` from where it started. `drop` is
    the share of values left unrounded while learning (QDrop).
    """

    steps: Annotated[int, Field(strict=True, ge=1)] = 100
    weight_rate: Annotated[float, Field(ge=0)] = 0.02
    bias_rate: Annotated[float, Field(ge=0)] = 0.05
    range_rate: Annotated[float, Field(ge=0)] = 0.0005
    most_steps: Annotated[float, Field(gt=0)] = 2.0
    drop: Annotated[float, Field(ge=0, lt=1)] = 0.5


class Int16Config(_Strict):
    """Activation tensors in 16 bits, the last resort: accurate, but XNNPACK runs none of their operations.

    `sites` names them. Instead `count` takes at most so many of those whose rounding, measured alone, adds
    more than the share `min_gain` to the network's KL divergence, in order of gain per microsecond, while the
    predicted slowdown stays below `max_slowdown` (1.0: twice as slow).
    """

    sites: tuple[str, ...] = ()
    count: Annotated[int, Field(strict=True, ge=0)] = 0
    min_gain: Annotated[float, Field(ge=0, lt=1)] = 0.02
    max_slowdown: Annotated[float, Field(ge=0)] = 1.0

    @model_validator(mode="after")
    def _one_way(self) -> "Int16Config":
        if self.sites and self.count:
            raise ValueError("give sites or count, not both")
        return self


class PtqConfig(_Strict):
    """A whole PTQ recipe. `images` are drawn from the calibration folder with `seed`.

    `level` says how far to climb: 0 min-max, 1 range search, 2 and equalization, 3 and bias correction,
    4 and AdaRound, 5 and block reconstruction. `held_out` more images judge the rungs of a ladder.
    """

    level: Annotated[int, Field(strict=True, ge=0, le=5)] = 3
    images: Annotated[int, Field(strict=True, ge=1)] = 200
    held_out: Annotated[int, Field(strict=True, ge=1)] = 200
    seed: Annotated[int, Field(strict=True, ge=0, lt=2**63)] = 0
    batch_size: Annotated[int, Field(strict=True, ge=1)] = 20
    activations: ActivationConfig = ActivationConfig()
    weights: WeightConfig = WeightConfig()
    equalization: EqualizationConfig = EqualizationConfig()
    bias_correction: BiasCorrectionConfig = BiasCorrectionConfig()
    int16: Int16Config = Int16Config()
    reconstruction: ReconstructionConfig = ReconstructionConfig()
