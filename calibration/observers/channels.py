"""What one tensor's channels look like: their ends, and a uniform sample of positions."""

from dataclasses import dataclass

import torch

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


class ChannelObserver:
    """Streams one tensor into `Channels` in constant memory.

    Every position gets a random key, and those with the smallest keys are kept: a uniform sample, whatever
    the number of images. At most `per_image` positions of one image enter.
    """

    def __init__(self, seed: int, per_image: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)
        self._per_image = per_image
        self._low = self._high = torch.empty(0)
        self._rows = torch.empty(0)
        self._keys = torch.empty(0)

    def update(self, values: torch.Tensor) -> None:
        """Take in a batch [B, C, H, W] or [B, C]; ValueError when it holds NaN or infinity."""
        positions = values.flatten(2).movedim(1, 2) if values.dim() == 4 else values[:, None]
        low, high = positions.amin((0, 1)), positions.amax((0, 1))
        if not (torch.isfinite(low).all() and torch.isfinite(high).all()):
            raise ValueError("NaN or infinity in the activations; check the weights and the input images")
        batch, count, channels = positions.shape
        drawn = torch.randint(count, (batch, min(self._per_image, count)), generator=self._generator)
        rows = torch.take_along_dim(positions, drawn[:, :, None], 1).reshape(-1, channels)
        keys = torch.rand(len(rows), generator=self._generator)
        if not len(self._rows):
            self._low, self._high, self._rows, self._keys = low, high, rows, keys
            return
        self._low, self._high = torch.minimum(self._low, low), torch.maximum(self._high, high)
        self._rows, self._keys = torch.cat([self._rows, rows]), torch.cat([self._keys, keys])
        capacity = min(max(ROW_VALUES // channels, MIN_ROWS), MAX_ROWS)
        if len(self._rows) > capacity:
            kept = self._keys.topk(capacity, largest=False).indices
            self._rows, self._keys = self._rows[kept], self._keys[kept]

    def channels(self) -> Channels:
        """What was seen so far."""
        return Channels(self._low, self._high, self._rows)
