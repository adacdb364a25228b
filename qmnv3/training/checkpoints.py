"""Everything a training needs to go on, in one safetensors file; nothing in it is ever executed."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.optim import Optimizer

from qmnv3.errors import TrainingError
from qmnv3.files import write_safetensors
from qmnv3.training.distributed import bytes_of_leader
from qmnv3.training.ema import Ema

LAST, BEST = "last.safetensors", "best.safetensors"


@dataclass
class Progress:
    """How far a training is: `step` updates made; the next batch is `batch` of `epoch`.

    `best` is the highest validation result so far, `start` that of what training began with; `skipped` are
    the images that could not be read. It was begun by so many `processes`; an epoch has `batches` batches, 0
    before the first. `first_loss` was that of the first update, `average_loss` that of the last `averaged`,
    at its lowest `lowest_loss`; `hopeless` counts the latest updates whose loss was beyond hope.
    """

    step: int = 0
    epoch: int = 0
    batch: int = 0
    best: float | None = None
    start: float | None = None
    skipped: list[str] = field(default_factory=list)
    processes: int = 1
    batches: int = 0
    first_loss: float | None = None
    average_loss: float | None = None
    averaged: int = 0
    lowest_loss: float | None = None
    hopeless: int = 0


@dataclass(frozen=True)
class Trained:
    """What is saved: the objects themselves, read by `save_state` and changed by `Saved.restore`.

    `recipe` is the resolved recipe: a run goes on only under the one it was begun with.
    """

    model: nn.Module
    optimizer: Optimizer
    ema: Ema | None
    progress: Progress
    recipe: dict[str, Any]


def save_state(path: Path, trained: Trained) -> None:
    """Write `path` atomically: a kill or a full disk leaves the file that was there before.

    TrainingError, and nothing is written, where a value is not finite.
    """
    tensors = {f"model.{name}": tensor for name, tensor in trained.model.state_dict().items()}
    for index, state in trained.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{key}": value for key, value in state.items() if _is_tensor(value)}
    if trained.ema is not None:
        tensors |= {f"ema.{name}": tensor for name, tensor in trained.ema.average.items()}
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            step = trained.progress.step
            raise TrainingError(f"step {step}: {name} is not finite; {begin_again(path)}")
    metadata = {"progress": json.dumps(asdict(trained.progress)), "recipe": json.dumps(trained.recipe)}
    write_safetensors(path, save({name: _plain(tensor) for name, tensor in tensors.items()}, metadata))


@dataclass(frozen=True)
class Saved:
    """What `save_state` wrote to `path`."""

    path: Path
    tensors: dict[str, Tensor]
    progress: Progress

    def restore(self, trained: Trained) -> None:
        """Make model, optimizer and average what they were. TrainingError when they are of another model."""
        try:
            trained.model.load_state_dict(_part(self.tensors, "model."))
        except RuntimeError as error:
            raise TrainingError(f"{self.path}: is of another model; choose another --out") from error
        _load_optimizer(trained.optimizer, _part(self.tensors, "optimizer."))
        if trained.ema is not None:
            trained.ema.load(_part(self.tensors, "ema."))


def read_state(path: Path, recipe: dict[str, Any]) -> Saved:
    """Read a checkpoint of a training by `recipe`. Of several processes the first reads the file for all.

    TrainingError when it is damaged or of another recipe (naming the first difference).
    """
    try:
        tensors, metadata = _read(path)
        progress, begun = Progress(**json.loads(metadata["progress"])), json.loads(metadata["recipe"])
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise TrainingError(f"{path}: not a checkpoint of a training ({error}); begin again") from error
    different = _difference(begun, json.loads(json.dumps(recipe)))
    if different:
        raise TrainingError(f"{path}: was begun with {different}; resume with that, or choose another --out")
    return Saved(path, tensors, progress)


def begin_again(path: Path) -> str:
    """What to do about a training that diverged; `path` is its last checkpoint."""
    return f"lower the rate and begin again; the last good checkpoint is {path}"


def load_weights(path: Path, model: nn.Module) -> None:
    """Give `model` what is kept in the end: the average where there is one, else the weights."""
    tensors, _ = _read(path)
    model.load_state_dict(_part(tensors, "model.") | _part(tensors, "ema."))


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata. The first process reads, since the others may be on machines without the file."""
    content = bytes_of_leader(path.read_bytes)
    tensors = load(content)
    header = content[8 : 8 + int.from_bytes(content[:8], "little")]
    return tensors, json.loads(header).get("__metadata__", {})


def _load_optimizer(optimizer: Optimizer, tensors: dict[str, Tensor]) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        index, _, key = name.partition(".")
        state.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _is_tensor(value: object) -> bool:
    return isinstance(value, Tensor)


def _plain(tensor: Tensor) -> Tensor:
    """A copy of its own on the CPU: tied tensors would be refused."""
    return tensor.detach().cpu().contiguous().clone()


def _difference(saved: Any, now: Any, path: str = "") -> str | None:
    """First value that differs, as "key: saved (now: ...)"."""
    if isinstance(saved, dict) and isinstance(now, dict):
        for key in {**saved, **now}:
            found = _difference(saved.get(key), now.get(key), f"{path}.{key}" if path else str(key))
            if found:
                return found
        return None
    return None if saved == now else f"{path}: {saved} (now {now})"
