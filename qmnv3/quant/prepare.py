"""Float nn.Module in, GraphModule out: one FakeQuantize for every tensor of the deployed graph."""

import copy
from typing import Literal

import torch
from torch import fx, nn

from qmnv3.errors import PrepareError
from qmnv3.preprocessing import Preprocessing
from qmnv3.quant.affine import SIGMOID_QPARAMS, asymmetric_qparams
from qmnv3.quant.fake_quant import FakeQuantize, QuantHardswish, QuantWeight, WeightBits
from qmnv3.quant.fold import Norm, fold_all
from qmnv3.quant.sites import Kind, fused_activation, kind_of, source_fake_quant
from qmnv3.quant.trace import shape, trace

WeightGranularity = Literal["per_channel", "per_tensor"]
INPUT_SITE = "image"


def prepare(
    model: nn.Module,
    preprocessing: Preprocessing,
    weights: WeightGranularity = "per_channel",
    bits: WeightBits = 8,
) -> fx.GraphModule:
    """Trace a copy of `model`, fold BatchNorm, and insert FakeQuantize modules (all switched off).

    The result computes what `model` does in eval mode until fake-quant is enabled. The input's grid covers
    every pixel value `preprocessing` can produce; those of sigmoid and hard-sigmoid have scale 1/256, zero
    point -128. Weights take 255 levels, or with 4 `bits` 15.
    Raises PrepareError naming the node for an operation the integer graph cannot hold, and for NaN weights.
    """
    _check_weights(model)
    module = trace(copy.deepcopy(model), preprocessing.resolution)
    norms = fold_all(module)
    modules = dict(module.named_modules())
    kinds = {node: kind_of(node, modules) for node in module.graph.nodes}
    _check_interface(module, kinds)
    readers = {node: fused_activation(node, modules) for node in module.graph.nodes}
    fused = {reader: node for node, reader in readers.items() if reader is not None}
    for node in module.graph.nodes:
        _check_node(node, kinds[node], modules, fused)
    axis = 0 if weights == "per_channel" else None
    names = _site_names(module.graph)
    for node in list(module.graph.nodes):
        kind = kinds[node]
        if kind in ("output", "flatten") or readers[node] is not None:
            continue
        fake_quant = _fake_quant_for(kind, names[fused.get(node, node)], preprocessing)
        _insert_fake_quant(module, node, fake_quant)
    for node in list(module.graph.nodes):
        if kinds.get(node) == "layer":
            reader = readers[node]
            hard_sigmoid = reader is not None and kinds[reader] == "hard_sigmoid"
            _quantize_weight(module, node, axis, hard_sigmoid, norms.get(str(node.target)), bits)
        elif kinds.get(node) == "hard_swish":
            _quantize_hard_swish(module, node)
    module.graph.lint()
    module.recompile()
    return module


def _fake_quant_for(kind: Kind, name: str, preprocessing: Preprocessing) -> FakeQuantize:
    if kind == "input":
        return FakeQuantize(INPUT_SITE, asymmetric_qparams(*preprocessing.input_range))
    return FakeQuantize(name, SIGMOID_QPARAMS if kind in ("hard_sigmoid", "logistic") else None)


def _site_names(graph: fx.Graph) -> dict[fx.Node, str]:
    """Module path where a module makes the tensor and is called once, else the fx node's name."""
    targets = [str(node.target) for node in graph.nodes if node.op == "call_module"]
    return {
        node: str(node.target)
        if node.op == "call_module" and targets.count(str(node.target)) == 1
        else node.name
        for node in graph.nodes
    }


def _insert_fake_quant(module: fx.GraphModule, node: fx.Node, fake_quant: FakeQuantize) -> None:
    target = f"fake_quant_{node.name}"
    module.add_submodule(target, fake_quant)
    with module.graph.inserting_after(node):
        inserted = module.graph.call_module(target, (node,))
    inserted.meta = dict(node.meta)
    node.replace_all_uses_with(inserted, delete_user_cb=lambda user: user is not inserted)


def _quantize_weight(
    module: fx.GraphModule,
    node: fx.Node,
    axis: int | None,
    hard_sigmoid: bool,
    norm: Norm | None,
    bits: WeightBits,
) -> None:
    path = str(node.target)
    layer, given = module.get_submodule(path), node.args[0]
    if isinstance(layer, QuantWeight):
        raise PrepareError(f"{path}: is called twice, but its bias has one scale; make it two layers")
    assert isinstance(layer, nn.Conv2d | nn.Linear) and isinstance(given, fx.Node)
    source = source_fake_quant(given, dict(module.named_modules()))
    module.delete_submodule(path)
    module.add_submodule(path, QuantWeight(layer, axis, source, hard_sigmoid, norm, bits))


def _quantize_hard_swish(module: fx.GraphModule, node: fx.Node) -> None:
    modules = dict(module.named_modules())
    given, (reader,) = node.args[0], node.users
    assert isinstance(given, fx.Node)
    tensors = source_fake_quant(given, modules), source_fake_quant(reader, modules)
    _replace_call(module, node, f"{node.name}_quant", QuantHardswish(*tensors))


def _replace_call(module: fx.GraphModule, node: fx.Node, target: str, value: nn.Module) -> None:
    module.add_submodule(target, value)
    with module.graph.inserting_after(node):
        replacement = module.graph.call_module(target, (node.args[0],))
    replacement.meta = dict(node.meta)
    node.replace_all_uses_with(replacement)
    module.graph.erase_node(node)


def _check_weights(model: nn.Module) -> None:
    for name, value in model.state_dict().items():
        if not value.is_floating_point():
            continue
        if value.dtype != torch.float32 or value.device.type != "cpu":
            raise PrepareError(
                f"{name}: weight is {value.dtype} on {value.device}; make the model float32 on the CPU"
            )
        if not torch.isfinite(value).all():
            raise PrepareError(f"{name}: weight holds NaN or infinity; the checkpoint is damaged or diverged")


def _check_interface(module: fx.GraphModule, kinds: dict[fx.Node, Kind]) -> None:
    inputs = [node.name for node, kind in kinds.items() if kind == "input"]
    if len(inputs) != 1:
        raise PrepareError(f"model takes {len(inputs)} inputs {inputs}; only one image input is supported")
    returned = next(node for node, kind in kinds.items() if kind == "output").args[0]
    if not isinstance(returned, fx.Node):
        raise PrepareError(f"model returns {type(returned).__name__}; return one tensor of logits")


def _check_node(
    node: fx.Node, kind: Kind, modules: dict[str, nn.Module], fused: dict[fx.Node, fx.Node]
) -> None:
    if kind == "layer":
        _check_layer(node, modules[str(node.target)])
    elif kind in ("add", "mul"):
        if len(node.args) != 2 or node.kwargs or not all(isinstance(a, fx.Node) for a in node.args):
            raise PrepareError(f"{node.name}: {kind} needs two tensors, got {node.args} {node.kwargs or ''}")
    elif kind == "mean":
        n, c = shape(node.args[0])[:2]  # type: ignore[arg-type]
        if len(shape(node.args[0])) != 4 or shape(node) not in ((n, c, 1, 1), (n, c)):  # type: ignore[arg-type]
            raise PrepareError(f"{node.name}: only global average pooling to 1x1 can be quantized")
    elif kind == "flatten" and len(shape(node)) != 2:
        raise PrepareError(f"{node.name}: flatten must keep only the batch dimension (start_dim=1)")
    elif kind in ("relu", "relu6") and node not in fused:
        raise PrepareError(f"{node.name}: {kind} must directly follow a convolution, linear, add or mul")


def _check_layer(node: fx.Node, layer: nn.Module) -> None:
    if isinstance(layer, nn.Conv2d):
        depthwise = layer.groups == layer.in_channels == layer.out_channels
        if layer.groups != 1 and not depthwise:
            raise PrepareError(
                f"{node.target}: groups={layer.groups} with {layer.in_channels} to {layer.out_channels} "
                "channels; only groups=1 and depthwise (groups = channels in = channels out) can be quantized"
            )
        if layer.padding_mode != "zeros":
            raise PrepareError(
                f"{node.target}: padding_mode={layer.padding_mode!r}; only 'zeros' is supported"
            )
    elif isinstance(layer, nn.Linear) and len(shape(node)) != 2:
        raise PrepareError(f"{node.target}: Linear on a {len(shape(node))}-d tensor; flatten to 2-d first")
