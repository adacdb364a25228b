"""Plain supervised training of a classifier."""

import torch.nn.functional as F
from torch import Tensor, nn


class ClassificationTask:
    """Cross-entropy of a model's logits with the labels."""

    def __init__(self, model: nn.Module, label_smoothing: float = 0.0) -> None:
        self.model = model
        self._smoothing = label_smoothing

    def loss(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Mean over the batch, and logits."""
        logits = self.model(images)
        return F.cross_entropy(logits.float(), labels, label_smoothing=self._smoothing), logits

    def before_step(self, step: int, steps_per_epoch: int) -> None:
        """Nothing changes while it trains."""

    def after_step(self) -> None:
        """Nothing is pending."""
