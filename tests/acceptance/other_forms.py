"""Networks of the data pack other than its own checkpoints, as safetensors files the command line takes."""

from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from device_eval.lint.readers.tflite import read_tflite
from qmnv3.models.network import build_model

_GOOGLES = {"padding": "tf_same", "bn_eps": "0.001", "mean": "0.5,0.5,0.5", "std": "0.5,0.5,0.5"}
_LAYERS = ("Conv", "DepthwiseConv", "Gemm", "MatMul", "FullyConnected")


def googles_minimalistic(release: Path, out: Path) -> None:
    """V3-Large minimalistic with the weights of Google's 8-bit release, where BatchNorm is folded.

    BatchNorm is given back as one that only adds the bias.
    """
    graph = read_tflite(release)
    network = build_model("large_minimalistic", num_classes=1001)
    modules = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear | nn.BatchNorm2d)]
    layers = [module for module in modules if not isinstance(module, nn.BatchNorm2d)]
    made = [op for op in graph.ops if op.kind in _LAYERS]
    for layer, op in zip(layers, made, strict=True):
        weight, bias = (_real(graph.tensors[name]) for name in op.inputs[1:3])
        axes = (3, 0, 1, 2) if op.kind == "DepthwiseConv" else (0, 3, 1, 2)
        layer.weight.data.copy_(weight.permute(axes).reshape(layer.weight.shape))
        following = modules[modules.index(layer) + 1] if layer is not modules[-1] else None
        if isinstance(following, nn.BatchNorm2d):
            following.weight.data.fill_((1.0 + following.eps) ** 0.5)
            following.bias.data.copy_(bias)
        else:
            assert layer.bias is not None
            layer.bias.data.copy_(bias)
    state = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    save_file(state, out, metadata=_GOOGLES)


def in_relu_form(weights: Path, out: Path) -> None:
    """The same weights with ReLU for h-swish: not trained for it, but a network with a prediction to keep."""
    with safe_open(weights, "pt") as file:
        metadata = file.metadata() | {"nonlinearity": "relu"}
        save_file({name: file.get_tensor(name) for name in file.keys()}, out, metadata=metadata)  # noqa: SIM118


def _real(tensor) -> torch.Tensor:
    integers = tensor.data.astype(np.float64) - tensor.grid.zero_point[0]
    return torch.from_numpy(integers * tensor.grid.scale[0]).float()
