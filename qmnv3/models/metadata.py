"""What a checkpoint says, or its naming implies, about how its model runs and is fed."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from qmnv3.errors import WeightsError
from qmnv3.models.config import ModelOptions
from qmnv3.models.releases import release_of_file
from qmnv3.models.rows import ArchitectureName
from qmnv3.preprocessing import Preprocessing

_T = TypeVar("_T")

_IMAGENET = {"mean": "0.485,0.456,0.406", "std": "0.229,0.224,0.225"}
_TORCHVISION_V3 = {**_IMAGENET, "padding": "symmetric", "bn_eps": "0.001"}
_TORCHVISION_V2 = {**_IMAGENET, "padding": "symmetric", "bn_eps": "1e-05"}
# timm's own V2 and V3 weights; its tf_* ports differ (tf_same, 0.5/0.5, eps 1e-3) but not in their keys.
_TIMM = {**_IMAGENET, "padding": "symmetric", "bn_eps": "1e-05", "interpolation": "bicubic"}


def default_metadata(
    path: Path | None, architecture: ArchitectureName | None, *, timm: bool
) -> dict[str, str]:
    """Metadata implied by a file's key naming, architecture (None: a user's own network) and name."""
    if architecture is None or path is None:
        return dict(_IMAGENET)
    implied = _TIMM if timm else _TORCHVISION_V2 if architecture == "v2" else _TORCHVISION_V3
    release = release_of_file(path)
    return {**implied, "resize": str(release.resize)} if release else dict(implied)


def model_options(source: Path | str, metadata: Mapping[str, str]) -> ModelOptions:
    """The model options that `metadata` names; WeightsError for a value that cannot be read."""
    options: dict[str, Any] = {}
    for key in ("width", "bn_eps", "bn_momentum", "dropout"):
        if key in metadata:
            options[key] = _parsed(source, metadata, key, float)
    for key in ("padding", "nonlinearity", "last_stage", "squeeze_excite"):
        if key in metadata:
            options[key] = metadata[key]
    if "activations" in metadata:
        options["activations"] = _parsed(source, metadata, "activations", json.loads)
    chosen: ModelOptions = {}
    chosen.update(options)  # type: ignore[typeddict-item]
    return chosen


def preprocessing(source: Path | str, metadata: Mapping[str, str], resolution: int | None) -> Preprocessing:
    """Preprocessing that `metadata` names, at `resolution` pixels if given (the resize keeps its ratio)."""
    trained_at = _parsed(source, metadata, "resolution", int) if "resolution" in metadata else 224
    side = resolution or trained_at
    resize = _parsed(source, metadata, "resize", int) if "resize" in metadata else trained_at * 256 / 224
    fields: dict[str, Any] = {"resolution": side, "resize": max(side, round(resize * side / trained_at))}
    for key in ("mean", "std"):
        if key in metadata:
            fields[key] = _parsed(source, metadata, key, _three_floats)
    if "interpolation" in metadata:
        fields["interpolation"] = _parsed(source, metadata, "interpolation", _interpolation)
    try:
        return Preprocessing(**fields)
    except ValueError as error:
        raise WeightsError(f"{source}: metadata {error}") from error


def _parsed(source: Path | str, metadata: Mapping[str, str], key: str, parse: Callable[[str], _T]) -> _T:
    try:
        return parse(metadata[key])
    except ValueError as error:
        raise WeightsError(
            f"{source}: metadata {key}={metadata[key]!r} cannot be read; correct it"
        ) from error


def _three_floats(text: str) -> tuple[float, float, float]:
    red, green, blue = (float(part) for part in text.split(","))
    return red, green, blue


def _interpolation(text: str) -> str:
    if text not in ("bilinear", "bicubic"):
        raise ValueError(text)
    return text
