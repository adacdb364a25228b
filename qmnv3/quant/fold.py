"""BatchNorm folding: the convolution or linear layer takes over the normalisation that follows it."""

from dataclasses import dataclass

import torch
from torch import fx, nn

Foldable = nn.Conv2d | nn.Linear
Norm = nn.BatchNorm2d | nn.BatchNorm1d


@dataclass(frozen=True, eq=False)
class Normal:
    """Mean and standard deviation [C] of a tensor's channels, in the float model's units."""

    mean: torch.Tensor
    std: torch.Tensor


@torch.no_grad()
def promised(norm: Norm) -> Normal | None:
    """What `norm` gives on data like those its running statistics come from; None where it saw no data.

    The mean is its bias, the standard deviation its |weight| less what eps takes away.
    """
    if norm.running_mean is None or norm.running_var is None:
        return None
    if not norm.running_mean.any() and bool((norm.running_var == 1).all()):  # as constructed
        return None
    std = (norm.running_var / (norm.running_var + norm.eps)).sqrt()
    if norm.weight is not None:
        std = std * norm.weight.abs()
    return Normal(torch.zeros_like(std) if norm.bias is None else norm.bias.detach().clone(), std)


@torch.no_grad()
def fold_batch_norm(layer: Foldable, norm: Norm) -> None:
    """Make `layer` compute `norm(layer(x))` in eval mode, in place; a missing bias is created.

    Uses `norm`'s own eps and running statistics. weight: [O, ...], scaled per output channel.
    Raises ValueError when `norm` keeps no running statistics.
    """
    if norm.running_mean is None or norm.running_var is None:
        raise ValueError("BatchNorm without running statistics cannot be folded")
    # float64: folding is done once, and its rounding would otherwise be the largest float error left.
    factor = (norm.running_var.double() + norm.eps).rsqrt()
    shift = -norm.running_mean.double() * factor
    if norm.weight is not None:
        factor, shift = factor * norm.weight.double(), shift * norm.weight.double()
    if norm.bias is not None:
        shift = shift + norm.bias.double()
    shape = (-1, *[1] * (layer.weight.dim() - 1))
    bias = shift if layer.bias is None else shift + layer.bias.double() * factor
    layer.weight = nn.Parameter((layer.weight.double() * factor.reshape(shape)).float())
    layer.bias = nn.Parameter(bias.float())


def fold_all(graph_module: fx.GraphModule) -> dict[str, Norm]:
    """Fold every BatchNorm that directly follows a convolution or linear layer, in place.

    Returns the folded ones by their layers' module paths. A BatchNorm elsewhere stays in the graph (and
    `prepare` then names it as unsupported).
    """
    modules = dict(graph_module.named_modules())
    norms: dict[str, Norm] = {}
    for node in list(graph_module.graph.nodes):
        norm = modules.get(str(node.target)) if node.op == "call_module" else None
        if not isinstance(norm, Norm):
            continue
        source = node.args[0]
        layer = modules.get(str(source.target)) if source.op == "call_module" else None
        if isinstance(layer, Foldable) and len(source.users) == 1:
            fold_batch_norm(layer, norm)
            norms[str(source.target)] = norm
            node.replace_all_uses_with(source)
            graph_module.graph.erase_node(node)
    graph_module.graph.lint()
    graph_module.recompile()
    return norms
