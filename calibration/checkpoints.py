"""What a long algorithm has finished, part by part, so that a killed run continues where it was."""

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import fx

from calibration.config import PtqConfig
from calibration.statistics import ImageSource
from qmnv3.files import write_safetensors
from qmnv3.quant.fake_quant import FakeQuantize, QuantWeight
from qmnv3.quant.state import grid_state, layer_state

# Key in a graph's meta: the folder (Path) in which its algorithms may keep what they finished.
FOLDER = "checkpoints"


class Checkpoints:
    """Finished parts of one run, a file each, in `folder`; files of another run are never read.

    `key` says which run: see `fingerprint`. Without a folder nothing is kept.
    """

    def __init__(self, folder: Path | None, key: str) -> None:
        self._folder = folder
        self._key = key

    def load(self, part: int) -> dict[str, torch.Tensor] | None:
        """What was saved of a part; None when it was not finished."""
        if self._folder is None or not self._file(part).exists():
            return None
        try:
            with safe_open(self._file(part), "pt") as file:
                if (file.metadata() or {}).get("run") != self._key:
                    return None
                return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except SafetensorError:
            return None  # somebody else's file: done again, and replaced

    def save(self, part: int, tensors: Mapping[str, torch.Tensor]) -> None:
        """Keep a finished part; a kill at any moment leaves the whole file or none."""
        if self._folder is None:
            return
        contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
        write_safetensors(self._file(part), save(contiguous, {"run": self._key}))

    def _file(self, part: int) -> Path:
        assert self._folder is not None
        return self._folder / f"{part:03d}.safetensors"


def fingerprint(graph: fx.GraphModule, images: ImageSource, config: PtqConfig) -> str:
    """SHA-256 of all that decides what an algorithm learns: graph, parameters, grids, images and recipe."""
    digest = hashlib.sha256()
    texts: Iterable[str] = (str(graph.graph), config.model_dump_json(), torch.__version__)
    for text in texts:
        digest.update(text.encode() + b"\0")
    for name, module in graph.named_modules():
        state = {}
        if isinstance(module, QuantWeight):
            state = layer_state(name, module)
        elif isinstance(module, FakeQuantize):
            state = grid_state(name, module)
            if module.factors is not None:
                state[f"{name}.factors"] = module.factors
        for key in sorted(state):
            digest.update(key.encode() + b"\0" + state[key].contiguous().numpy().tobytes())
    for batch in images():
        digest.update(batch.tobytes())
    return digest.hexdigest()
