"""Averaging the weights of models that were trained from the same start."""

from collections.abc import Mapping

import torch
from torch import nn

from qmnv3.errors import ModelError


@torch.no_grad()
def average_weights(models: Mapping[str, nn.Module]) -> dict[str, torch.Tensor]:
    """Mean of the weights of `models`, by name, as a state dict; what is no float is the first one's.

    Source: Wortsman et al. 2022, "Model soups": fine-tunings of one checkpoint with different settings lie in
    one basin, and their mean is more accurate than any of them. BatchNorm's statistics fit it only once they
    were taken anew. ModelError for models whose tensors differ in name or shape.
    """
    (first, wanted), *others = [(name, model.state_dict()) for name, model in models.items()]
    for name, state in others:
        for key in sorted(state.keys() | wanted.keys()):
            shape, needed = (list(s[key].shape) if key in s else "missing" for s in (state, wanted))
            if shape != needed:
                raise ModelError(
                    f"{name}: {key} is {shape}, in {first} {needed}; average models of one shape"
                )
    states = [wanted, *(state for _, state in others)]
    return {
        key: torch.stack([state[key] for state in states]).mean(0)
        if tensor.is_floating_point()
        else tensor.clone()
        for key, tensor in wanted.items()
    }
