"""Whole MobileNetV3 networks, quantized with the project's own PTQ, for comparing runtimes."""

from dataclasses import dataclass

import numpy as np
import torch
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from torch import fx, nn

from calibration.config import PtqConfig
from calibration.ptq import calibrate
from qmnv3.export.tflite import build_tflite
from qmnv3.ir import Metadata, QuantGraph
from qmnv3.models.config import ModelOptions
from qmnv3.models.network import build_model
from qmnv3.preprocessing import Preprocessing
from qmnv3.quant.convert import convert

SPEC = Preprocessing(224, 256, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


@dataclass(frozen=True, eq=False)
class Quantized:
    """A frozen fake-quantized model and the canonical graph of its integers."""

    frozen: fx.GraphModule
    graph: QuantGraph


def random_network(name: str, options: ModelOptions) -> Quantized:
    """`name` with random weights whose BatchNorm statistics fit them, calibrated on noise."""
    model = build_model(name, seed=0, **options)
    noise = np.random.default_rng(0).uniform(-1, 1, (8, 224, 224, 3)).astype(np.float32)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # a plain average of what it sees
    with torch.no_grad():
        model.train()(torch.from_numpy(noise).permute(0, 3, 1, 2))
    return quantized(model.eval(), SPEC, [noise])


def quantized(model: nn.Module, spec: Preprocessing, batches: list[np.ndarray]) -> Quantized:
    """`model` calibrated on `batches` with the default recipe."""
    frozen = calibrate(model, spec, lambda: batches, PtqConfig()).model
    return Quantized(frozen, convert(frozen, Metadata("net", spec)))


def litert_tensors(graph: QuantGraph, x: np.ndarray, resolver: OpResolverType) -> dict[str, np.ndarray]:
    """Every activation of `graph`, by name, as LiteRT computes it from `x`."""
    interpreter = Interpreter(
        model_content=build_tflite(graph),
        num_threads=1,
        experimental_op_resolver_type=resolver,
        experimental_preserve_all_tensors=True,
    )
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], x)
    interpreter.invoke()
    wanted = {op.output for op in graph.ops}
    return {
        detail["name"]: interpreter.get_tensor(detail["index"])
        for detail in interpreter.get_tensor_details()
        if detail["name"] in wanted
    }
