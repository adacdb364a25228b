"""Mixup and CutMix: images blended in pairs, so that few of them teach more."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from qmnv3.training.config import MixingConfig


@dataclass(frozen=True)
class Mixed:
    """`images` [N, 3, H, W] that show `share` of what `labels` [N] name and the rest of `other` [N]."""

    images: Tensor
    labels: Tensor
    other: Tensor
    share: float

    def cross_entropy(self, logits: Tensor, label_smoothing: float) -> Tensor:
        """Mean over the batch of logits [N, classes], each label counting by its share."""
        own = F.cross_entropy(logits, self.labels, label_smoothing=label_smoothing)
        if self.share == 1.0:
            return own
        other = F.cross_entropy(logits, self.other, label_smoothing=label_smoothing)
        return self.share * own + (1.0 - self.share) * other


@torch.compiler.disable  # type: ignore[untyped-decorator]  # boxes differ in size: it would compile each
def mix(images: Tensor, labels: Tensor, config: MixingConfig) -> Mixed:
    """Blend each image with its mirror place's in the batch, by either method at random if both are wanted.

    Shares are drawn from Beta(alpha, alpha) with torch's generator of the CPU, one for the batch. Labels may
    be empty.
    """
    alphas = [
        (method, alpha) for method, alpha in (("mixup", config.mixup), ("cutmix", config.cutmix)) if alpha
    ]
    if not alphas:
        return Mixed(images, labels, labels, 1.0)
    method, alpha = alphas[int(torch.randint(len(alphas), ()))]
    share = float(torch.distributions.Beta(alpha, alpha).sample())
    other = images.flip(0)
    if method == "mixup":
        return Mixed(torch.lerp(other, images, share), labels, labels.flip(0), share)
    top, bottom, left, right = random_box(images.shape[2], images.shape[3], 1.0 - share)
    images = images.clone()
    images[:, :, top:bottom, left:right] = other[:, :, top:bottom, left:right]
    pasted = (bottom - top) * (right - left) / (images.shape[2] * images.shape[3])
    return Mixed(images, labels, labels.flip(0), 1.0 - pasted)


def random_box(height: int, width: int, area: float) -> tuple[int, int, int, int]:
    """Top, bottom, left, right of a box with that share of the area around a random pixel, cut at the edges
    (Yun et al. 2019, section 3.1).
    """
    side = area**0.5
    ends = []
    for length in (height, width):
        centre, half = int(torch.randint(length, ())), round(side * length) // 2
        ends += [max(centre - half, 0), min(centre + half, length)]
    return ends[0], ends[1], ends[2], ends[3]
