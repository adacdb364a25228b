"""Several processes that look at one set of images, a share each."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from safetensors.torch import load, save

from calibration.observers.draws import Turns

if TYPE_CHECKING:
    from calibration.statistics import ImageSource

State = dict[str, torch.Tensor]


class Mergeable(Protocol):
    """An observer of one process's batches that can become that of all."""

    def state(self) -> State:
        """All that was seen."""
        ...

    def merge(self, states: Sequence[State]) -> None:
        """Become the observer that saw what those with these states saw, in order of rank."""
        ...


@dataclass(frozen=True)
class Share:
    """One process's share of the images: `images` gives the batches of its `turns`.

    `gather` gives what every process gave it, in order of rank. All processes must gather equally often.
    """

    turns: Turns
    images: "ImageSource"
    gather: Callable[[bytes], list[bytes]]

    def merge(self, observer: Mergeable) -> None:
        """Let `observer` have seen what those of all processes saw."""
        observer.merge([load(state) for state in self.gather(save(observer.state()))])

    def total(self, values: torch.Tensor) -> torch.Tensor:
        """Sum of all processes' `values`, the same bits in each of them."""
        parts = [load(part)["values"] for part in self.gather(save({"values": values.contiguous()}))]
        return torch.stack(parts).sum(0)
