"""What an ablation's recipe may say, and the networks ("cells") it asks for."""

import difflib
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)

from calibration.config import PtqConfig
from device_eval.ablation.paper import THINGS
from qmnv3.models.config import ModelOptions, model_config
from qmnv3.training.config import TrainConfig

Lowering = Literal["add-mul", "op", "equalized"]
Axis = Literal["accuracy", "latency", "size"]
Side = Annotated[int, Field(strict=True, ge=32, le=1024)]


_OPTIONS = TypeAdapter(ModelOptions)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Variant(_Strict):
    """A network: a built-in `model` with `options` (see `ModelConfig`; not the width, that is in `sizes`).

    Training starts from `weights`, a checkpoint of this very network, or from scratch. `claim` names a
    component that the first variant has and this one lacks, as in the paper's statements.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9@._+-]*$")]
    model: str
    options: dict[str, JsonValue] = {}
    weights: Path | None = None
    claim: str | None = None

    @field_validator("options")
    @classmethod
    def _known(cls, options: dict[str, JsonValue]) -> dict[str, JsonValue]:
        valid = sorted(ModelOptions.__annotations__.keys() - {"width", "num_classes"})
        for name in options:
            if name not in valid:
                near = difflib.get_close_matches(name, valid, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"valid are {', '.join(valid)}"
                raise ValueError(f"no model option {name!r}; {hint}")
        try:
            _OPTIONS.validate_python(options)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise ValueError(f"{where}: {first['msg']}") from None
        return options

    @field_validator("claim")
    @classmethod
    def _said(cls, claim: str | None) -> str | None:
        if claim is not None and claim not in THINGS:
            raise ValueError(f"the paper's statements name no such thing; they name {', '.join(THINGS)}")
        return claim


class Sizes(_Strict):
    """Every one of `widths` at every one of `resolutions` (pixels): one curve."""

    widths: Annotated[tuple[Annotated[float, Field(gt=0, le=8)], ...], Field(min_length=1)] = (1.0,)
    resolutions: Annotated[tuple[Side, ...], Field(min_length=1)] = (224,)


class AblationConfig(_Strict):
    """A whole ablation: every variant in all sizes; the first variant is what others are compared with.

    `lowerings` are the forms of h-swish to export and time. Accuracy is of networks trained with `training`
    on images of `training_resolution` (None: the network's own), quantized as `calibration` says.
    """

    variants: Annotated[tuple[Variant, ...], Field(min_length=1)]
    sizes: Annotated[tuple[Sizes, ...], Field(min_length=1)] = (Sizes(),)
    lowerings: Annotated[tuple[Lowering, ...], Field(min_length=1)] = ("add-mul", "op", "equalized")
    training_resolution: Side | None = 64
    training: TrainConfig = TrainConfig()
    calibration: PtqConfig = PtqConfig()

    @model_validator(mode="after")
    def _names_differ(self) -> "AblationConfig":
        names = [variant.name for variant in self.variants]
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"variants: two are called {twice!r}; rename one")
        return self


@dataclass(frozen=True)
class Cell:
    """One network of an ablation, on one curve of the plot or several."""

    variant: str
    model: str
    options: Mapping[str, Any]
    width: float
    resolution: int
    curves: tuple[str, ...]
    claim: str | None = None
    weights: str | None = None

    @property
    def name(self) -> str:
        """What its folder is called."""
        return f"{self.variant}-{self.width:g}-{self.resolution}"

    @property
    def model_options(self) -> ModelOptions:
        """Keyword arguments of `load_model`."""
        return cast(ModelOptions, {**self.options, "width": self.width})

    @property
    def network(self) -> dict[str, Any]:
        """What is built, in plain JSON types, whatever it is called and compared with."""
        return {
            "model": self.model,
            "options": dict(self.options),
            "width": self.width,
            "resolution": self.resolution,
        }


def cells(config: AblationConfig) -> tuple[Cell, ...]:
    """The recipe's networks, each once; ModelError for a model or an option that cannot be built."""
    found: dict[str, Cell] = {}
    for variant, sizes in product(config.variants, config.sizes):
        curve = variant.name if len(config.sizes) == 1 else f"{variant.name}, {_along(sizes)}"
        for width, resolution in product(sizes.widths, sizes.resolutions):
            cell = Cell(
                variant.name,
                variant.model,
                dict(variant.options),
                width,
                resolution,
                (curve,),
                variant.claim,
                str(variant.weights.resolve()) if variant.weights else None,
            )
            model_config(cell.model, cell.model_options)
            known = found[cell.name].curves if cell.name in found else ()
            found[cell.name] = replace(cell, curves=tuple(dict.fromkeys((*known, curve))))
    return tuple(found.values())


def _along(sizes: Sizes) -> str:
    return "widths" if len(sizes.widths) > 1 else "resolutions"


def fingerprint(settings: Any) -> str:
    """SHA-256 of settings in plain JSON types."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
