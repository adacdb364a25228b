"""A finished network teaches another (Hinton et al. 2015)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qmnv3.preprocessing import Preprocessing


@dataclass(frozen=True)
class Teacher:
    """A float network, never changed, that sees a student's images and says what the student's classes are.

    `outputs` are the teacher's outputs for the student's classes, in the student's order. Images prepared as
    `seen` are normalised anew to what the teacher `expects`; their size stays.
    """

    model: nn.Module
    outputs: Sequence[int]
    seen: Preprocessing
    expects: Preprocessing

    def __post_init__(self) -> None:
        self.model.eval().requires_grad_(False).to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Logits [N, classes] for images [N, 3, H, W] as the student sees them."""
        if (self.seen.mean, self.seen.std) != (self.expects.mean, self.expects.std):
            own = (self.seen.mean, self.seen.std, self.expects.mean, self.expects.std)
            mean, std, wanted_mean, wanted_std = (images.new_tensor(v)[:, None, None] for v in own)
            images = (images * std + mean - wanted_mean) / wanted_std
        logits: Tensor = self.model(images)
        return logits[:, torch.as_tensor(self.outputs, device=logits.device)]


def logits_loss(logits: Tensor, taught: Tensor, temperature: float) -> Tensor:
    """Mean KL(teacher, model) in nats, times temperature squared so that gradients keep their size."""
    target = F.log_softmax(taught.float() / temperature, dim=1)
    ours = F.log_softmax(logits.float() / temperature, dim=1)
    return F.kl_div(ours, target, reduction="batchmean", log_target=True) * temperature**2
