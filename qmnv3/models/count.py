"""Parameters and multiply-adds of a float network."""

import copy
from dataclasses import dataclass, replace
from math import prod

import torch
from torch import Tensor, nn

from qmnv3.errors import ModelError


@dataclass(frozen=True)
class LayerCost:
    """One convolution or linear layer, with the BatchNorm that follows it.

    `output` is the shape without batch, CHW or C. `params` counts weights, bias and BatchNorm's scale and
    shift (not its running statistics). `madds` counts the layer's own multiply-adds for one image.
    """

    name: str
    kind: str
    output: tuple[int, ...]
    params: int
    madds: int


@dataclass(frozen=True)
class ModelCost:
    """Costs of a whole network at one input resolution.

    `madds` counts convolutions and linear layers, squeeze-and-excite's included, one for each weight used at
    each output pixel. BatchNorm (folded on device), bias, activations, pooling, squeeze-and-excite's
    multiplication and residual additions are not in it.
    """

    layers: tuple[LayerCost, ...]
    params: int
    madds: int


def count(model: nn.Module, resolution: int) -> ModelCost:
    """Costs of `model` on one [3, resolution, resolution] image, found by running a copy on it.

    ModelError when the model cannot take such an image.
    """
    layers: list[LayerCost] = []
    # One real run takes 0.05 s; propagating shapes on the meta device first imports for 2 s.
    shadow = copy.deepcopy(model).eval()
    for name, module in shadow.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear | nn.BatchNorm2d):
            module.register_forward_hook(
                lambda module, _, output, name=name: _record(name, layers, module, output)
            )
    try:
        with torch.no_grad():
            shadow(torch.zeros(1, 3, resolution, resolution))
    except RuntimeError as error:
        raise ModelError(
            f"{type(model).__name__}: cannot run a 3x{resolution}x{resolution} image "
            f"({str(error).splitlines()[0]})"
        ) from error
    params = sum(parameter.numel() for parameter in model.parameters())
    return ModelCost(tuple(layers), params, sum(layer.madds for layer in layers))


def _record(name: str, layers: list[LayerCost], module: nn.Module, output: Tensor) -> None:
    """Append the cost of a layer that just ran; BatchNorm's is added to the layer before it."""
    params = sum(parameter.numel() for parameter in module.parameters())
    if isinstance(module, nn.BatchNorm2d):
        if layers:
            layers[-1] = replace(layers[-1], params=layers[-1].params + params)
        return
    weight = module.weight
    assert isinstance(weight, Tensor)
    pixels = prod(output.shape[2:])
    layers.append(LayerCost(name, _kind(module), tuple(output.shape[1:]), params, weight.numel() * pixels))


def _kind(module: nn.Module) -> str:
    if not isinstance(module, nn.Conv2d):
        return "linear"
    kernel = "x".join(str(k) for k in module.kernel_size)
    depthwise = "dw " if module.groups == module.in_channels > 1 else ""
    stride = f" /{module.stride[0]}" if module.stride[0] > 1 else ""
    return f"{depthwise}conv {kernel}{stride}"
