"""Reading and writing checkpoint files. Nothing in a file is ever executed."""

import json
import pickle
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from qmnv3.errors import WeightsError
from qmnv3.files import write_safetensors
from qmnv3.models.network import MobileNet
from qmnv3.preprocessing import Preprocessing


@dataclass(frozen=True)
class Checkpoint:
    """Tensors by their key in the file, and the text metadata a safetensors file can carry."""

    path: Path
    state: dict[str, Tensor]
    metadata: dict[str, str]


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a .safetensors file, or a torch file (.pth, .pt, .bin, ...) with `weights_only`.

    A torch file may be a state dict or hold one under "state_dict" or "model"; a "module." prefix is
    dropped. WeightsError for a file that is missing, damaged, without tensors, or would run code.
    """
    if not path.is_file():
        raise WeightsError(f"{path}: no such checkpoint file")
    state, metadata = _read_safetensors(path) if path.suffix == ".safetensors" else (_read_torch(path), {})
    if not state:
        raise WeightsError(f"{path}: holds no tensors")
    if all(key.startswith("module.") for key in state):
        state = {key.removeprefix("module."): tensor for key, tensor in state.items()}
    return Checkpoint(path, state, metadata)


def save_checkpoint(path: Path, model: MobileNet, preprocessing: Preprocessing) -> None:
    """Write `model` as safetensors with the metadata that lets `load_model` rebuild it, atomically."""
    config = model.config
    metadata = {
        "model": config.name,
        "width": str(config.width),
        "padding": config.padding,
        "nonlinearity": config.nonlinearity,
        "activations": json.dumps(dict(config.activations)),
        "last_stage": config.last_stage,
        "squeeze_excite": config.squeeze_excite,
        "bn_eps": str(config.bn_eps),
        "bn_momentum": str(config.bn_momentum),
        "dropout": str(config.dropout),
        "resolution": str(preprocessing.resolution),
        "resize": str(preprocessing.resize),
        "mean": ",".join(str(x) for x in preprocessing.mean),
        "std": ",".join(str(x) for x in preprocessing.std),
        "interpolation": preprocessing.interpolation,
    }
    state = {key: tensor.detach().cpu().contiguous() for key, tensor in model.state_dict().items()}
    write_safetensors(path, save(state, metadata))


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except SafetensorError as error:
        raise WeightsError(f"{path}: not a readable safetensors file ({error}); fetch it again") from error


def _read_torch(path: Path) -> dict[str, Tensor]:
    try:
        with warnings.catch_warnings():
            # torch warns of newer pickle protocols; the error that follows says enough.
            warnings.simplefilter("ignore", UserWarning)
            loaded: Any = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL ([\w.]+)", str(error))
        if "nsupported" not in str(error) or not (found or _may_be_pickle(path)):
            raise WeightsError(f"{path}: not a readable torch checkpoint; fetch it again") from error
        raise WeightsError(
            f"{path}: refused, unpickling it would run {found[1] if found else 'more than tensors need'}; "
            "save the state dict alone, best as safetensors"
        ) from error
    except OSError:
        raise
    # torch raises nearly anything on a damaged archive (RuntimeError, struct.error, IndexError, ...).
    except Exception as error:
        raise WeightsError(f"{path}: not a readable torch checkpoint; fetch it again") from error
    return _state_dict(path, loaded)


def _may_be_pickle(path: Path) -> bool:
    """Whether `path` starts as a binary pickle or a zip archive of torch does."""
    with path.open("rb") as file:
        return file.read(2).startswith((b"\x80", b"PK"))


def _state_dict(path: Path, loaded: Any) -> dict[str, Tensor]:
    if isinstance(loaded, Mapping):
        for key in ("state_dict", "model"):
            if isinstance(loaded.get(key), Mapping):
                loaded = loaded[key]
                break
        if all(isinstance(k, str) and isinstance(v, Tensor) for k, v in loaded.items()):
            return dict(loaded)
    raise WeightsError(
        f"{path}: holds no state dict (name to tensor), or one under 'state_dict' or 'model'; save that"
    )
