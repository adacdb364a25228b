"""One network run on one batch, and from any switch on once more with that rounding the other way.

Up to the switch both runs are the same, so only what follows is computed twice: the tensors that are still to
be read are shared, not copied.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import Any, Literal

import torch
from torch import fx

from calibration.frontier import run_node
from qmnv3.quant.fake_quant import QuantState, QuantWeight, fake_quant
from qmnv3.quant.sites import read_sites

SwitchKind = Literal["activation", "weight"]
# Work of writing one element in multiply-adds: fits the time shares of V3-Small, V3-Large and V2 on x86.
ELEMENT_WORK = 20


@dataclass(frozen=True)
class Switch:
    """Rounding that goes on and off as one: an activation tensor's, or a layer's weight and bias.

    That of h-swish includes its gate's. `start` is the index of the first node that it changes.
    """

    site: str
    kind: SwitchKind
    start: int
    modules: tuple[QuantState, ...]

    @contextmanager
    def flipped(self) -> Iterator[None]:
        """Have it the other way for the length of a with block."""
        self._flip()
        try:
            yield
        finally:
            self._flip()

    def _flip(self) -> None:
        for module in self.modules:
            module.enabled = not module.enabled


def read_switches(prepared: fx.GraphModule) -> tuple[Switch, ...]:
    """Every switch of a prepared network in execution order."""
    modules = dict(prepared.named_modules())
    index = {
        modules[str(node.target)]: i
        for i, node in enumerate(prepared.graph.nodes)
        if node.op == "call_module"
    }
    weights = {id(m.layer): m for m in index if isinstance(m, QuantWeight)}
    switches = []
    for site in read_sites(prepared):
        if site.layer is not None:
            layer = weights[id(site.layer)]
            switches.append(Switch(site.name, "weight", index[layer], (layer.weight_fake_quant,)))
        rounding = (site.fake_quant,) if site.hard_swish is None else (site.hard_swish, site.fake_quant)
        switches.append(Switch(site.name, "activation", index[rounding[0]], rounding))
    return tuple(switches)


class Sweep:
    """Runs of `prepared`, sharing what they can; `executed` adds up the work of all nodes that really ran.

    Weights are rounded once: they and the grids must stay as they are. Work counts one for each multiply-add
    and `ELEMENT_WORK` for each element written, per image.
    """

    def __init__(self, prepared: fx.GraphModule) -> None:
        self.prepared = prepared
        self.executed = 0
        self._nodes: tuple[fx.Node, ...] = tuple(prepared.graph.nodes)
        self._last_reader = {source: node for node in self._nodes for source in node.all_input_nodes}
        modules = dict(prepared.named_modules())
        self._work = [_work(node, modules.get(str(node.target))) for node in self._nodes]
        self._layers = {
            str(node.target): module
            for node in self._nodes
            if isinstance(module := modules.get(str(node.target)), QuantWeight)
        }
        self._rounded: dict[str, dict[str, torch.Tensor]] = {}

    @property
    def work(self) -> int:
        """Work of the whole network on one image."""
        return sum(self._work)

    def work_from(self, switch: Switch) -> int:
        """Work on one image from `switch` on."""
        return sum(self._work[switch.start :])

    @torch.inference_mode()
    def run(
        self, images: torch.Tensor, rounding: bool, switches: Iterable[Switch]
    ) -> tuple[torch.Tensor, dict[Switch, torch.Tensor]]:
        """Logits with all rounding on or off, and those with each of `switches` alone the other way."""
        forks = defaultdict(list)
        for switch in switches:
            forks[switch.start].append(switch)
        flipped: dict[Switch, torch.Tensor] = {}
        values: dict[fx.Node, Any] = {}
        with fake_quant(self.prepared, rounding):
            for index in range(len(self._nodes)):
                for switch in forks[index]:
                    with switch.flipped():
                        flipped[switch] = self._finish(dict(values), index, images)
                self._execute(index, values, images)
        return values[self._nodes[-1]], flipped

    @torch.inference_mode()
    def run_other(self, network: fx.GraphModule, images: torch.Tensor) -> torch.Tensor:
        """Logits of the float network that `prepared` was made from; the same work."""
        self.executed += self.work * len(images)
        logits: torch.Tensor = network(images)
        return logits

    def _finish(self, values: dict[fx.Node, Any], start: int, images: torch.Tensor) -> torch.Tensor:
        for index in range(start, len(self._nodes)):
            self._execute(index, values, images)
        logits: torch.Tensor = values[self._nodes[-1]]
        return logits

    def _execute(self, index: int, values: dict[fx.Node, Any], images: torch.Tensor) -> None:
        """Compute one node and drop what nothing reads any more."""
        node = self._nodes[index]
        layer = self._layers.get(str(node.target))
        if node.op == "placeholder":
            values[node] = images
        elif layer is not None and layer.weight_fake_quant.enabled:
            if node.target not in self._rounded:
                self._rounded[str(node.target)] = layer.rounded()
            values[node] = layer.call(values[node.all_input_nodes[0]], self._rounded[str(node.target)])
        else:
            values[node] = run_node(self.prepared, node, values.__getitem__)
        self.executed += self._work[index] * len(images)
        for source in node.all_input_nodes:
            if self._last_reader[source] is node:
                del values[source]


def _work(node: fx.Node, module: torch.nn.Module | None) -> int:
    if node.op in ("placeholder", "output"):
        return 0
    shape: tuple[int, ...] = node.meta["shape"]
    multiply_adds = 0
    if isinstance(module, QuantWeight):
        multiply_adds = module.layer.weight.numel() * prod(shape[2:])
    return multiply_adds + ELEMENT_WORK * prod(shape)
