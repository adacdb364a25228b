"""What is trained: anything that is a Task, and a plain classifier."""

from typing import Protocol

from torch import Tensor, nn

from qmnv3.training.config import MixingConfig
from qmnv3.training.mixing import mix


class Diverged(Exception):
    """Training left something without a usable value; the message names it."""


class Task(Protocol):
    """What is trained. All of its state is in `model.state_dict()`, its schedule follows from the step.

    `before_step` and `after_step` raise Diverged, in all processes alike, where training cannot go on.
    `leaves_out_parameters`: some may get no gradient in a step.
    """

    leaves_out_parameters: bool

    @property
    def model(self) -> nn.Module:
        """What the optimizer changes."""

    def loss(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Mean loss of a batch, and logits [N, classes]."""

    def before_step(self, step: int, total: int) -> None:
        """Called before every update, before validation and at the end; training has `total` updates."""

    def after_step(self) -> None:
        """Called after every update."""


class ClassificationTask:
    """Cross-entropy of a model's logits with the labels."""

    leaves_out_parameters = False

    def __init__(
        self, model: nn.Module, label_smoothing: float = 0.0, mixing: MixingConfig | None = None
    ) -> None:
        self.model = model
        self._smoothing = label_smoothing
        self._mixing = mixing or MixingConfig()

    def loss(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Mean over the batch, and logits."""
        mixed = mix(images, labels, self._mixing)
        logits = self.model(mixed.images)
        return mixed.cross_entropy(logits.float(), self._smoothing), logits

    def before_step(self, step: int, total: int) -> None:
        """Nothing changes while it trains."""

    def after_step(self) -> None:
        """Nothing is pending."""
