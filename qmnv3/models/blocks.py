"""Building blocks of MobileNetV2 and V3. Module names give torchvision's state-dict keys."""

from collections.abc import Callable

from torch import Tensor, nn

from qmnv3.models.config import ModelConfig, scaled
from qmnv3.models.padding import Conv2dSame
from qmnv3.models.rows import Activation

_ACTIVATIONS: dict[Activation, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "hswish": nn.Hardswish,
    "swish": nn.SiLU,
}


def activation(kind: Activation) -> nn.Module:
    """A new activation module."""
    return _ACTIVATIONS[kind]()


def convolution(
    config: ModelConfig, inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1
) -> nn.Conv2d:
    """A convolution without bias, padded as `config.padding` says."""
    if config.padding == "tf_same" and stride > 1:
        return Conv2dSame(inputs, outputs, kernel, stride, groups=groups, bias=False)
    # At stride 1 an odd kernel's SAME padding is symmetric.
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)


def batch_norm(config: ModelConfig, channels: int) -> nn.BatchNorm2d:
    """BatchNorm with the model's eps and momentum."""
    return nn.BatchNorm2d(channels, eps=config.bn_eps, momentum=config.bn_momentum)


def conv_bn(
    config: ModelConfig,
    inputs: int,
    outputs: int,
    act: Activation | None,
    *,
    kernel: int = 1,
    stride: int = 1,
    groups: int = 1,
) -> nn.Sequential:
    """Convolution, BatchNorm and, unless `act` is None, activation."""
    layers: list[nn.Module] = [
        convolution(config, inputs, outputs, kernel, stride, groups),
        batch_norm(config, outputs),
    ]
    if act is not None:
        layers.append(activation(act))
    return nn.Sequential(*layers)


class SqueezeExcite(nn.Module):
    """Gate each channel by hard-sigmoid of a small network on the means, `squeezed` channels wide."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc1 = nn.Conv2d(channels, squeezed, 1)
        self.activation = nn.ReLU()
        self.fc2 = nn.Conv2d(squeezed, channels, 1)
        self.scale_activation = nn.Hardsigmoid()

    def forward(self, x: Tensor) -> Tensor:
        """NCHW in, the same shape out."""
        gate: Tensor = self.scale_activation(self.fc2(self.activation(self.fc1(self.avgpool(x)))))
        return x * gate


class V3Block(nn.Module):
    """MobileNetV3 bottleneck: [expand], depthwise, [squeeze-and-excite], project, [residual add]."""

    def __init__(
        self,
        config: ModelConfig,
        inputs: int,
        expanded: int,
        outputs: int,
        *,
        kernel: int,
        stride: int,
        act: Activation,
        squeeze_excite: bool,
        expands: bool,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        if expands:
            layers.append(conv_bn(config, inputs, expanded, act))
        layers.append(conv_bn(config, expanded, expanded, act, kernel=kernel, stride=stride, groups=expanded))
        if squeeze_excite:
            # 5.2.1, or MnasNet's: a quarter of the input, not rounded to 8.
            quarter = scaled(expanded / 4) if config.squeeze_excite == "expansion" else max(1, inputs // 4)
            layers.append(SqueezeExcite(expanded, quarter))
        layers.append(conv_bn(config, expanded, outputs, None))
        self.block = nn.Sequential(*layers)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """NCHW in, NCHW out at 1/stride of the resolution."""
        y: Tensor = self.block(x)
        return x + y if self.residual else y


class V2Block(nn.Module):
    """MobileNetV2 inverted residual: [expand], depthwise, linear projection, [residual add]."""

    def __init__(
        self, config: ModelConfig, inputs: int, outputs: int, *, factor: int, stride: int, act: Activation
    ) -> None:
        super().__init__()
        expanded = inputs * factor
        layers: list[nn.Module] = []
        if factor != 1:
            layers.append(conv_bn(config, inputs, expanded, act))
        layers += [
            conv_bn(config, expanded, expanded, act, kernel=3, stride=stride, groups=expanded),
            convolution(config, expanded, outputs),
            batch_norm(config, outputs),
        ]
        self.conv = nn.Sequential(*layers)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """NCHW in, NCHW out at 1/stride of the resolution."""
        y: Tensor = self.conv(x)
        return x + y if self.residual else y
