"""What the float parent says of a batch, and how far the model's features are from its."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import fx, nn

from qmnv3.errors import PrepareError
from qmnv3.quant.fake_quant import activation_sites


@dataclass(frozen=True)
class Lesson:
    """What the parent says of a batch: logits [N, classes], and tensors by their sites' names."""

    logits: torch.Tensor
    features: Mapping[str, torch.Tensor]


class Teacher:
    """The float parent, prepared and never changed; gives logits and the tensors at `sites`.

    PrepareError for a site it does not have.
    """

    def __init__(self, parent: fx.GraphModule, sites: tuple[str, ...] = ()) -> None:
        self._parent = parent.eval().requires_grad_(False)
        self._seen: dict[str, torch.Tensor] = {}
        known = activation_sites(parent)
        for name in sites:
            if name not in known:
                raise PrepareError(f"distillation: no site {name!r} in the model; `qmnv3 inspect` lists them")
            known[name].register_forward_hook(self._keep)

    def _keep(self, module: nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
        self._seen[module.site] = output  # type: ignore[index]

    @torch.no_grad()
    def __call__(self, images: torch.Tensor) -> Lesson:
        """Images [N, 3, H, W] as the model sees them."""
        logits = self._parent(images)
        seen, self._seen = self._seen, {}
        return Lesson(logits, seen)


def logits_loss(logits: torch.Tensor, taught: torch.Tensor, temperature: float) -> torch.Tensor:
    """Mean KL(parent, model) in nats, times temperature squared so that gradients keep their size."""
    target = F.log_softmax(taught.float() / temperature, dim=1)
    ours = F.log_softmax(logits.float() / temperature, dim=1)
    return F.kl_div(ours, target, reduction="batchmean", log_target=True) * temperature**2


def feature_loss(ours: torch.Tensor, taught: torch.Tensor) -> torch.Tensor:
    """Mean square error relative to the parent's mean square."""
    return (ours - taught).square().mean() / taught.square().mean().clamp(min=1e-12)
