"""Small float networks with every operation the integer graph holds."""

import torch
from torch import nn


def randomize(model: nn.Module, seed: int = 0) -> nn.Module:
    """Give every BatchNorm statistics as after training, so that folding has something to fold."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
            size = module.num_features
            module.running_mean = torch.randn(size, generator=generator) * 0.2
            module.running_var = torch.rand(size, generator=generator) + 0.3
            module.weight.data = torch.rand(size, generator=generator) + 0.5
            module.bias.data = torch.randn(size, generator=generator) * 0.3
    return model.eval()


class SqueezeExcite(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.reduce = nn.Conv2d(channels, 8, 1)
        self.relu = nn.ReLU()
        self.expand = nn.Conv2d(8, channels, 1)
        self.gate = nn.Hardsigmoid()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.gate(self.expand(self.relu(self.reduce(self.pool(x)))))


class TinyNet(nn.Module):
    """Stem, a residual SE bottleneck with h-swish, and a two-layer head: MobileNetV3 in small."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8, eps=1e-3), nn.Hardswish()
        )
        self.expand = nn.Sequential(
            nn.Conv2d(8, 24, 1, bias=False), nn.BatchNorm2d(24, eps=1e-2), nn.Hardswish()
        )
        self.depthwise = nn.Sequential(
            nn.Conv2d(24, 24, 3, 1, 1, groups=24, bias=False), nn.BatchNorm2d(24), nn.ReLU()
        )
        self.se = SqueezeExcite(24)
        self.project = nn.Sequential(nn.Conv2d(24, 8, 1), nn.BatchNorm2d(8))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Sequential(
            nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Hardswish(), nn.Dropout(0.2), nn.Linear(16, classes)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        x = x + self.project(self.se(self.depthwise(self.expand(x))))
        return self.head(torch.flatten(self.pool(x), 1))


def unit_logits(images: torch.Tensor) -> nn.Module:
    """A TinyNet, always the same, whose logits on `images` have mean 0 and deviation 1."""
    torch.manual_seed(0)
    net = randomize(TinyNet())
    last = net.head[-1]
    with torch.no_grad():
        logits = net(images)
        last.bias.copy_((last.bias - logits.mean(0)) / logits.std(0))
        last.weight.div_(logits.std(0)[:, None])
    return net
