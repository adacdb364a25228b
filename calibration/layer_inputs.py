"""What a layer reads at sampled output positions, and how much each position counts."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from qmnv3.quant.geometry import layer_geometry

_MOST_VALUES = 2**26
_CHUNK_VALUES = 2**24
_POSITIONS_PER_IMAGE = 128

Batch = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class LayerInputs:
    """`values` [G, n, I] read at n positions, and the weight [O, n] of each position for each output.

    I counts the weights of one output. G is the number of channels of a depthwise convolution, whose outputs
    read different inputs, else 1.
    """

    values: torch.Tensor
    weights: torch.Tensor

    @property
    def shared(self) -> bool:
        """Whether all outputs see the same: one covariance serves them all."""
        return len(self.values) == 1 and torch.equal(self.weights, self.weights[:1].expand_as(self.weights))

    def covariances(self, outputs: slice) -> torch.Tensor:
        """Covariance of what each of `outputs` reads [outputs, I, I], float64.

        Positions are weighted as each output does; where all are `shared`, `slice(1)` says it all.
        """
        forms = []
        for output in range(*outputs.indices(len(self.weights))):
            values = self.values[0 if len(self.values) == 1 else output]
            share = self.weights[output] / self.weights[output].sum()
            centred = values - share @ values
            forms.append((centred * share[:, None]).mT @ centred)
        form = torch.stack(forms).double()
        return (form + form.mT) / 2.0


def sample_inputs(
    layer: nn.Conv2d | nn.Linear, batches: Iterable[Batch], count: int, seed: int
) -> LayerInputs:
    """Positions drawn evenly from `count` batches of (input, weights [N, O, ...])."""
    generator = torch.Generator().manual_seed(seed)
    values, shares = [], []
    most = _MOST_VALUES // (count * layer.weight[0].numel() * _groups(layer))
    for inputs, weights in batches:
        positions = weights[0, 0].numel()
        drawn = max(min(positions, _POSITIONS_PER_IMAGE, most // len(inputs)), 1)
        images = max(1, _CHUNK_VALUES // (layer.weight[0].numel() * inputs[0].numel()))
        for first in range(0, len(inputs), images):
            part = slice(first, first + images)
            flat = weights[part].movedim(1, 0).flatten(1)
            chosen = torch.randperm(flat.shape[1], generator=generator)[: drawn * len(weights[part])]
            values.append(_patches(layer, inputs[part])[:, chosen])
            shares.append(flat[:, chosen])
    return LayerInputs(torch.cat(values, 1), torch.cat(shares, 1))


def _groups(layer: nn.Conv2d | nn.Linear) -> int:
    return layer.groups if isinstance(layer, nn.Conv2d) else 1


def _patches(layer: nn.Conv2d | nn.Linear, x: torch.Tensor) -> torch.Tensor:
    """What each output position reads [G, n, I], in the order of the weights."""
    if isinstance(layer, nn.Linear):
        return x[None]
    if layer.kernel_size == (1, 1) and layer.groups == 1:
        vertical, horizontal = layer.stride
        return x[:, :, ::vertical, ::horizontal].movedim(1, 3).reshape(1, -1, x.shape[1])
    stride, sides, dilation = layer_geometry(layer, tuple(x.shape))
    padded = F.pad(x, (sides.left, sides.right, sides.top, sides.bottom))
    unfolded = F.unfold(padded, layer.kernel_size, dilation, 0, stride)
    grouped = unfolded.reshape(len(x), 1 if layer.groups == 1 else x.shape[1], -1, unfolded.shape[2])
    return grouped.permute(1, 0, 3, 2).reshape(grouped.shape[1], -1, grouped.shape[2])
