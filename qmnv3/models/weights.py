"""From a model's name and a checkpoint to a network ready to run, with its preprocessing."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Unpack

import torch
from torch import Tensor, nn

from qmnv3.errors import MisfitError, ModelError, WeightsError
from qmnv3.models.checkpoint import Checkpoint, load_checkpoint
from qmnv3.models.config import (
    LastStage,
    ModelConfig,
    ModelOptions,
    architecture_name,
    architecture_spec,
    model_config,
    scaled,
)
from qmnv3.models.metadata import default_metadata, model_options, preprocessing
from qmnv3.models.network import build, build_model
from qmnv3.models.rows import ARCHITECTURES, ArchitectureName, V2Spec
from qmnv3.models.timm_names import is_timm, to_torchvision
from qmnv3.models.user_model import build_user_model, is_user_model
from qmnv3.preprocessing import Preprocessing

# Table 9's widths, and those V2 was released with; tried in this order when a file does not say its width.
_WIDTHS = (1.0, 0.75, 0.5, 0.35, 1.25, 1.3, 1.4)
# Paper 6.1.1: "the same image preprocessing as Inception", pixels in [-1, 1].
_UNTRAINED = {"mean": "0.5,0.5,0.5", "std": "0.5,0.5,0.5"}
_HEADS: dict[LastStage, str] = {"efficient": "classifier.0.weight", "efficient_bn": "avgpool.1.0.weight"}


@dataclass(frozen=True)
class LoadedModel:
    """A float network in eval mode and what must be done to an image before it."""

    model: nn.Module
    preprocessing: Preprocessing


def load_model(
    name: str,
    weights: Path | None = None,
    *,
    drop_background: bool = False,
    new_classifier: int | None = None,
    resolution: int | None = None,
    metadata: Mapping[str, str] | None = None,
    seed: int = 0,
    **options: Unpack[ModelOptions],
) -> LoadedModel:
    """Build `name` to fit `weights`, and load them; without weights, random ones from `seed`.

    `name` is a built-in model or `package.module:function`. Padding, BatchNorm eps, width and normalisation
    come from the file's metadata, classes and head width from its shapes; what metadata does not say, the
    naming convention implies (`default_metadata`). `metadata` corrects single entries of it, `options` win
    over everything.

    `drop_background` removes class 0 of a 1001-class checkpoint. `new_classifier` (a number of classes)
    ignores the checkpoint's classifier, which may be missing, and starts a random one. `resolution` is the
    side of the input in pixels, default the checkpoint's or 224.

    WeightsError when the file cannot be read or holds NaN or infinity (first tensor), MisfitError when it is
    of another architecture (first key that differs, both shapes); ModelError when the model cannot be built.
    """
    if new_classifier is not None:
        options["num_classes"] = new_classifier
    if is_user_model(name):
        if options:
            raise ModelError(f"model {name}: {sorted(options)[0]} can be chosen for built-in models only")
        return _load_user_model(name, weights, drop_background, resolution, metadata or {}, seed)
    if weights is None:
        prepared = preprocessing(name, {**_UNTRAINED, **(metadata or {})}, resolution)
        return LoadedModel(build_model(name, seed=seed, **options).eval(), prepared)
    architecture = architecture_name(name)
    checkpoint = load_checkpoint(weights)
    timm = is_timm(checkpoint.state)
    state = to_torchvision(checkpoint.state) if timm else checkpoint.state
    if new_classifier is not None:
        state = {key: tensor for key, tensor in state.items() if not key.startswith("classifier.")}
    elif "features.0.0.weight" in state and not any(key.startswith("classifier.") for key in state):
        raise MisfitError(f"{weights}: is a backbone without classifier; train a classifier on it first")
    elif drop_background:
        state = _without_background(weights, state)
    known = {
        **default_metadata(weights, architecture, timm=timm),
        **checkpoint.metadata,
        **(metadata or {}),
    }
    config = fitted_config(architecture, state, {**model_options(weights, known), **options})
    model = build(config, seed=seed).eval()
    fault = mismatch(architecture, model, state, classifier=new_classifier is None)
    if fault:
        raise MisfitError(f"{weights}: {fault}{_hint(checkpoint, state)}")
    _load(model, state, weights)
    return LoadedModel(model, preprocessing(weights, known, resolution))


def mismatch(
    name: str, model: nn.Module, state: Mapping[str, Tensor], *, classifier: bool = True
) -> str | None:
    """First key where `state` and `model` (called `name`) differ, with both shapes; None when it fits.

    Without `classifier`, keys under "classifier." may be missing. BatchNorm's batch counters always may.
    """
    needed = model.state_dict()
    for key, tensor in needed.items():
        wanted = f"model {name} needs {list(tensor.shape)}"
        if key in state and state[key].shape != tensor.shape:
            return f"{key} is {list(state[key].shape)}, {wanted}"
        is_classifier = key.startswith("classifier.")
        optional = key.endswith("num_batches_tracked") or (is_classifier and not classifier)
        if key not in state and not optional:
            return f"{key} is missing, {wanted}"
    extra = next((key for key in state if key not in needed), None)
    return f"{extra} is {list(state[extra].shape)}, model {name} has no such layer" if extra else None


def fitted_config(
    architecture: ArchitectureName, state: Mapping[str, Tensor], options: ModelOptions
) -> ModelConfig:
    """The architecture with the width, stem, head and classes that the shapes in `state` show.

    `options` win. What the shapes do not show keeps its default: `mismatch` then tells what differs.
    """
    last_stage = options.get("last_stage", "efficient")
    spec = architecture_spec(architecture, last_stage)
    stages = sum(row.n for row in spec.rows) if isinstance(spec, V2Spec) else len(spec.rows)
    narrowest = spec.rows[-1].c if isinstance(spec, V2Spec) else spec.rows[-1].out
    last = f"features.{stages + 1}.0.weight"
    inputs = _size(state, last, axis=1)
    width = options.get("width") or next((w for w in _WIDTHS if scaled(narrowest * w) == inputs), 1.0)
    block = "conv" if isinstance(spec, V2Spec) else "block"
    # The first block's depthwise convolution has one filter for each of the stem's.
    stem = _size(state, f"features.1.{block}.0.0.weight")
    shown: ModelOptions = {"width": width}
    shown["stem_width"] = next((s for s in (spec.stem, 16, 32) if scaled(s * width) == stem), spec.stem)
    head = _size(state, last if isinstance(spec, V2Spec) else _HEADS.get(last_stage, last))
    # V2 multiplies its head above width 1.0: the shape is not the head width then.
    if head and not (isinstance(spec, V2Spec) and width > 1):
        shown["head_width"] = head
    classes = _size(state, f"{_final_layer(state)}.weight")
    if classes:
        shown["num_classes"] = classes
    return model_config(architecture, {**shown, **options})


def _size(state: Mapping[str, Tensor], key: str, axis: int = 0) -> int | None:
    tensor = state.get(key)
    return tensor.shape[axis] if tensor is not None and tensor.ndim > axis else None


def _final_layer(state: Mapping[str, Tensor]) -> str:
    """Name of the layer that gives the logits, "classifier.3" or, where the head is elsewhere, ".1"."""
    names = [key.removesuffix(".weight") for key in state if key.startswith("classifier.")]
    return max((name for name in names if not name.endswith(".bias")), default="classifier.3")


def _without_background(source: Path, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`state` with the first of 1001 classes, "background", cut from the classifier."""
    final = _final_layer(state)
    classes = _size(state, f"{final}.weight")
    if classes is not None and classes != 1001:
        raise WeightsError(f"{source}: has {classes} classes, not 1001: there is no background class to drop")
    cut = {key: state[key][1:] for key in (f"{final}.weight", f"{final}.bias") if key in state}
    return {**state, **cut}


def _load(model: nn.Module, state: Mapping[str, Tensor], source: Path) -> None:
    for key, tensor in state.items():
        if not bool(torch.isfinite(tensor).all()):
            raise WeightsError(
                f"{source}: {key} holds NaN or infinity; use a checkpoint from before it diverged"
            )
    model.load_state_dict(state, strict=False)


def _hint(checkpoint: Checkpoint, state: Mapping[str, Tensor]) -> str:
    """What the checkpoint is, as far as its shapes or its metadata tell."""
    for name in ARCHITECTURES:
        config = fitted_config(name, state, {})
        if mismatch(name, build(config), state, classifier=False) is None:
            return f"; the file fits model {name} at width {config.width}"
    said = checkpoint.metadata.get("model")
    return f"; its metadata says model={said}" if said else "; is it a checkpoint of another model?"


def _load_user_model(
    name: str,
    weights: Path | None,
    drop_background: bool,
    resolution: int | None,
    metadata: Mapping[str, str],
    seed: int,
) -> LoadedModel:
    model = build_user_model(name, seed=seed).eval()
    known = {**default_metadata(weights, None, timm=False), **metadata}
    if drop_background:
        raise WeightsError(f"model {name}: dropping the background class is for built-in models only")
    if weights is not None:
        checkpoint = load_checkpoint(weights)
        known = {**known, **checkpoint.metadata, **metadata}
        fault = mismatch(name, model, checkpoint.state)
        if fault:
            raise WeightsError(f"{weights}: {fault}; is it a checkpoint of another model?")
        _load(model, checkpoint.state, weights)
    return LoadedModel(model, preprocessing(weights or name, known, resolution))
