"""Where a network's values stop being numbers."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn


@torch.no_grad()
def not_finite(model: nn.Module, images: Tensor) -> str:
    """First thing that holds NaN or infinity: a weight, a layer's output on `images`, or a gradient.

    Of gradients the one nearest to the loss, where it began. Several processes must all call it.
    """
    for name, parameter in model.named_parameters():
        if not _finite(parameter):
            return f"first weight that is not finite: {name}"
    layer = _first_output(model, images)
    if layer is not None:
        return f"first layer whose output is not finite: {layer}"
    for name, parameter in reversed(list(model.named_parameters())):
        if parameter.grad is not None and not _finite(parameter.grad):
            return f"first weight whose gradient is not finite: {name}"
    return "weights, outputs and gradients of this process are finite"


def _first_output(model: nn.Module, images: Tensor) -> str | None:
    found: list[str] = []

    def look(name: str, output: Any) -> None:
        if not found and not all(_finite(tensor) for tensor in _tensors(output)):
            found.append(name)

    hooks = [
        module.register_forward_hook(lambda module, inputs, output, name=name: look(name, output))
        for name, module in model.named_modules()
        if name
    ]
    try:
        model(images)
    finally:
        for hook in hooks:
            hook.remove()
    return found[0] if found else None


def _finite(tensor: Tensor) -> bool:
    return bool(torch.isfinite(tensor).all())


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple):
        for item in value:
            yield from _tensors(item)
