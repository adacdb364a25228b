"""LiteRT as the oracle: one QuantGraph as a .tflite, run by the reference kernels or the XNNPACK delegate."""

import platform
from dataclasses import dataclass

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from qmnv3.export.tflite import build_tflite
from qmnv3.ir import QuantGraph

RESOLVERS = {"tflite": OpResolverType.BUILTIN_REF, "xnnpack": OpResolverType.AUTO}

# On ARM the delegate multiplies in fixed point; its microkernels are not what `xnnpack` means here.
needs_x86 = pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64"), reason="XNNPACK's float32 kernels are those of x86"
)


@dataclass(frozen=True)
class Result:
    """Outputs by name, and whether every operation ran in the XNNPACK delegate."""

    outputs: dict[str, np.ndarray]
    delegated: bool


def run_litert(graph: QuantGraph, inputs: dict[str, np.ndarray], semantics: str) -> Result:
    """Run `graph`, already lowered for TFLite, with the kernels that `semantics` names."""
    interpreter = Interpreter(
        model_content=build_tflite(graph),
        num_threads=1,
        experimental_op_resolver_type=RESOLVERS[semantics],
    )
    interpreter.allocate_tensors()
    for detail in interpreter.get_input_details():
        interpreter.set_tensor(detail["index"], inputs[detail["name"]])
    interpreter.invoke()
    outputs = {d["name"]: interpreter.get_tensor(d["index"]) for d in interpreter.get_output_details()}
    # The delegate adds one node after the original ones, so one more means one partition at most.
    names = [detail["op_name"] for detail in interpreter._get_ops_details()]
    return Result(outputs, names.count("DELEGATE") == 1 and len(names) == len(graph.ops) + 1)
