"""Networks a user might name as user_nets:function, most of them with something wrong."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from quant.nets import TinyNet
from torch import Tensor, nn


def tiny() -> nn.Module:
    return TinyNet(2)


def _classifier(*layers: nn.Module, channels: int = 4) -> nn.Module:
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 2))


class _Apply(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.conv(x))


def pixels() -> nn.Module:
    """The first layer returns the normalised pixels."""
    model = nn.Sequential(nn.Conv2d(3, 3, 1, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    nn.init.eye_(model[0].weight.data[:, :, 0, 0])
    return model


def vertical_steps() -> nn.Module:
    """The first layer returns each pixel minus the one below it."""
    layer = nn.Conv2d(3, 3, (2, 1), groups=3, bias=False)
    layer.weight.data[:] = torch.tensor([1.0, -1.0]).reshape(1, 1, 2, 1)
    return nn.Sequential(layer, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def gelu_module() -> nn.Module:
    return _classifier(nn.Conv2d(3, 4, 3), nn.GELU())


def cat_function() -> nn.Module:
    return _classifier(_Apply(lambda x: torch.cat([x, x], 1)), channels=8)


def negation() -> nn.Module:
    return _classifier(_Apply(torch.neg))


def scaled() -> nn.Module:
    return _classifier(_Apply(lambda x: x * 2))


def max_pool() -> nn.Module:
    return _classifier(_Apply(lambda x: F.max_pool2d(x, 2)))


def grouped() -> nn.Module:
    return _classifier(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3, groups=2))


def called_twice() -> nn.Module:
    layer = nn.Conv2d(3, 3, 3)
    return _classifier(layer, layer, channels=3)


def branching() -> nn.Module:
    return _classifier(_Apply(lambda x: x if x.sum() > 0 else -x))


def four_channel_input() -> nn.Module:
    return _classifier(nn.Conv2d(4, 4, 3))


def returns_a_map() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3))


def half_precision() -> nn.Module:
    return TinyNet(2).half()


class _Raises(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        raise ValueError("no such luck\nsecond line")


def forward_raises() -> nn.Module:
    return _Raises()


def raises() -> nn.Module:
    raise OSError("no such luck\nsecond line")


def exits() -> nn.Module:
    raise SystemExit(0)


def returns_a_number() -> int:
    return 3


NOT_A_FUNCTION = 3


def nan_weights() -> nn.Module:
    model = TinyNet(2)
    model.project[0].weight.data[0] = float("nan")
    return model


def overflowing() -> nn.Module:
    """Finite weights whose products are not."""
    model = TinyNet(2)
    model.expand[0].weight.data.fill_(3e38)
    return model


def huge_logits() -> nn.Module:
    """Finite everywhere, but the logits' square is no float32."""
    model = TinyNet(2)
    model.head[4].weight.data.fill_(1e30)
    return model
