"""The optimizer a recipe asks for, with its groups of parameters."""

from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from qmnv3.training.config import OptimizerConfig
from qmnv3.training.rmsprop import RMSpropTF

_NORMS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm)


def make_optimizer(model: nn.Module, config: OptimizerConfig, *, effective_batch: int) -> Optimizer:
    """Optimizer over the trainable parameters of `model`.

    Groups: decayed weights; biases and norms; learned ranges of quantization (parameters with the attribute
    `quant_range`). Each group keeps its rate, scaled linearly to `effective_batch` images, as "initial_lr".
    """
    rate = config.rate * effective_batch / config.reference_batch
    groups: list[dict[str, Any]] = [
        {"params": [], "lr": rate, "weight_decay": config.weight_decay},
        {
            "params": [],
            "lr": rate * config.bias_rate,
            "weight_decay": config.weight_decay if config.decay_norms else 0.0,
        },
        {"params": [], "lr": rate * config.range_rate, "weight_decay": 0.0},
    ]
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if getattr(parameter, "quant_range", False):
                index = 2
            else:
                index = 1 if name == "bias" or isinstance(module, _NORMS) else 0
            groups[index]["params"].append(parameter)
    groups = [group | {"initial_lr": group["lr"]} for group in groups if group["params"]]
    if config.kind == "rmsprop":
        asked = {"alpha": config.alpha, "eps": config.eps}
        given = {name: value for name, value in asked.items() if value is not None}
        return RMSpropTF(groups, rate, momentum=config.momentum, **given)
    if config.kind == "adamw":
        return torch.optim.AdamW(groups, rate, betas=(config.momentum, 0.999))
    return torch.optim.SGD(groups, rate, momentum=config.momentum, nesterov=config.nesterov)


def set_rate(optimizer: Optimizer, factor: float) -> None:
    """Give every group `factor` times its initial rate."""
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * factor
