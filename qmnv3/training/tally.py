"""What an update of several batches, in several processes, saw."""

from dataclasses import dataclass

import torch
from torch import Tensor

from qmnv3.training.distributed import total

NO_CLASS = -1


@dataclass
class Tally:
    """Mean loss; images classified right, with a class, at all; how many classes the model tells apart."""

    loss: float = 0.0
    right: int = 0
    known: int = 0
    seen: int = 0
    classes: int = 0

    def add(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Take in a batch; `loss` is its share of the mean."""
        self.loss += loss.item()
        self.right += int((logits.detach().argmax(1) == labels).sum())
        self.known += int((labels != NO_CLASS).sum())
        self.seen += len(labels)
        self.classes = logits.shape[1]

    def of_all(self, processes: int, device: str) -> "Tally":
        """That of all processes together."""
        own = [self.loss, self.right, self.known, self.seen]
        loss, right, known, seen = total(torch.tensor(own, dtype=torch.float64, device=device)).tolist()
        return Tally(loss / processes, int(right), int(known), int(seen), self.classes)
