"""BatchNorm over the batches of all processes."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from qmnv3.training.distributed import is_distributed, total


class _SumOverProcesses(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        return total(values.clone())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return total(gradient.clone())


def batch_norm(
    x: Tensor, norm: nn.modules.batchnorm._BatchNorm, weight: Tensor | None, bias: Tensor | None
) -> Tensor:
    """`norm` in training mode on x [N, C, ...], with `weight` and `bias` for its own.

    Running statistics follow by its momentum. With other processes the statistics are those of all their
    batches together, as if one process had them all; torch's SyncBatchNorm does so on GPUs only.
    """
    momentum = norm.momentum
    if norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
        if momentum is None:
            momentum = 1.0 / float(norm.num_batches_tracked)
    assert momentum is not None
    if not is_distributed():
        return F.batch_norm(x, norm.running_mean, norm.running_var, weight, bias, True, momentum, norm.eps)
    over = [axis for axis in range(x.dim()) if axis != 1]
    shape = [1, -1] + [1] * (x.dim() - 2)
    given, x = x.dtype, x.float()  # sums of bfloat16 would lose nearly everything
    local = torch.cat([x.sum(over), x.new_tensor([x.numel() / x.shape[1]])])
    sums = _sum(local)
    count = sums[-1].detach()
    mean = sums[:-1] / count
    centred = x - mean.reshape(shape)
    variance = _sum(centred.square().sum(over)) / count
    with torch.no_grad():
        assert norm.running_mean is not None and norm.running_var is not None
        norm.running_mean.lerp_(mean, momentum)
        norm.running_var.lerp_(variance * count / (count - 1), momentum)
    scale = torch.rsqrt(variance + norm.eps)
    scaled = centred * (scale if weight is None else scale * weight).reshape(shape)
    return (scaled if bias is None else scaled + bias.reshape(shape)).to(given)


def _sum(values: Tensor) -> Tensor:
    return _SumOverProcesses.apply(values)  # type: ignore[no-untyped-call,no-any-return]


def synchronise_batch_norm(model: nn.Module) -> None:
    """Let every BatchNorm2d of `model` take its statistics from the batches of all processes."""
    for module in model.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = SyncedBatchNorm2d  # keeps parameters, hooks and the optimizer's references


class SyncedBatchNorm2d(nn.BatchNorm2d):
    """`nn.BatchNorm2d` over all processes; the same state-dict keys."""

    def forward(self, input: Tensor) -> Tensor:
        """[N, C, H, W]."""
        return batch_norm(input, self, self.weight, self.bias) if self.training else super().forward(input)
