"""Lowered graphs run in LiteRT and ONNX Runtime and agree with the float network; one XNNPACK partition."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from quant.nets import TinyNet, randomize
from torch import nn

from calibration.config import PtqConfig
from calibration.ptq import calibrate
from device_eval.partitions import delegate_partitions
from qmnv3.export.onnx_qdq import write_onnx
from qmnv3.export.tflite import write_tflite
from qmnv3.ir import HardSwish, Metadata, Mul, QuantGraph
from qmnv3.lowering import lower
from qmnv3.preprocessing import Preprocessing
from qmnv3.quant.convert import convert

SPEC = Preprocessing(32, 36)
# 8-bit noise of a few layers, relative to the largest logit.
INT8_TOLERANCE = 0.06


class Residual(nn.Module):
    """h-swish meets a residual sum in every way: with a convolution, with another h-swish, at the output."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.stem = nn.Conv2d(3, 8, 3, 2, 1)
        self.other = nn.Conv2d(8, 8, 3, 1, 1)
        self.head = nn.Conv2d(8, 5, 1)
        self.hard_swish = nn.Hardswish()
        self.hard_sigmoid = nn.Hardsigmoid()
        self.pool = nn.AdaptiveAvgPool2d(1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        h = self.hard_swish(x)
        match self.kind:
            case "convolution":
                h = h + self.other(h)
            case "two h-swishes":
                h = h + self.hard_swish(self.other(h))
            case "shared":
                y = self.other(h)
                h = (h + y) * y
            case "hard-sigmoid after a sum":
                h = h * self.hard_sigmoid(h + self.other(h))
            case "swish of a sum":
                h = F.silu(h + self.other(h))
            case "output":
                return self.hard_swish(self.head(self.pool(h))).flatten(1)
        return self.head(self.pool(h)).flatten(1)


KINDS = ["convolution", "two h-swishes", "shared", "hard-sigmoid after a sum", "swish of a sum", "output"]


def quantize(model: nn.Module) -> tuple[QuantGraph, QuantGraph, np.ndarray, np.ndarray]:
    images = np.random.default_rng(0).uniform(-2, 2, (16, 32, 32, 3)).astype(np.float32)
    frozen = calibrate(model, SPEC, lambda: [images], PtqConfig(level=1)).model
    expected = model(torch.from_numpy(images).permute(0, 3, 1, 2)).detach().numpy()
    return convert(frozen, Metadata()), convert(frozen, Metadata(), "float32"), images, expected


def run_tflite(path: Path, images: np.ndarray, resolver: OpResolverType) -> np.ndarray:
    interpreter = Interpreter(str(path), experimental_op_resolver_type=resolver)
    interpreter.allocate_tensors()
    source, sink = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    rows = []
    for image in images:
        interpreter.set_tensor(source["index"], image[None])
        interpreter.invoke()
        rows.append(interpreter.get_tensor(sink["index"])[0])
    return np.stack(rows)


def close(got: np.ndarray, expected: np.ndarray, tolerance: float) -> bool:
    return float(np.abs(got - expected).max()) <= tolerance * float(np.abs(expected).max())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("target", ["xnnpack", "tflite-builtin"])
def test_every_residual_form_runs_in_litert(kind: str, target, tmp_path: Path) -> None:
    int8, float32, images, expected = quantize(Residual(kind).eval())
    write_tflite(lower(int8, target, "float32"), tmp_path / "int8.tflite")
    write_tflite(lower(float32, target), tmp_path / "float32.tflite")
    for resolver in (OpResolverType.BUILTIN, OpResolverType.BUILTIN_REF):
        assert close(run_tflite(tmp_path / "int8.tflite", images, resolver), expected, INT8_TOLERANCE)
        assert close(run_tflite(tmp_path / "float32.tflite", images, resolver), expected, 1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_every_residual_form_runs_in_onnxruntime(kind: str, tmp_path: Path) -> None:
    int8, float32, images, expected = quantize(Residual(kind).eval())
    write_onnx(lower(int8, "ort", "float32"), tmp_path / "int8.onnx")
    write_onnx(lower(float32, "ort"), tmp_path / "float32.onnx")
    for name, tolerance in (("int8", INT8_TOLERANCE), ("float32", 1e-4)):
        session = onnxruntime.InferenceSession(str(tmp_path / f"{name}.onnx"))
        got = session.run(None, {session.get_inputs()[0].name: images.transpose(0, 3, 1, 2)})[0]
        assert close(got, expected, tolerance)


@pytest.mark.parametrize("kind", KINDS)
def test_xnnpack_takes_the_whole_graph(kind: str, tmp_path: Path) -> None:
    int8, _, _, _ = quantize(Residual(kind).eval())
    write_tflite(lower(int8, "xnnpack"), tmp_path / "int8.tflite")
    partitions = delegate_partitions(tmp_path / "int8.tflite")
    assert (partitions.count, partitions.undelegated) == (1, ())


def test_builtin_keeps_the_hard_swish_operation() -> None:
    int8, _, _, _ = quantize(randomize(TinyNet()))
    kept = [op for op in lower(int8, "tflite-builtin").ops if isinstance(op, HardSwish)]
    gone = [op for op in lower(int8, "xnnpack").ops if isinstance(op, HardSwish)]
    assert (len(kept), len(gone)) == (3, 0)


def test_the_factor_six_is_declared_on_the_product_and_taken_up_by_the_weights() -> None:
    int8, _, _, _ = quantize(randomize(TinyNet()))
    lowered = lower(int8, "ort")
    assert any(isinstance(op, Mul) and op.name == "expand.2" for op in lowered.ops)
    before, after = int8.tensors, lowered.tensors
    np.testing.assert_allclose(
        after["expand.2"].qparams.scale, 6 * before["expand.2"].qparams.scale, rtol=1e-6
    )
    weight = "depthwise.0.weight"
    np.testing.assert_allclose(after[weight].qparams.scale * 6, before[weight].qparams.scale, rtol=1e-6)
    np.testing.assert_array_equal(after[weight].data, before[weight].data)
    np.testing.assert_array_equal(after["depthwise.0.bias"].data, before["depthwise.0.bias"].data)


@pytest.mark.parametrize("interface", ["int8", "uint8", "float32"])
def test_interface_types_give_the_same_logits(interface, tmp_path: Path) -> None:
    int8, _, images, _ = quantize(randomize(TinyNet()))
    write_tflite(lower(int8, "xnnpack", interface), tmp_path / "model.tflite")
    grid = int8.tensors["image"].qparams
    q = grid.quantize(images)
    fed = {"int8": q.astype(np.int8), "uint8": (q + 128).astype(np.uint8), "float32": images}[interface]
    got = run_tflite(tmp_path / "model.tflite", fed, OpResolverType.BUILTIN)
    out = int8.tensors["logits"].qparams
    real = {
        "int8": lambda: out.dequantize(got),
        "uint8": lambda: out.dequantize(got.astype(np.int32) - 128),
        "float32": lambda: got,
    }[interface]()
    write_tflite(lower(int8, "xnnpack", "int8"), tmp_path / "plain.tflite")
    plain = run_tflite(tmp_path / "plain.tflite", q.astype(np.int8), OpResolverType.BUILTIN)
    np.testing.assert_allclose(real, out.dequantize(plain), atol=1e-6)
