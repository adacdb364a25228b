"""A network run operation by operation over a whole image set, holding only the tensors still to be read.

Sequential algorithms change one layer, then look at the next with the change in effect. Instead of running
the network from the start for every layer, each operation runs once on all images. What does not fit the
memory budget lies in files of a temporary folder until it is read.
"""

import operator
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch import fx

from calibration.spill import SpillFolder
from calibration.statistics import ImageSource, to_nchw

DEFAULT_BUDGET_BYTES = 2**29
Batches = list["Stored"]


class Stored:
    """One batch of one tensor, in memory or in a file."""

    def __init__(self, tensor: torch.Tensor, file: Path | None = None) -> None:
        self.bytes = 0 if file else tensor.nbytes
        self._tensor = None if file else tensor
        self._file = file
        self._order = (0, 2, 3, 1) if tensor.dim() == 4 else tuple(range(tensor.dim()))
        if file:
            # In memory order (channels last), so that writing and reading copy straight through.
            np.save(file, tensor.detach().permute(self._order).numpy())

    def load(self) -> torch.Tensor:
        """The tensor, NCHW in channels_last format."""
        if self._tensor is not None:
            return self._tensor
        assert self._file is not None
        array = np.load(self._file, mmap_mode="c", allow_pickle=False)
        return torch.from_numpy(array).permute(tuple(np.argsort(self._order)))

    def __del__(self) -> None:
        if self._file is not None:
            self._file.unlink(missing_ok=True)


class Frontier:
    """The live tensors of `prepared` while it runs node by node over all images.

    `execute(node)` computes one node of the graph (in graph order) for every batch, with the fake-quant
    switches as they are at that moment. A tensor is dropped once its last reader has run, unless `keep`
    names its node. Use as a context manager: leaving it removes the spilled files.
    """

    def __init__(
        self,
        prepared: fx.GraphModule,
        images: ImageSource,
        *,
        keep: Callable[[fx.Node], bool] = lambda node: False,
        budget_bytes: int = DEFAULT_BUDGET_BYTES,
    ) -> None:
        self.prepared = prepared
        self.values: dict[fx.Node, Batches] = {}
        self._images = images
        self._keep = keep
        self._budget = budget_bytes
        self._folder = SpillFolder()
        self._files = 0
        self._last_reader = {source: node for node in prepared.graph.nodes for source in node.all_input_nodes}

    def __enter__(self) -> "Frontier":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.values.clear()
        self._folder.cleanup()

    @torch.inference_mode()
    def execute(self, node: fx.Node) -> None:
        """Compute `node` for every batch and drop what nothing reads any more."""
        batches: Batches = []
        self.values[node] = batches  # counted against the budget while it grows
        if node.op == "placeholder":
            batches.extend(self._store(to_nchw(batch)) for batch in self._images())
            return
        for index in range(len(self.values[node.all_input_nodes[0]])):
            batches.append(self._compute(node, index))
        for source in node.all_input_nodes:
            if self._last_reader[source] is node and not self._keep(source):
                del self.values[source]

    def compute(self, node: fx.Node) -> Iterator[torch.Tensor]:
        """`node`'s tensor of each batch, from its inputs' stored ones; nothing is kept."""
        for index in range(len(self.values[node.all_input_nodes[0]])):
            yield run_node(self.prepared, node, lambda source, i=index: self.values[source][i].load())  # type: ignore[misc]

    def _compute(self, node: fx.Node, index: int) -> Stored:
        loaded = {source: self.values[source][index].load() for source in node.all_input_nodes}
        result = run_node(self.prepared, node, loaded.__getitem__)
        passed = next((source for source, value in loaded.items() if value is result), None)
        return self.values[passed][index] if passed else self._store(result)

    def _store(self, tensor: torch.Tensor) -> Stored:
        held = sum(stored.bytes for batches in self.values.values() for stored in batches)
        if held + tensor.nbytes <= self._budget:
            return Stored(tensor)
        self._files += 1
        return Stored(tensor, self._folder.path / f"{self._files}.npy")


def run_node(prepared: fx.GraphModule, node: fx.Node, load: Callable[[fx.Node], Any]) -> Any:
    """What one traced node computes from the values `load` gives for its inputs."""
    args = fx.map_arg(node.args, load)
    kwargs = fx.map_arg(node.kwargs, load)
    match node.op:
        case "call_module":
            return prepared.get_submodule(str(node.target))(*args, **kwargs)
        case "call_function":
            assert callable(node.target)
            return node.target(*args, **kwargs)
        case "call_method":
            return getattr(args[0], str(node.target))(*args[1:], **kwargs)
        case "get_attr":
            return operator.attrgetter(str(node.target))(prepared)
    return args[0]
