"""What a PTQ recipe may say. Every default of calibration lives here."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

ObserverKind = Literal["minmax", "moving_average", "percentile", "mse", "kl"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ActivationConfig(_Strict):
    """Ranges of activation tensors.

    `percentile` is the share of values (in %) kept by the "percentile" observer, `momentum` the weight of
    the past in "moving_average".
    """

    observer: ObserverKind = "mse"
    percentile: Annotated[float, Field(gt=50, le=100)] = 99.99
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9


class WeightConfig(_Strict):
    """Grid of weights: symmetric int8, one scale per output channel or one per tensor."""

    granularity: Literal["per_channel", "per_tensor"] = "per_channel"


class HardSwishConfig(_Strict):
    """Ranges of the tensors around h-swish: by the error at its output, or like any other activation.

    Few channels of an h-swish tensor hold its largest values, and clipping them costs less than a coarse
    step costs all others: `error_exponent` 1 (mean absolute error) keeps more accuracy than 2. Either way
    the input's range never reaches below -3, where h-swish is 0.
    """

    ranges: Literal["output_error", "activations"] = "output_error"
    error_exponent: Annotated[float, Field(gt=0, le=4)] = 1.0


class PtqConfig(_Strict):
    """A whole PTQ recipe. `images` are drawn from the calibration folder with `seed`."""

    images: Annotated[int, Field(strict=True, ge=1)] = 200
    seed: Annotated[int, Field(strict=True, ge=0, lt=2**63)] = 0
    batch_size: Annotated[int, Field(strict=True, ge=1)] = 20
    activations: ActivationConfig = ActivationConfig()
    weights: WeightConfig = WeightConfig()
    hard_swish: HardSwishConfig = HardSwishConfig()
