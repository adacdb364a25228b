"""The float network and its quantized copy, run side by side over all images."""

from collections.abc import Iterator
from types import TracebackType

import torch
from torch import fx

from calibration.bias_correction import correct_bias
from calibration.frontier import Batches, Frontier
from calibration.statistics import Statistics
from qmnv3.quant.fake_quant import QuantWeight, fake_quant
from qmnv3.quant.sites import Site, read_sites, source_fake_quant


class Paired:
    """Two frontiers that move together: `graph` quantized, and the float network it was made from.

    Float tensors are given as the quantized network would hold them without rounding: equalized where it is.
    Tensors of nodes in `kept` stay until `release`. Use as a context manager.
    """

    def __init__(self, graph: fx.GraphModule, statistics: Statistics) -> None:
        self.graph = graph
        self.sites = read_sites(graph)
        self.kept: set[str] = set()
        self._modules = dict(graph.named_modules())
        self._layers = {id(site.layer): site for site in self.sites if site.layer is not None}
        self._parents = {node.name: node for node in statistics.network.graph.nodes}
        self._exact = Frontier(statistics.network, statistics.images, keep=self._is_kept)
        self._quantized = Frontier(graph, statistics.images, keep=self._is_kept)

    def __enter__(self) -> "Paired":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._exact.__exit__(kind, error, trace)
        self._quantized.__exit__(kind, error, trace)

    def layer(self, node: fx.Node) -> tuple[QuantWeight, Site] | None:
        """The layer that `node` calls, if it does, and its site."""
        module = self.graph.get_submodule(str(node.target)) if node.op == "call_module" else None
        return (module, self._layers[id(module.layer)]) if isinstance(module, QuantWeight) else None

    def execute(self, node: fx.Node, *, correct_biases: bool = False) -> None:
        """Compute `node` in both networks; a layer's bias is corrected before, if wanted."""
        self._exact.execute(self._parents[node.name])
        called = self.layer(node)
        with fake_quant(self.graph):
            if correct_biases and called is not None:
                module, site = called
                targets = (self.exact(node, index) for index in range(self.batches))
                correct_bias(module, site, self.sites, targets, self._quantized.compute(node))
            self._quantized.execute(node)

    @property
    def batches(self) -> int:
        """How many batches the images came in."""
        return len(next(iter(self._quantized.values.values())))

    def quantized(self, node: fx.Node) -> Batches:
        """The quantized network's tensor of `node`, batch by batch."""
        return self._quantized.values[node]

    def exact(self, node: fx.Node, index: int) -> torch.Tensor:
        """The float tensor of a FakeQuantize (flattened or not) or layer node in batch `index`."""
        return self._equalized(node, self._exact.values[self._parents[node.name]][index].load())

    def targets(self, node: fx.Node) -> Iterator[torch.Tensor]:
        """As `exact`, batch by batch, of a node that is still to be executed."""
        for value in self._exact.compute(self._parents[node.name]):
            yield self._equalized(node, value)

    def pairs(self, node: fx.Node) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Quantized and float tensor of `node` in every batch."""
        for index, stored in enumerate(self.quantized(node)):
            yield stored.load(), self.exact(node, index)

    def release(self, node: fx.Node) -> None:
        """Drop a kept tensor."""
        self.kept.discard(node.name)
        self._exact.values.pop(self._parents[node.name], None)
        self._quantized.values.pop(node, None)

    def _equalized(self, node: fx.Node, value: torch.Tensor) -> torch.Tensor:
        called = self.layer(node)
        source = called[1].fake_quant if called else source_fake_quant(node, self._modules)
        if source.factors is None:
            return value
        # A flattened map repeats each channel.
        factors = source.factors.repeat_interleave(value.shape[1] // source.factors.numel())
        return value * factors.reshape(-1, *[1] * (value.dim() - 2))

    def _is_kept(self, node: fx.Node) -> bool:
        return node.name in self.kept
