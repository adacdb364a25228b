"""Whole networks from their rows."""

import math
from typing import Unpack

import torch
from torch import Tensor, nn

from qmnv3.errors import ModelError
from qmnv3.models.blocks import V2Block, V3Block, activation, conv_bn
from qmnv3.models.config import ModelConfig, ModelOptions, model_config, scaled
from qmnv3.models.rows import V2Spec, V3Spec


class MobileNet(nn.Module):
    """Features, global average pooling, classifier. Built from a `ModelConfig` kept as `config`."""

    def __init__(
        self,
        config: ModelConfig,
        features: nn.Sequential,
        classifier: nn.Sequential,
        avgpool: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.features = features
        self.avgpool = avgpool or nn.AdaptiveAvgPool2d(1)
        self.classifier = classifier

    def forward(self, x: Tensor) -> Tensor:
        """[N, 3, H, W] in, logits [N, classes] out."""
        logits: Tensor = self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))
        return logits


def build_model(name: str, *, seed: int = 0, **options: Unpack[ModelOptions]) -> MobileNet:
    """A built-in model (large, small, large_minimalistic, small_minimalistic, v2) with random weights.

    `options` are the fields of `ModelConfig`: width, num_classes, dropout, padding, nonlinearity,
    activations, stem_width, head_width, last_stage, squeeze_excite, bn_eps, bn_momentum. The global
    random state is left as it was. ModelError for an unknown name, site or value.
    """
    return build(model_config(name, options), seed=seed)


def build(config: ModelConfig, *, seed: int = 0) -> MobileNet:
    """The model that `config` describes, initialised from `seed`."""
    _check_sites(config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        spec = config.spec
        model = _v2(config, spec) if isinstance(spec, V2Spec) else _v3(config, spec)
        _initialise(model)
    return model


def sites(config: ModelConfig) -> list[str]:
    """Names of the model's activation sites: each stage of `features`, and V3's head, "classifier"."""
    spec = config.spec
    if isinstance(spec, V2Spec):
        return [f"features.{i}" for i in range(sum(row.n for row in spec.rows) + 2)]
    stages = [f"features.{i}" for i in range(len(spec.rows) + 2)]
    return [*stages, "classifier"] if spec.head_after_pooling else stages


def _v3(config: ModelConfig, spec: V3Spec) -> MobileNet:
    """MobileNetV3.

    A block's expansion is the row's ratio times its rounded input, rounded again, as in Google's release:
    that, not `scaled(width * exp size)`, gives the MAdds of Table 9.
    """
    inputs = scaled(config.stem_width * config.width)
    act = config.activation_at("features.0", spec.activation, spec.stem)
    features: list[nn.Module] = [conv_bn(config, 3, inputs, act, kernel=3, stride=2)]
    row_inputs = spec.stem
    for row in spec.rows:
        outputs = scaled(row.out * config.width)
        features.append(
            V3Block(
                config,
                inputs,
                scaled(inputs * row.expansion / row_inputs),
                outputs,
                kernel=row.kernel,
                stride=row.stride,
                act=config.activation_at(f"features.{len(features)}", row.activation, row.out),
                squeeze_excite=row.squeeze_excite and config.squeeze_excite != "none",
                expands=row.expansion != row_inputs,
            )
        )
        inputs, row_inputs = outputs, row.out
    last, channels = scaled(spec.last_conv * config.width), spec.last_conv
    if not spec.head_after_pooling:
        last = channels = config.head_width
    act = config.activation_at(f"features.{len(features)}", spec.activation, channels)
    features.append(conv_bn(config, inputs, last, act))
    return _v3_ending(config, spec, nn.Sequential(*features), last)


def _v3_ending(config: ModelConfig, spec: V3Spec, features: nn.Sequential, last: int) -> MobileNet:
    """Pooling, head and classifier; a head with BatchNorm is a 1x1 convolution right after pooling."""
    head = config.head_width
    classifier = nn.Sequential(nn.Dropout(config.dropout), nn.Linear(head, config.num_classes))
    if not spec.head_after_pooling:
        return MobileNet(config, features, classifier)
    act = config.activation_at("classifier", spec.activation, head)
    if config.last_stage == "efficient_bn":
        pooled_head = nn.Sequential(nn.AdaptiveAvgPool2d(1), conv_bn(config, last, head, act))
        return MobileNet(config, features, classifier, pooled_head)
    return MobileNet(config, features, nn.Sequential(nn.Linear(last, head), activation(act), *classifier))


def _v2(config: ModelConfig, spec: V2Spec) -> MobileNet:
    inputs = scaled(config.stem_width * config.width)
    act = config.activation_at("features.0", spec.activation, spec.stem)
    features: list[nn.Module] = [conv_bn(config, 3, inputs, act, kernel=3, stride=2)]
    for row in spec.rows:
        outputs = scaled(row.c * config.width)
        for repeat in range(row.n):
            act = config.activation_at(f"features.{len(features)}", spec.activation, row.c)
            stride = row.s if repeat == 0 else 1
            features.append(V2Block(config, inputs, outputs, factor=row.t, stride=stride, act=act))
            inputs = outputs
    # The last layer does not shrink below width 1.0 (MobileNetV2 paper, section 4).
    last = scaled(config.head_width * max(1.0, config.width))
    act = config.activation_at(f"features.{len(features)}", spec.activation, config.head_width)
    features.append(conv_bn(config, inputs, last, act))
    classifier = nn.Sequential(nn.Dropout(config.dropout), nn.Linear(last, config.num_classes))
    return MobileNet(config, nn.Sequential(*features), classifier)


def _initialise(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            # kaiming_normal_ ignores groups: depthwise weights would be so small that signals die out.
            fan_out = module.weight[0, 0].numel() * module.out_channels // module.groups
            nn.init.normal_(module.weight, 0.0, math.sqrt(2.0 / fan_out))
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0.0, 0.01)
        else:
            continue
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _check_sites(config: ModelConfig) -> None:
    known = sites(config)
    for site, _ in config.activations:
        if site not in known:
            raise ModelError(
                f"model {config.name}: no activation site {site!r}; sites are {known[0]} to {known[-1]}"
            )
