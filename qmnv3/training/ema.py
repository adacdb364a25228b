"""An exponential moving average of a model's weights."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn


class Ema:
    """Averages parameters and BatchNorm's running statistics, as TensorFlow's training of MobileNet does.

    Early averages are short, so that short runs work too: after n updates the decay is at most
    (1 + n) / (10 + n), as tf.train.ExponentialMovingAverage with num_updates.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._model = model
        self._decay = decay
        self.average = {name: tensor.detach().clone() for name, tensor in _averaged(model).items()}

    @torch.no_grad()
    def update(self, updates: int) -> None:
        """Take in the model as it is after `updates` optimizer steps."""
        decay = min(self._decay, (1 + updates) / (10 + updates))
        current = _averaged(self._model)
        averages = [self.average[name] for name in current]
        torch._foreach_lerp_(averages, [tensor.detach() for tensor in current.values()], 1.0 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The model with averaged weights; afterwards it is what it was, to the bit."""
        current = _averaged(self._model)
        kept = {name: tensor.detach().clone() for name, tensor in current.items()}
        _copy(self.average, current)
        try:
            yield
        finally:
            _copy(kept, _averaged(self._model))

    def load(self, average: Mapping[str, torch.Tensor]) -> None:
        """Go on with an average saved before."""
        _copy(average, self.average)


def _averaged(model: nn.Module) -> dict[str, torch.Tensor]:
    return {
        name: tensor
        for name, tensor in model.state_dict(keep_vars=True).items()
        if tensor.is_floating_point()
    }


@torch.no_grad()
def _copy(source: Mapping[str, torch.Tensor], target: Mapping[str, torch.Tensor]) -> None:
    for name, tensor in target.items():
        tensor.copy_(source[name])
