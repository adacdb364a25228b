"""What can be chosen about a built-in model, and the defaults of each architecture."""

import difflib
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from typing_extensions import TypedDict  # pydantic cannot read Python 3.11's

from qmnv3.errors import ModelError
from qmnv3.models.rows import (
    ARCHITECTURES,
    Activation,
    ArchitectureName,
    V2Spec,
    V3Spec,
    with_original_last_stage,
)

PaddingMode = Literal["symmetric", "tf_same"]
LastStage = Literal["efficient", "efficient_bn", "original"]
SqueezeExciteSize = Literal["expansion", "input", "none"]

_ALIASES: dict[str, ArchitectureName] = {
    "mobilenet_v3_large": "large",
    "mobilenet_v3_small": "small",
    "mobilenet_v3_large_minimalistic": "large_minimalistic",
    "mobilenet_v3_small_minimalistic": "small_minimalistic",
    "mobilenet_v2": "v2",
}
_NONLINEARITY = re.compile(r"paper|relu|(?:hswish|swish)(?:@[1-9][0-9]*)?")


class ModelOptions(TypedDict, total=False):
    """Keyword arguments of `build_model` and `load_model`; see `ModelConfig` for their meaning."""

    width: float
    num_classes: int
    dropout: float
    padding: PaddingMode
    nonlinearity: str
    activations: Mapping[str, Activation]
    stem_width: int
    head_width: int
    last_stage: LastStage
    squeeze_excite: SqueezeExciteSize
    bn_eps: float
    bn_momentum: float


@dataclass(frozen=True)
class ModelConfig:
    """Everything that defines a built-in model but its weights.

    - `width` scales the channels of every layer but the head, which stays at `head_width` (V2: it grows
      above 1.0). Channels are rounded to 8, see `scaled`.
    - `head_width`: Table 2 says 1280 for Small and Tables 3 and 9 count parameters so; it is the default.
      The releases of Google, torchvision and timm have 1024 (a checkpoint's own width wins on loading).
    - `stem_width` is the number of filters of the first convolution at width 1.0.
    - `last_stage` (V3): "efficient" as in Tables 1 and 2, without BatchNorm in the head (NBN); "efficient_bn"
      with it; "original" as before Figure 5.
    - `squeeze_excite` (V3): squeezed to 1/4 of the "expansion" (5.2.1), to 1/4 of the block's "input" as in
      MnasNet, or "none" anywhere.
    - `padding`: "tf_same" (bottom and right more at stride 2; needs no extra op on device) or "symmetric".
    - `nonlinearity`: "paper"; "relu", "hswish" or "swish" everywhere; "hswish@N" or "swish@N": from the first
      layer with at least N output channels (at width 1.0) on, ReLU before it (Table 5).
    - `activations`: (site, activation) pairs that win over it. A site is "features.N" or "classifier".
    - `bn_momentum` is torch's: the weight of the new batch, 0.01 for the paper's decay 0.99.
    """

    name: ArchitectureName
    width: float
    num_classes: int
    dropout: float
    padding: PaddingMode
    nonlinearity: str
    activations: tuple[tuple[str, Activation], ...]
    stem_width: int
    head_width: int
    last_stage: LastStage
    squeeze_excite: SqueezeExciteSize
    bn_eps: float
    bn_momentum: float

    def __post_init__(self) -> None:
        checks = {
            "width": 0 < self.width <= 8,
            "num_classes": self.num_classes >= 1,
            "dropout": 0 <= self.dropout < 1,
            "padding": self.padding in get_args(PaddingMode),
            "nonlinearity": _NONLINEARITY.fullmatch(self.nonlinearity) is not None,
            "stem_width": self.stem_width >= 1,
            "head_width": self.head_width >= 1,
            "last_stage": self.last_stage in get_args(LastStage),
            "squeeze_excite": self.squeeze_excite in get_args(SqueezeExciteSize),
            "bn_eps": 0 < self.bn_eps < 1,
            "bn_momentum": 0 < self.bn_momentum <= 1,
        }
        for field, ok in checks.items():
            if not ok:
                raise ModelError(f"model {self.name}: {field}={getattr(self, field)!r} {_ALLOWED[field]}")
        if isinstance(ARCHITECTURES[self.name], V2Spec):
            self._check_v2()
        for site, activation in self.activations:
            if activation not in get_args(Activation):
                raise ModelError(
                    f"model {self.name}: activation {activation!r} of {site} is not one of "
                    + ", ".join(get_args(Activation))
                )

    def _check_v2(self) -> None:
        for field, only in (("last_stage", "efficient"), ("squeeze_excite", "expansion")):
            value = getattr(self, field)
            if value != only:
                raise ModelError(f"model v2: {field}={value!r} is for MobileNetV3; leave it out")

    @property
    def spec(self) -> V3Spec | V2Spec:
        """The architecture's rows, with the last stage that was chosen."""
        return architecture_spec(self.name, self.last_stage)

    def activation_at(self, site: str, paper: Activation, channels: int) -> Activation:
        """Activation of a site whose table row says `paper` and has `channels` outputs at width 1.0."""
        explicit = dict(self.activations).get(site)
        if explicit is not None:
            return explicit
        if self.nonlinearity == "paper":
            return paper
        kind, _, threshold = self.nonlinearity.partition("@")
        chosen: Activation = "hswish" if kind == "hswish" else "swish" if kind == "swish" else "relu"
        return chosen if channels >= int(threshold or 0) else "relu"

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {**asdict(self), "activations": dict(self.activations)}


_ALLOWED = {
    "width": "must be above 0 and at most 8",
    "num_classes": "must be at least 1",
    "dropout": "must be in [0, 1)",
    "padding": "is not one of " + ", ".join(get_args(PaddingMode)),
    "nonlinearity": "is not one of paper, relu, hswish, swish, hswish@N, swish@N",
    "stem_width": "must be at least 1",
    "head_width": "must be at least 1",
    "last_stage": "is not one of " + ", ".join(get_args(LastStage)),
    "squeeze_excite": "is not one of " + ", ".join(get_args(SqueezeExciteSize)),
    "bn_eps": "must be in (0, 1)",
    "bn_momentum": "must be in (0, 1]",
}


def architecture_name(name: str) -> ArchitectureName:
    """The architecture called `name` (or "mobilenet_v3_large" and the like); ModelError if there is none."""
    for known in ARCHITECTURES:
        if name == known:
            return known
    if name in _ALIASES:
        return _ALIASES[name]
    near = difflib.get_close_matches(name.lower(), [*ARCHITECTURES, *_ALIASES], n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ModelError(
        f"unknown model {name!r}: use {', '.join(ARCHITECTURES)} or package.module:function{hint}"
    )


def architecture_spec(name: ArchitectureName, last_stage: LastStage = "efficient") -> V3Spec | V2Spec:
    """The rows of an architecture, with its own last stage or V3's original one."""
    spec = ARCHITECTURES[name]
    return with_original_last_stage(spec) if last_stage == "original" and isinstance(spec, V3Spec) else spec


def model_config(name: str, options: ModelOptions | None = None) -> ModelConfig:
    """Configuration of the model `name`: the architecture's defaults, then `options` over them."""
    known = architecture_name(name)
    spec = ARCHITECTURES[known]
    is_v2 = isinstance(spec, V2Spec)
    chosen: dict[str, Any] = {
        "width": 1.0,
        "num_classes": 1000,
        "dropout": 0.2,
        "padding": "tf_same",
        "nonlinearity": "paper",
        "activations": {},
        "stem_width": spec.stem,
        "head_width": spec.head,
        "last_stage": "efficient",
        "squeeze_excite": "expansion",
        # V3: paper 6.1.1 and the releases. V2: torchvision's checkpoints.
        "bn_eps": 1e-5 if is_v2 else 1e-3,
        "bn_momentum": 0.1 if is_v2 else 0.01,
        **(options or {}),
    }
    chosen["activations"] = tuple(sorted(dict(chosen["activations"]).items()))
    return ModelConfig(name=known, **chosen)


def scaled(channels: float, divisor: int = 8) -> int:
    """`channels` rounded to a multiple of `divisor`, never more than 10 % below it (MobileNetV2 release)."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded
