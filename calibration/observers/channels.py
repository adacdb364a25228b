"""What one tensor's channels look like: their ends, and a uniform sample of positions."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from calibration.observers.draws import ALL, Draws, Turns

# A sample of ROW_VALUES elements describes a tensor; fewer rows than MIN_ROWS would not describe a channel.
ROW_VALUES, MIN_ROWS, MAX_ROWS = 2**18, 512, 2048


@dataclass(frozen=True)
class Channels:
    """Statistics of one tensor with C channels, all in real units.

    `low` and `high` [C] are each channel's smallest and largest value, `rows` [n, C] the values of all
    channels at n positions (of all images) drawn at random.
    """

    low: torch.Tensor
    high: torch.Tensor
    rows: torch.Tensor

    def scaled(self, factors: torch.Tensor) -> "Channels":
        """The statistics of the tensor whose channel c is `factors[c]` > 0 times this one's."""
        return Channels(self.low * factors, self.high * factors, self.rows * factors)

    def above(self, floors: torch.Tensor) -> "Channels":
        """The statistics where values of channel c below `floors[c]` are as good as that."""
        low, high, rows = (torch.maximum(values, floors) for values in (self.low, self.high, self.rows))
        return Channels(low, high, rows)


class ChannelObserver:
    """Streams one tensor into `Channels` in constant memory.

    Every position gets a random key, and those with the smallest keys are kept: a uniform sample, whatever
    the number of images and of processes that see a part of them in `turns`. At most `per_image` positions of
    one image enter.
    """

    def __init__(self, seed: int, per_image: int, turns: Turns = ALL) -> None:
        self._draws = Draws(seed, turns)
        self._per_image = per_image
        self._seen = 0
        self._low, self._high = torch.empty(0), torch.empty(0)
        self._rows, self._keys = torch.empty(0), torch.empty(0)
        self._batches = torch.empty(0, dtype=torch.int32)  # in which batch of this process each row was

    def update(self, values: torch.Tensor) -> None:
        """Take in a batch [B, C, H, W] or [B, C]; ValueError when it holds NaN or infinity."""
        positions = values.flatten(2).movedim(1, 2) if values.dim() == 4 else values[:, None]
        low, high = positions.amin((0, 1)), positions.amax((0, 1))
        if not (torch.isfinite(low).all() and torch.isfinite(high).all()):
            raise ValueError("NaN or infinity in the activations; check the weights and the input images")
        batch, count, channels = positions.shape
        drawn, keys = self._draws(batch, lambda images, generator: self._draw(images, count, generator))
        rows = torch.take_along_dim(positions, drawn[:, :, None], 1).reshape(-1, channels)
        batches = torch.full((len(rows),), self._seen, dtype=torch.int32)
        self._seen += 1
        if len(self._rows):
            low, high = torch.minimum(self._low, low), torch.maximum(self._high, high)
            rows, keys = torch.cat([self._rows, rows]), torch.cat([self._keys, keys])
            batches = torch.cat([self._batches, batches])
        self._low, self._high, self._rows, self._keys, self._batches = low, high, rows, keys, batches
        self._limit()

    def channels(self) -> Channels:
        """What was seen so far; the first rows are a sample of all images too."""
        return Channels(self._low, self._high, self._rows[self._keys.sort(stable=True).indices])

    def state(self) -> dict[str, torch.Tensor]:
        """All that was seen."""
        return {
            "low": self._low,
            "high": self._high,
            "rows": self._rows,
            "keys": self._keys,
            "batches": self._batches,
        }

    def merge(self, states: Sequence[dict[str, torch.Tensor]]) -> None:
        """Become the observer that saw all batches of the processes with these states, in order of rank."""
        states = [state for state in states if len(state["low"])]
        if not states:
            return
        self._low = torch.stack([state["low"] for state in states]).amin(0)
        self._high = torch.stack([state["high"] for state in states]).amax(0)
        self._rows, self._keys, self._batches = (
            torch.cat([state[name] for state in states]) for name in ("rows", "keys", "batches")
        )
        if len(states) > 1:
            self._take(self._batches.sort(stable=True).indices)
            self._limit()

    def _draw(self, images: int, count: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Positions out of `count` [images, n], and their keys."""
        drawn = torch.randint(count, (images, min(self._per_image, count)), generator=generator)
        return drawn, torch.rand(drawn.numel(), generator=generator)

    def _limit(self) -> None:
        capacity = min(max(ROW_VALUES // self._rows.shape[1], MIN_ROWS), MAX_ROWS)
        if len(self._rows) > capacity:
            # Stable: of equal keys the earlier row comes first, however the batches were shared.
            self._take(self._keys.sort(stable=True).indices[:capacity])

    def _take(self, kept: torch.Tensor) -> None:
        self._rows, self._keys, self._batches = self._rows[kept], self._keys[kept], self._batches[kept]
