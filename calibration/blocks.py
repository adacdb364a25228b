"""Blocks of a network: stretches of its graph with one tensor going in and one coming out.

They are found in the graph, not by name, and come out as MobileNet's bottlenecks: a block ends where a single
tensor is live that no activation follows (the linear bottleneck, or the sum behind it). Networks without such
tensors are cut wherever one tensor is live and enough layers have gone by.
"""

from dataclasses import dataclass

from torch import fx

from qmnv3.quant.sites import Site, is_fake_quant, output_site, read_sites

# A bottleneck with squeeze-and-excite has five layers, and the stem joins the first.
_MOST_LAYERS = 8
_ACTIVATIONS = ("hard_swish", "hard_sigmoid", "logistic")


@dataclass(frozen=True)
class Block:
    """`nodes` compute the tensor of `end`, the last of them, from that of `start`, which is not among them.

    Both are FakeQuantize nodes. `site` is what `end` makes, `layers` counts those inside; `last` blocks make
    the network's output.
    """

    start: fx.Node
    nodes: tuple[fx.Node, ...]
    site: Site
    layers: int
    last: bool

    @property
    def end(self) -> fx.Node:
        """The node of the block's output."""
        return self.nodes[-1]


def find_blocks(prepared: fx.GraphModule) -> tuple[Block, ...]:
    """The blocks of a prepared network in execution order; together they hold all nodes behind its input."""
    modules = dict(prepared.named_modules())
    sites = {site.name: site for site in read_sites(prepared)}
    output = output_site(prepared)
    nodes = list(prepared.graph.nodes)
    cuts = [node for node in _single(nodes) if is_fake_quant(node, modules)]
    start, blocks, layers = cuts[0], [], 0
    inside: list[fx.Node] = []
    for node in nodes[nodes.index(start) + 1 :]:
        if node.op == "output":
            break
        inside.append(node)
        if not is_fake_quant(node, modules):
            continue
        site = sites[modules[str(node.target)].site]
        layers += site.layer is not None
        last = site.name == output
        if last or (node in cuts and (_linear(site, tuple(sites.values())) or layers >= _MOST_LAYERS)):
            blocks.append(Block(start, tuple(inside), site, layers, last))
            start, inside, layers = node, [], 0
    return tuple(blocks)


def _single(nodes: list[fx.Node]) -> list[fx.Node]:
    """The nodes after which nothing but their own tensor is still to be read."""
    position = {node: index for index, node in enumerate(nodes)}
    read_until = [max((position[user] for user in node.users), default=-1) for node in nodes]
    single, furthest = [], -1
    for index, node in enumerate(nodes):
        if furthest <= index < read_until[index]:
            single.append(node)
        furthest = max(furthest, read_until[index])
    return single


def _linear(site: Site, sites: tuple[Site, ...]) -> bool:
    """Whether no activation shapes the tensor, in its own operation or in a reader."""
    activated = any(reader.kind in _ACTIVATIONS for reader in sites if site.name in reader.inputs)
    return site.kind in ("layer", "add") and site.activation == "none" and not activated
