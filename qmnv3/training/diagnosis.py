"""Where a network's values stop being numbers."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn


@torch.no_grad()
def not_finite(model: nn.Module, images: Tensor) -> str:
    """First thing that holds NaN or infinity: a weight, else the first layer's output on `images`."""
    for name, parameter in model.named_parameters():
        if not bool(torch.isfinite(parameter).all()):
            return f"first weight that is not finite: {name}"
    found: list[str] = []

    def look(name: str, output: Any) -> None:
        if not found and not all(bool(torch.isfinite(tensor).all()) for tensor in _tensors(output)):
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
    return f"first layer whose output is not finite: {found[0]}" if found else "the logits are finite"


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple):
        for item in value:
            yield from _tensors(item)
