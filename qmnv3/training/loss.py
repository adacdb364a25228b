"""A task's loss as the training loop computes it: compiled, and with gradients of all processes."""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from qmnv3.errors import TrainingError
from qmnv3.training.distributed import World
from qmnv3.training.synchronised import synchronise_batch_norm

Loss = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


class _LossModule(nn.Module):
    """A loss as a module, so that DistributedDataParallel sees its forward pass."""

    def __init__(self, model: nn.Module, loss: Loss) -> None:
        super().__init__()
        self.model = model
        self._loss = loss

    def forward(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Mean loss and logits."""
        return self._loss(images, labels)


class _Trainable(Protocol):
    leaves_out_parameters: bool

    @property
    def model(self) -> nn.Module: ...
    def loss(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]: ...


def _compiled(loss: Loss) -> Loss:
    from torch._inductor.exc import InductorError, InvalidCxxCompiler, TritonMissing  # slow to import

    made = torch.compile(loss)

    def compiled(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        try:
            return made(images, labels)
        except (InductorError, InvalidCxxCompiler, TritonMissing) as error:
            missing = error.inner_exception if isinstance(error, InductorError) else error
            if not isinstance(missing, InvalidCxxCompiler | TritonMissing):
                raise
            raise TrainingError(
                "compile: true: torch finds no C++ compiler (CPU) or no Triton (GPU) that works; install one "
                "(apt install g++, pip install triton), or leave compile out"
            ) from error

    return compiled


def loss_of(task: _Trainable, world: World, *, compiled: bool) -> Loss:
    """The task's loss; its gradients are then averaged over all processes, and BatchNorm is synchronised."""
    loss: Loss = _compiled(task.loss) if compiled else task.loss
    if world.size == 1:
        return loss
    synchronise_batch_norm(task.model)
    return DistributedDataParallel(
        _LossModule(task.model, loss),
        forward_sync_buffers=False,  # they are alike already
        find_unused_parameters=task.leaves_out_parameters,
    )
