"""The traced network as a flat list of sites: one per tensor of the deployed graph."""

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import fx, nn

from qmnv3.errors import PrepareError
from qmnv3.quant.fake_quant import FakeQuantize, QuantHardswish, QuantWeight, WeightFakeQuantize
from qmnv3.quant.fold import Norm, Normal
from qmnv3.quant.trace import shape

Kind = Literal[
    "input",
    "layer",
    "add",
    "mul",
    "mean",
    "hard_swish",
    "hard_sigmoid",
    "logistic",
    "relu",
    "relu6",
    "flatten",
    "output",
]
FusedActivation = Literal["none", "relu", "relu6", "hard_sigmoid"]

_MODULES: dict[type[nn.Module], Kind] = {
    nn.Conv2d: "layer",
    nn.Linear: "layer",
    QuantWeight: "layer",
    nn.ReLU: "relu",
    nn.ReLU6: "relu6",
    nn.Hardswish: "hard_swish",
    QuantHardswish: "hard_swish",
    nn.Hardsigmoid: "hard_sigmoid",
    nn.Sigmoid: "logistic",
    nn.AdaptiveAvgPool2d: "mean",
    nn.Flatten: "flatten",
}
_FUNCTIONS: dict[Callable[..., Any], Kind] = {
    operator.add: "add",
    operator.iadd: "add",
    torch.add: "add",
    operator.mul: "mul",
    operator.imul: "mul",
    torch.mul: "mul",
    torch.mean: "mean",
    torch.flatten: "flatten",
    torch.relu: "relu",
    F.relu: "relu",
    F.relu6: "relu6",
    F.hardswish: "hard_swish",
    F.hardsigmoid: "hard_sigmoid",
    F.sigmoid: "logistic",
    torch.sigmoid: "logistic",
    F.adaptive_avg_pool2d: "mean",
}
_METHODS: dict[str, Kind] = {
    "add": "add",
    "mul": "mul",
    "mean": "mean",
    "flatten": "flatten",
    "relu": "relu",
    "sigmoid": "logistic",
}
_FUSABLE: dict[Kind, tuple[FusedActivation, ...]] = {
    "layer": ("relu", "relu6", "hard_sigmoid"),
    "add": ("relu", "relu6"),
    "mul": ("relu", "relu6"),
}


@dataclass(frozen=True)
class Site:
    """One tensor of the deployed graph and the operation that makes it.

    `inputs` are names of earlier sites; `output_shape` and `input_shape` are NCHW (or NC) with batch 1.
    `layer` is the convolution or linear module of kind "layer", `weight_fake_quant` its weight's. A fused
    "hard_sigmoid" needs no operation of its own: it is a linear map followed by saturation, and the layer's
    requantization does both. `hard_swish` is the module of kind "hard_swish". `normal` is what a BatchNorm
    folded into the layer promised of the float model's output before the activation (equalization leaves it
    as it is), `norm` that BatchNorm.
    """

    name: str
    kind: Kind
    inputs: tuple[str, ...]
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    activation: FusedActivation
    layer: nn.Conv2d | nn.Linear | None
    weight_fake_quant: WeightFakeQuantize | None
    fake_quant: FakeQuantize
    hard_swish: QuantHardswish | None = None
    normal: Normal | None = None
    norm: Norm | None = None

    @property
    def weight_axis(self) -> int | None:
        """0 for a layer with weight scales per output channel, else None."""
        return self.weight_fake_quant.axis if self.weight_fake_quant else None

    @property
    def depthwise(self) -> bool:
        """Whether the layer filters each channel on its own."""
        return isinstance(self.layer, nn.Conv2d) and self.layer.groups > 1


def kind_of(node: fx.Node, modules: dict[str, nn.Module]) -> Kind:
    """What a traced node is; PrepareError naming it when the integer graph has no such operation."""
    found: Kind | None = None
    described = str(node.target)
    if node.op == "placeholder":
        found = "input"
    elif node.op == "output":
        found = "output"
    elif node.op == "call_module":
        module = modules[str(node.target)]
        described = f"{type(module).__name__} {node.target}"
        found = next((kind for cls, kind in _MODULES.items() if isinstance(module, cls)), None)
    elif node.op == "call_function" and callable(node.target):
        described = getattr(node.target, "__name__", described)
        found = _FUNCTIONS.get(node.target)
    elif node.op == "call_method":
        found = _METHODS.get(str(node.target))
    elif node.op == "get_attr":
        described = f"a parameter used outside a layer, {node.target},"
    if found is None:
        raise PrepareError(
            f"{node.name}: {described} cannot be quantized; use one of Conv2d, Linear, BatchNorm2d "
            "after a convolution, ReLU, ReLU6, Hardswish, Hardsigmoid, SiLU, Sigmoid, add, mul, "
            "global average pooling, flatten instead"
        )
    return found


def fused_activation(node: fx.Node, modules: dict[str, nn.Module]) -> fx.Node | None:
    """The activation node that `node`'s requantization absorbs: its only reader, of a kind that saturates."""
    if len(node.users) != 1:
        return None
    reader = next(iter(node.users))
    if reader.op == "output" or is_fake_quant(reader, modules):
        return None
    return reader if kind_of(reader, modules) in _FUSABLE.get(kind_of(node, modules), ()) else None


def is_fake_quant(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    """Whether `node` is an activation FakeQuantize put in by `prepare`."""
    return node.op == "call_module" and isinstance(modules.get(str(node.target)), FakeQuantize)


def read_sites(prepared: fx.GraphModule) -> tuple[Site, ...]:
    """The sites of a prepared GraphModule in execution order."""
    modules = dict(prepared.named_modules())
    sites = []
    for fake_quant_node in prepared.graph.nodes:
        if not is_fake_quant(fake_quant_node, modules):
            continue
        last = fake_quant_node.args[0]
        kind, node, activation = kind_of(last, modules), last, "none"
        if kind in ("relu", "relu6", "hard_sigmoid") and not is_fake_quant(last.args[0], modules):
            node, activation = last.args[0], kind
            kind = kind_of(node, modules)
        inputs = [arg for arg in node.args if isinstance(arg, fx.Node)]
        module = modules.get(str(node.target)) if node.op == "call_module" else None
        weighted = module if isinstance(module, QuantWeight) else None
        fake_quant = modules[str(fake_quant_node.target)]
        assert isinstance(fake_quant, FakeQuantize)
        sites.append(
            Site(
                name=fake_quant.site,
                kind=kind,
                inputs=tuple(source_fake_quant(arg, modules).site for arg in inputs),
                input_shape=shape(_before_flatten(inputs[0], modules)) if inputs else (),
                output_shape=shape(node),
                activation=activation,  # type: ignore[arg-type]
                layer=weighted.layer if weighted else None,
                weight_fake_quant=weighted.weight_fake_quant if weighted else None,
                fake_quant=fake_quant,
                hard_swish=module if isinstance(module, QuantHardswish) else None,
                normal=weighted.normal if weighted else None,
                norm=weighted.norm if weighted else None,
            )
        )
    return tuple(sites)


def output_site(prepared: fx.GraphModule) -> str:
    """Name of the site the network returns."""
    returned = next(n for n in prepared.graph.nodes if n.op == "output").args[0]
    return source_fake_quant(returned, dict(prepared.named_modules())).site


def _before_flatten(node: fx.Node, modules: dict[str, nn.Module]) -> fx.Node:
    while not is_fake_quant(node, modules):
        node = node.args[0]  # type: ignore[assignment]
    return node.args[0]  # type: ignore[return-value]


def source_fake_quant(node: fx.Node, modules: dict[str, nn.Module]) -> FakeQuantize:
    """The FakeQuantize of the tensor that `node` is or flattens."""
    while not is_fake_quant(node, modules):
        node = node.args[0]  # type: ignore[assignment]
    fake_quant = modules[str(node.target)]
    assert isinstance(fake_quant, FakeQuantize)
    return fake_quant
