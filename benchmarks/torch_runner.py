"""Exported PyTorch programs (.pt2) compiled by Inductor, as a Runner that device_eval can judge and time."""

from collections import Counter
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, fx
from torch._inductor import config as inductor_config
from torch.export import ExportedProgram

from device_eval.runners.interface import FloatArray, InputDescription, OutputKind
from qmnv3.ir import Metadata

# Values are handed on, regrouped or clamped: all of it commutes with quantization.
_NO_ARITHMETIC = frozenset(
    [
        "pad",
        "flatten",
        "view",
        "reshape",
        "permute",
        "dropout",
        "relu",
        "relu_",
        "relu6",
        "hardtanh",
        "hardtanh_",
    ]
)


class TorchRunner:
    """One .pt2 of fixed batch 1, compiled with frozen weights as PyTorch's x86 quantization is deployed."""

    runtime = "PyTorch Inductor"
    output_kind: OutputKind = "logits"
    metadata: Metadata | None = None

    def __init__(self, path: Path) -> None:
        self.path = path
        # Without freezing Inductor folds no weight and lowers no convolution to int8.
        inductor_config.freezing = True
        torch.set_num_threads(1)
        program = load_program(path)
        self._compiled = torch.compile(program.module())
        image, logits = _shapes(program)
        self.input = InputDescription(image[-1], "float32")
        self.num_outputs = logits[-1]
        self._staged = torch.empty(0)
        self._fetched = torch.empty(0)

    def stage(self, images: FloatArray) -> None:
        """Hand in one normalised image [1, H, W, 3]."""
        self._staged = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2)

    def invoke(self) -> None:
        """Execute the network on what was staged."""
        with torch.no_grad():
            self._fetched = self._compiled(self._staged)

    def run(self, images: FloatArray) -> FloatArray:
        """Outputs [N, num_outputs] of normalised images [N, H, W, 3], one after the other."""
        rows: list[FloatArray] = []
        for image in images:
            self.stage(image[None])
            self.invoke()
            rows.append(self._fetched.numpy())
        return np.concatenate(rows)


def load_program(path: Path) -> ExportedProgram:
    """Read a .pt2 that torchao may have quantized."""
    import torchao.quantization.pt2e  # noqa: F401  registers the operators a quantized program calls

    return torch.export.load(path)


def float_operations(program: ExportedProgram) -> dict[str, int]:
    """Operations by name that compute with a float activation which was not just dequantized.

    One operation between dequantization and quantization can run in integers; a second one reads float.
    """
    images = set(program.graph_signature.user_inputs)
    counts = Counter(
        _name(node)
        for node in program.graph.nodes
        if _computes(node) and any(_is_float_activation(source, images) for source in node.all_input_nodes)
    )
    return dict(counts.most_common())


def _is_float_activation(source: fx.Node, images: set[object]) -> bool:
    while source.op == "call_function" and _name(source) in _NO_ARITHMETIC:
        source = source.all_input_nodes[0]
    return _computes(source) or source.name in images


def _computes(node: fx.Node) -> bool:
    name = _name(node)
    return node.op == "call_function" and "quantize" not in name and name not in _NO_ARITHMETIC


def _name(node: fx.Node) -> str:
    """`conv2d` of aten.conv2d.default."""
    parts = str(node.target).split(".")
    return parts[1] if len(parts) > 1 else parts[0]


def _shapes(program: ExportedProgram) -> tuple[list[int], list[int]]:
    """Shapes of the image and of the logits."""
    values = {node.name: node.meta.get("val") for node in program.graph.nodes}
    signature = program.graph_signature
    image, logits = values[str(signature.user_inputs[0])], values[str(signature.user_outputs[0])]
    assert isinstance(image, Tensor) and isinstance(logits, Tensor)
    return list(image.shape), list(logits.shape)
