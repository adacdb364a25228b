"""What a long algorithm has finished, part by part, so that a killed run continues where it was."""

import hashlib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import fx

from calibration.config import PtqConfig
from calibration.statistics import ImageSource
from qmnv3.files import remove_leftovers, write_safetensors
from qmnv3.quant.fake_quant import FakeQuantize, QuantWeight
from qmnv3.quant.state import grid_state, layer_state

# Key in a graph's meta: the folder (Path) in which its algorithms may keep what they finished.
FOLDER = "checkpoints"


# What decides a run, in the order in which a mismatch is told; the network follows from the others.
_REASONS = ("threads", "images", "recipe", "torch", "network")


class Checkpoints:
    """Finished parts of one run, a file each, in `folder`; files of another run are never read.

    `run` says which run: see `fingerprint`. Without a folder nothing is kept.
    """

    def __init__(self, folder: Path | None, run: Mapping[str, str]) -> None:
        self._folder = folder
        self._run = dict(run)

    def describe(self, parts: int) -> str | None:
        """At which of `parts` blocks this run continues, or why it starts anew; None without any."""
        if self._folder is None:
            return None
        saved = [_metadata(self._file(part)) for part in range(parts)]
        others = [run for run in saved if run and run != self._run]
        done = next((part for part, run in enumerate(saved) if run != self._run), parts)
        if done:
            where = f"continues at block {done + 1}" if done < parts else "all blocks are done, none is left"
            return f"{self._folder}: {where} of {parts}"
        if not others:
            return None
        differ = [name for name in _REASONS if others[0].get(name) != self._run[name]]
        reasons = [name for name in differ if name != "network"] or differ
        told = [_versus(name, others[0].get(name), self._run[name]) for name in reasons]
        return f"{self._folder}: its {len(others)} blocks are another run's ({', '.join(told)}); starts anew"

    def load(self, part: int) -> dict[str, torch.Tensor] | None:
        """What was saved of a part; None when it was not finished."""
        # Another's file is done again, and replaced.
        if self._folder is None or _metadata(self._file(part)) != self._run:
            return None
        with safe_open(self._file(part), "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118

    def save(self, part: int, tensors: Mapping[str, torch.Tensor]) -> None:
        """Keep a finished part; a kill at any moment leaves the whole file or none."""
        if self._folder is None:
            return
        contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
        write_safetensors(self._file(part), save(contiguous, self._run))

    def _file(self, part: int) -> Path:
        assert self._folder is not None
        return self._folder / f"{part:03d}.safetensors"


def discard(folder: Path) -> None:
    """Remove the finished parts in `folder`, and the folder if nothing else is in it."""
    for file in folder.glob("[0-9][0-9][0-9].safetensors"):
        if set(_REASONS) == set(_metadata(file)):
            remove_leftovers(file)
            file.unlink()
    with suppress(OSError):  # it holds something else, or is not there
        folder.rmdir()


def fingerprint(graph: fx.GraphModule, images: ImageSource, config: PtqConfig) -> dict[str, str]:
    """All that decides what an algorithm learns; sums over another number of threads round differently."""
    network = hashlib.sha256(str(graph.graph).encode() + b"\0")
    for name, module in graph.named_modules():
        state = {}
        if isinstance(module, QuantWeight):
            state = layer_state(name, module)
        elif isinstance(module, FakeQuantize):
            state = grid_state(name, module)
            if module.factors is not None:
                state[f"{name}.factors"] = module.factors
        for key in sorted(state):
            network.update(key.encode() + b"\0" + state[key].contiguous().numpy().tobytes())
    pixels = hashlib.sha256()
    for batch in images():
        pixels.update(batch.tobytes())
    return {
        "threads": str(torch.get_num_threads()),
        "images": pixels.hexdigest(),
        "recipe": hashlib.sha256(config.model_dump_json().encode()).hexdigest(),
        "torch": torch.__version__,
        "network": network.hexdigest(),
    }


def _metadata(file: Path) -> dict[str, str]:
    """Which run saved `file`; empty when it is missing or somebody else's."""
    try:
        with safe_open(file, "pt") as opened:
            return dict(opened.metadata() or {})
    except (SafetensorError, OSError):
        return {}


def _versus(name: str, saved: str | None, now: str) -> str:
    """A difference for people: digests are not shown."""
    return f"{name}: {saved}, now {now}" if name in ("threads", "torch") else f"other {name}"
