"""Where a network's values stop being numbers, and when a loss is beyond hope."""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from qmnv3.training.checkpoints import Progress
from qmnv3.training.tally import Tally
from qmnv3.training.task import Diverged

_HOPELESS_TIMES, _HOPELESS_UPDATES = 10, 100


def note_loss(progress: Progress, tally: Tally) -> None:
    """Diverged after 100 updates in a row with a loss of ten times both the first one and that of guessing.

    Guessing, all classes alike, has the loss log(classes): no training that learns stays so far above it.
    """
    if progress.first_loss is None:
        progress.first_loss = tally.loss
    limit = _HOPELESS_TIMES * max(progress.first_loss, math.log(tally.classes))
    progress.hopeless = progress.hopeless + 1 if tally.loss > limit else 0
    if progress.hopeless >= _HOPELESS_UPDATES:
        raise Diverged(f"loss is {tally.loss:g}, and for {progress.hopeless} steps was above {limit:.3g}")


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
    norms = {
        name: float(p.grad.double().norm()) for name, p in model.named_parameters() if p.grad is not None
    }
    largest = max(norms, key=norms.__getitem__)
    return f"weights, outputs and gradients of this process are finite, the largest gradient is {largest}'s"


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
