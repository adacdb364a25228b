"""Mean and standard deviation of one tensor's channels, in one pass."""

from collections.abc import Sequence

import torch

from qmnv3.quant.fold import Normal

# A regular grid of about this many rows and columns tells the moments of a map well enough.
_GRID = 28


class MomentObserver:
    """Streams one tensor [B, C, H, W] or [B, C] into the mean and standard deviation of its channels."""

    def __init__(self) -> None:
        self._count = 0
        self._sum, self._square_sum = (torch.zeros(0, dtype=torch.float64) for _ in range(2))

    def update(self, values: torch.Tensor) -> None:
        """Take in a batch."""
        if values.dim() == 4:
            step = max(values.shape[2] // _GRID, 1)
            values = values[:, :, ::step, ::step].permute(0, 2, 3, 1).flatten(0, 2)
        rows = values.double()
        if not self._count:
            self._sum = self._square_sum = rows.new_zeros(rows.shape[1])
        self._sum, self._square_sum = self._sum + rows.sum(0), self._square_sum + rows.square().sum(0)
        self._count += len(rows)

    def moments(self) -> Normal:
        """What was seen so far, float64."""
        mean = self._sum / self._count
        return Normal(mean, (self._square_sum / self._count - mean.square()).clamp(min=0.0).sqrt())

    def state(self) -> dict[str, torch.Tensor]:
        """All that was seen."""
        return {"count": torch.tensor(self._count), "sum": self._sum, "square_sum": self._square_sum}

    def merge(self, states: Sequence[dict[str, torch.Tensor]]) -> None:
        """Become the observer that saw all batches of those with these states, up to rounding in float64."""
        states = [state for state in states if state["count"]]
        if not states:
            return
        self._count = sum(int(state["count"]) for state in states)
        self._sum, self._square_sum = (
            torch.stack([state[name] for state in states]).sum(0) for name in ("sum", "square_sum")
        )
