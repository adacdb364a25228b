"""RMSProp as TensorFlow has it, which the paper trained with."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.optim import Optimizer


class RMSpropTF(Optimizer):
    """RMSProp of tf.compat.v1.train.RMSPropOptimizer (not centered).

        square = alpha * square + (1 - alpha) * g^2        starting at 1
        velocity = momentum * velocity + lr * g / sqrt(square + eps)
        p = p - velocity

    torch.optim.RMSprop differs: its square starts at 0, so that first steps are far too large; eps is added
    outside the root; and the rate multiplies the momentum buffer, so that a change of the rate acts on past
    gradients too. Weight decay is added to the gradient (L2), as the paper's was.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        *,
        alpha: float = 0.9,
        momentum: float = 0.9,
        eps: float = 1e-3,
        weight_decay: float = 0.0,
    ) -> None:
        defaults = {"lr": lr, "alpha": alpha, "momentum": momentum, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update; `closure` is not supported."""
        if closure is not None:
            raise ValueError("RMSpropTF takes no closure")
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            if not parameters:
                continue
            for parameter in parameters:
                if not self.state[parameter]:
                    # Not "step": torch leaves state of that name on the CPU when it is loaded.
                    self.state[parameter] = {
                        "square": torch.ones_like(parameter),
                        "velocity": torch.zeros_like(parameter),
                    }
            gradients = [p.grad for p in parameters]
            if group["weight_decay"]:
                gradients = list(torch._foreach_add(gradients, parameters, alpha=group["weight_decay"]))
            squares = [self.state[p]["square"] for p in parameters]
            velocities = [self.state[p]["velocity"] for p in parameters]
            torch._foreach_mul_(squares, group["alpha"])
            torch._foreach_addcmul_(squares, gradients, gradients, 1.0 - group["alpha"])
            roots = torch._foreach_add(squares, group["eps"])
            torch._foreach_sqrt_(roots)
            torch._foreach_mul_(velocities, group["momentum"])
            torch._foreach_addcdiv_(velocities, gradients, roots, group["lr"])
            torch._foreach_sub_(parameters, velocities)
