"""torchao's PT2E quantization for x86 (X86InductorQuantizer), saved as a .pt2.

`python -m benchmarks.contenders.torchao_pt2e MODEL WEIGHTS|- IMAGES.npy OUT.pt2 int8|float32`
"""

import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, fx, nn
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
from torchao.quantization.pt2e.quantizer.x86_inductor_quantizer import (
    X86InductorQuantizer,
    get_default_x86_inductor_quantization_config,
)

from qmnv3.models.padding import Conv2dSame, same_padding_1d
from qmnv3.models.weights import load_model


def main(model: str, weights: str, images: Path, out: Path, precision: str) -> None:
    network = load_model(model, None if weights == "-" else Path(weights)).model.eval()
    data = np.load(images, mmap_mode="r")
    example = _nchw(data[0])
    with torch.no_grad():
        _split_padding(network, example)
        program = torch.export.export(network, (example,))
        if precision == "int8":
            program = _quantized(program, data, example)
        torch.export.save(program, out)


def _quantized(
    program: torch.export.ExportedProgram, data: npt.NDArray[np.float32], example: Tensor
) -> torch.export.ExportedProgram:
    quantizer = X86InductorQuantizer()
    quantizer.set_global(get_default_x86_inductor_quantization_config())
    prepared = prepare_pt2e(program.module(), quantizer)
    for image in data:
        prepared(_nchw(image))
    converted = convert_pt2e(prepared)
    _drop_unused(converted)
    return torch.export.export(converted, (example,))


def _split_padding(network: nn.Module, example: Tensor) -> None:
    """Make TensorFlow SAME padding a module of its own: inside a convolution's, torchao leaves both float."""
    sizes: dict[nn.Module, torch.Size] = {}
    found = [(name, module) for name, module in network.named_modules() if isinstance(module, Conv2dSame)]
    for _, module in found:
        module.register_forward_pre_hook(lambda layer, inputs: sizes.update({layer: inputs[0].shape}))
    network(example)
    for name, layer in found:
        network.set_submodule(name, _padded(layer, *sizes[layer][2:]))


def _padded(layer: Conv2dSame, height: int, width: int) -> nn.Module:
    (kernel_h, kernel_w), stride, dilation = layer.kernel_size, layer.stride, layer.dilation
    top, bottom = same_padding_1d(height, kernel_h, stride[0], dilation[0])
    left, right = same_padding_1d(width, kernel_w, stride[1], dilation[1])
    symmetric = (top, left) == (bottom, right)
    convolution = nn.Conv2d(
        layer.in_channels,
        layer.out_channels,
        (kernel_h, kernel_w),
        (stride[0], stride[1]),
        (top, left) if symmetric else 0,
        (dilation[0], dilation[1]),
        layer.groups,
        layer.bias is not None,
    )
    convolution.load_state_dict(layer.state_dict())
    return convolution if symmetric else nn.Sequential(nn.ZeroPad2d((left, right, top, bottom)), convolution)


def _drop_unused(converted: fx.GraphModule) -> None:
    """Remove the float weights that conversion leaves beside the int8 ones: they would count in the size."""
    used = {str(node.target) for node in converted.graph.nodes if node.op == "get_attr"}
    for name, _ in list(converted.named_parameters()):
        if name not in used:
            path, _, leaf = name.rpartition(".")
            delattr(converted.get_submodule(path), leaf)


def _nchw(image: npt.NDArray[np.float32]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)[None]))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4]), sys.argv[5])
