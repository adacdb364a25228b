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
# Of as many updates is the average loss, which says something from so many on.
_AVERAGED, _FEWEST = 100, 10


def note_loss(progress: Progress, tally: Tally) -> None:
    """Diverged after 100 updates in a row with a loss that no training comes back from.

    Guessing, all classes alike, has the loss log(classes). A training whose average loss was once below half
    of that has learned (or begun with what had), and is hopeless more than halfway back from its lowest
    average to guessing: a collapse to one answer for all images, of cross-entropy log(classes), or a
    distillation that lost its teacher. One that has not yet learned is hopeless from ten times both the first
    loss and that of guessing on. Warm-up, noise, mixing and smoothing do not get there: they raise the lowest
    average, too, and a single better update counts anew.
    """
    loss, guessing = tally.loss, math.log(tally.classes)
    if progress.first_loss is None or progress.average_loss is None:
        progress.first_loss = progress.average_loss = loss
    progress.averaged = min(progress.averaged + 1, _AVERAGED)
    progress.average_loss += (loss - progress.average_loss) / progress.averaged
    if progress.averaged >= _FEWEST:
        lowest = progress.lowest_loss
        progress.lowest_loss = progress.average_loss if lowest is None else min(lowest, progress.average_loss)
    limit = _HOPELESS_TIMES * max(progress.first_loss, guessing)
    if progress.lowest_loss is not None and progress.lowest_loss < guessing / 2:
        limit = (progress.lowest_loss + guessing) / 2
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
