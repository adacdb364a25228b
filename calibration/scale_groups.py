"""Which tensors' channels can be scaled without changing what the network computes, and the scaling itself.

A channel may be made a times larger where a layer makes it and divided by a where a layer reads it: through
ReLU, average pooling, residual sums (all summands alike), the gating of squeeze-and-excite, and h-swish,
whose gate then divides by a itself (`QuantHardswish.equalize`); without such a gate it is exact only where
h-swish is linear (x >= 3). ReLU6, the network's output and what a sigmoid reads (swish) stay as they are.
Sources: Nagel et al. 2019 (Data-Free Quantization), section 4.1, for ReLU; the rest follows from the algebra.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import fx

from qmnv3.quant.sites import Site, output_site, read_sites


@dataclass(frozen=True)
class ScaleGroup:
    """Tensors that share one factor per channel, the layers that make them and the layers that read them."""

    tensors: tuple[Site, ...]
    producers: tuple[Site, ...]
    consumers: tuple[Site, ...]

    @property
    def name(self) -> str:
        """The first tensor's."""
        return self.tensors[0].name

    @property
    def channels(self) -> int:
        """How many factors there are."""
        return self.tensors[0].output_shape[1]

    @property
    def hard_swishes(self) -> tuple[Site, ...]:
        """The h-swishes inside, whose gates must divide by the factors."""
        return tuple(site for site in self.tensors if site.hard_swish is not None)

    @property
    def hard_swish_inputs(self) -> tuple[Site, ...]:
        """What these read."""
        names = {name for site in self.hard_swishes for name in site.inputs}
        return tuple(site for site in self.tensors if site.name in names)

    @property
    def mixing_consumers(self) -> tuple[Site, ...]:
        """Consumers whose weights of one output channel see several factors; a depthwise one sees one."""
        return tuple(s for s in self.consumers if not (s.depthwise and s.weight_axis is not None))


def scale_groups(prepared: fx.GraphModule) -> tuple[ScaleGroup, ...]:
    """All groups of a prepared network that can be scaled, in execution order."""
    sites = read_sites(prepared)
    by_name = {site.name: site for site in sites}
    root = {site.name: site.name for site in sites}

    def find(name: str) -> str:
        while root[name] != name:
            name = root[name]
        return name

    rigid = {output_site(prepared)} | {site.name for site in sites if _rigid(site)}
    for site in sites:
        for name in _scaled_with(site, by_name):
            root[find(site.name)] = find(name)
        reads_as_is = site.kind in ("hard_sigmoid", "logistic")
        if reads_as_is or (site.kind == "mul" and len(_scaled_with(site, by_name)) != 1):
            rigid |= {site.name, *site.inputs}
    rigid_roots = {find(name) for name in rigid}
    members: dict[str, list[Site]] = {}
    for site in sites:
        if find(site.name) not in rigid_roots:
            members.setdefault(find(site.name), []).append(site)
    return tuple(_group(tensors, sites) for tensors in members.values())


def _group(tensors: Sequence[Site], sites: Sequence[Site]) -> ScaleGroup:
    names = {site.name for site in tensors}
    return ScaleGroup(
        tuple(tensors),
        tuple(site for site in tensors if site.kind == "layer"),
        tuple(site for site in sites if site.kind == "layer" and site.inputs[0] in names),
    )


def _rigid(site: Site) -> bool:
    return site.fake_quant.fixed or site.activation == "relu6"


def _scaled_with(site: Site, by_name: dict[str, Site]) -> tuple[str, ...]:
    """Inputs whose factors the output takes over."""
    if site.kind in ("hard_swish", "mean", "add"):
        return site.inputs
    if site.kind == "mul":  # the gate of squeeze-and-excite has a fixed grid, its other input passes through
        return tuple(name for name in site.inputs if not by_name[name].fake_quant.fixed)
    return ()


@torch.no_grad()
def scale(group: ScaleGroup, factors: torch.Tensor, inputs: torch.Tensor | None = None) -> None:
    """Multiply every tensor of `group` by `factors` [C] > 0, in place; the network computes what it did.

    With `inputs` [C] h-swishes get no gate: what they read is multiplied by `inputs` instead, and they make
    h-swish(inputs * x) in place of factors * h-swish(x). Raises ValueError for factors that are not finite
    and positive.
    """
    read = factors if inputs is None else inputs
    for values in (factors, read):
        if values.shape != (group.channels,) or not (torch.isfinite(values).all() and (values > 0).all()):
            raise ValueError(f"{group.name}: needs {group.channels} factors > 0, got {values}")
    of = {site.name: read if site in group.hard_swish_inputs else factors for site in group.tensors}
    for site in group.producers:
        assert site.layer is not None
        exact, weight = of[site.name].double(), site.layer.weight.double()
        site.layer.weight.copy_(weight * exact.reshape(-1, *[1] * (weight.dim() - 1)))
        if site.layer.bias is not None:
            site.layer.bias.copy_(site.layer.bias.double() * exact)
    for site in group.consumers:
        assert site.layer is not None
        weight = site.layer.weight.double()
        site.layer.weight.copy_(weight / per_input(site, of[site.inputs[0]].double()))
    for site in group.tensors:
        site.fake_quant.equalize(of[site.name].float())
    for site in group.hard_swishes if inputs is None else ():
        assert site.hard_swish is not None
        site.hard_swish.equalize(factors.float())


def per_input(site: Site, factors: torch.Tensor) -> torch.Tensor:
    """`factors` [C] of a layer's input, shaped to broadcast against its weight."""
    assert site.layer is not None
    dims = site.layer.weight.dim()
    if site.depthwise:
        return factors.reshape(-1, *[1] * (dims - 1))
    positions = site.layer.weight.shape[1] // factors.numel()  # a flattened H x W map repeats each channel
    return factors.repeat_interleave(positions).reshape(1, -1, *[1] * (dims - 2))
