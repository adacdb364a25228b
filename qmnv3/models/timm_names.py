"""State-dict keys of timm's MobileNets, translated to torchvision's."""

import re
from collections.abc import Mapping

from torch import Tensor

_BLOCK = re.compile(r"blocks\.(\d+)\.(\d+)\.(.+)")


def is_timm(state: Mapping[str, Tensor]) -> bool:
    """Whether the keys are timm's."""
    return "conv_stem.weight" in state


def to_torchvision(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors under torchvision's keys; V3's 1x1 convolution of the head becomes a linear layer.

    Keys that no MobileNetV2 or V3 of timm has are kept as they are, for the caller to complain about.
    """
    stages: dict[tuple[int, int], dict[str, Tensor]] = {}
    renamed: dict[str, Tensor] = {}
    # V3's head convolution comes after pooling, has a bias and no BatchNorm; V2's is a feature layer.
    is_v3 = "conv_head.bias" in state
    for key, tensor in state.items():
        match = _BLOCK.fullmatch(key)
        if match:
            stages.setdefault((int(match[1]), int(match[2])), {})[match[3]] = tensor
    tops = _top_level(is_v3, last_feature=len(stages) + 1)
    for key, tensor in state.items():
        if not _BLOCK.fullmatch(key):
            module, _, leaf = key.rpartition(".")
            name = f"{tops[module]}.{leaf}" if module in tops else key
            renamed[name] = tensor.flatten(1) if is_v3 and key == "conv_head.weight" else tensor
    for number, position in enumerate(sorted(stages), start=1):
        block = stages[position]
        names = _v3_block(block) if is_v3 else _v2_block(block)
        for key, tensor in block.items():
            module, _, leaf = key.rpartition(".")
            renamed[f"features.{number}.{names.get(module, module)}.{leaf}"] = tensor
    return renamed


def _top_level(is_v3: bool, last_feature: int) -> dict[str, str]:
    names = {"conv_stem": "features.0.0", "bn1": "features.0.1"}
    if is_v3:
        return {**names, "conv_head": "classifier.0", "classifier": "classifier.3"}
    last = f"features.{last_feature}"
    return {**names, "conv_head": f"{last}.0", "bn2": f"{last}.1", "classifier": "classifier.1"}


def _v3_block(block: Mapping[str, Tensor]) -> dict[str, str]:
    """timm module to torchvision module of one V3 block: conv_pw, conv_dw, se, conv_pwl or a subset."""
    if "conv.weight" in block:
        return {"conv": "0", "bn1": "1"}
    steps = _steps(block)
    names: dict[str, str] = {}
    for index, (conv, norm) in enumerate(steps):
        # Squeeze-and-excite sits between the depthwise convolution and the projection.
        is_projection = index == len(steps) - 1
        shift = 1 if is_projection and "se.conv_reduce.weight" in block else 0
        names[conv] = f"block.{index + shift}.0"
        names[norm] = f"block.{index + shift}.1"
    names["se.conv_reduce"] = f"block.{len(steps) - 1}.fc1"
    names["se.conv_expand"] = f"block.{len(steps) - 1}.fc2"
    return names


def _v2_block(block: Mapping[str, Tensor]) -> dict[str, str]:
    *convs, (projection, projection_norm) = _steps(block)
    names = {projection: f"conv.{len(convs)}", projection_norm: f"conv.{len(convs) + 1}"}
    for index, (conv, norm) in enumerate(convs):
        names[conv] = f"conv.{index}.0"
        names[norm] = f"conv.{index}.1"
    return names


def _steps(block: Mapping[str, Tensor]) -> list[tuple[str, str]]:
    """(convolution, BatchNorm) modules of a timm block in order of execution."""
    if "conv_pwl.weight" in block:
        return [("conv_pw", "bn1"), ("conv_dw", "bn2"), ("conv_pwl", "bn3")]
    return [("conv_dw", "bn1"), ("conv_pw", "bn2")]
