"""Asking for int16: which grids mean it, where it is refused, and what conversion puts around it."""

import numpy as np
import pytest
import torch
from torch import fx, nn

from calibration.config import PtqConfig
from calibration.ptq import calibrate
from qmnv3.errors import PrepareError
from qmnv3.ir import DepthwiseConv2d, Logistic, Mean, Metadata, QParams, QuantGraph, Tensor
from qmnv3.preprocessing import Preprocessing
from qmnv3.quant.affine import (
    HARD_SIGMOID_INT16_QPARAMS,
    SIGMOID_QPARAMS,
    asymmetric_qparams,
    int16_qparams,
    is_int16,
    symmetric_qparams,
)
from qmnv3.quant.convert import convert
from qmnv3.quant.int16 import run_in_int16
from qmnv3.quant.sites import read_sites


@pytest.mark.parametrize(
    ("low", "high", "floor", "scale"),
    [(-3.0, 32767.0, 0.0, 1.0), (-65534.0, 1.0, 0.0, 2.0), (0.0, 0.0, 0.5, 0.5)],
)
def test_the_larger_end_falls_on_32767(low: float, high: float, floor: float, scale: float) -> None:
    q = int16_qparams(low, high, floor=floor)
    assert (float(q.scale), int(q.zero_point), q.qmin, q.qmax) == (scale, 0, -32768, 32767)


def test_only_symmetric_16_bits_mean_int16() -> None:
    assert is_int16(int16_qparams(-1, 1))
    assert is_int16(QParams.per_tensor(1.0, 0, -32767, 32767))
    assert not is_int16(None)
    assert not is_int16(asymmetric_qparams(-1, 1))
    assert not is_int16(QParams.per_tensor(1.0, 7, -32768, 32767))
    assert not is_int16(symmetric_qparams([1.0, 2.0], axis=0, qmax=32767))


def network() -> fx.GraphModule:
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 4, 3), nn.Hardswish(), nn.Conv2d(4, 4, 1), nn.Hardsigmoid(), nn.Conv2d(4, 2, 1))
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    images = np.random.default_rng(0).uniform(-2, 2, (8, 12, 12, 3)).astype(np.float32)
    return calibrate(model.eval(), Preprocessing(12, 12), lambda: [images], PtqConfig(level=1)).model


def converted(site: str, qparams: QParams) -> QuantGraph:
    model = network()
    next(s for s in read_sites(model) if s.name == site).fake_quant.qparams = qparams
    return convert(model, Metadata())


def test_what_touches_the_tensor_runs_in_16_bits_and_nothing_else() -> None:
    graph = converted("1", int16_qparams(-1, 2))
    names = [(type(op).__name__, op.inputs[0], op.output) for op in graph.ops]
    assert names == [
        ("Conv2d", "image", "0"),
        ("Quantize", "0", "0.wide"),
        ("HardSwish", "0.wide", "1"),
        ("Conv2d", "1", "2.fine"),
        ("Quantize", "2.fine", "2"),
        ("Conv2d", "2", "4"),
        ("Mean", "4", "5"),
        ("Flatten", "5", "logits"),
    ]
    tensors = graph.tensors
    assert tensors["1"].dtype == "int16"
    assert float(tensors["0.wide"].qparams.scale) == float(tensors["0"].qparams.scale)
    assert float(tensors["2.fine"].qparams.scale) == float(tensors["2"].qparams.scale) / 128
    # Every int8 value of tensor 2 is a value of 2.fine.
    assert 128 * np.abs(np.array([-128, 127]) - tensors["2"].qparams.zero_point).max() <= 32767


def test_a_grid_down_to_minus_32767_saturates_where_tflite_does() -> None:
    graph = converted("0", QParams.per_tensor(0.001, 0, -32767, 32767))
    assert graph.tensors["0"].qparams == QParams.per_tensor(0.001, 0, -32768, 32767)


@pytest.mark.parametrize(
    ("site", "qparams", "message"),
    [
        ("image", int16_qparams(-2, 2), "image: is the network's input, which is int8"),
        ("5", int16_qparams(-2, 2), "5: is the network's output, which is int8; make an earlier"),
        ("2", int16_qparams(0, 1), "2: hard-sigmoid in int16 has scale 1/32768, not 3.05185e-05"),
    ],
)
def test_where_int16_is_refused(site: str, qparams: QParams, message: str) -> None:
    with pytest.raises(PrepareError, match=message):
        converted(site, qparams)


def test_hard_sigmoid_in_int16_is_clamped_at_0_by_relu() -> None:
    graph = converted("2", HARD_SIGMOID_INT16_QPARAMS)
    layer = graph.producer("2")
    assert layer is not None and layer.activation == "relu"


def test_an_average_that_overflows_32_bits_is_refused() -> None:
    grid = int16_qparams(-1, 1)
    tensors = [Tensor("x", (1, 256, 256, 3), "int16", grid), Tensor("y", (1, 1, 1, 3), "int16", grid)]
    with pytest.raises(PrepareError, match="mean: an int16 average over 256x256 pixels overflows"):
        run_in_int16({t.name: t for t in tensors}, [Mean("mean", ("x",), "y")])


def test_a_sigmoid_of_an_int16_tensor_is_refused() -> None:
    x, y = (
        Tensor("x", (1, 2, 2, 3), "int16", int16_qparams(-1, 1)),
        Tensor("y", (1, 2, 2, 3), "int8", SIGMOID_QPARAMS),
    )
    with pytest.raises(PrepareError, match="gate: a sigmoid runs in 8 bits only; keep x and y int8"):
        run_in_int16({"x": x, "y": y}, [Logistic("gate", ("x",), "y")])


@pytest.mark.parametrize(("weight", "bias_type"), [(127, "int64"), (1, "int32")])
def test_the_bias_is_int64_where_a_sum_may_leave_int32(weight: int, bias_type: str) -> None:
    """600 products of 127 and 32768 do; the fast kernel of LiteRT adds in int32."""
    model = nn.Sequential(nn.Conv2d(3, 600, 1), nn.ReLU(), nn.Conv2d(600, 2, 1), nn.AdaptiveAvgPool2d(1))
    model.append(nn.Flatten())
    model[2].weight.data[:] = weight / 127
    model[2].weight.data[:, 0] = 1.0
    images = np.ones((2, 4, 4, 3), np.float32)
    frozen = calibrate(model.eval(), Preprocessing(4, 4), lambda: [images], PtqConfig(level=1)).model
    next(s for s in read_sites(frozen) if s.name == "0").fake_quant.qparams = int16_qparams(0, 4)
    graph = convert(frozen, Metadata())
    assert graph.tensors["2.bias"].dtype == bias_type
    assert graph.tensors["0.bias"].dtype == "int32"


def test_a_depthwise_bias_is_int64() -> None:
    model = nn.Sequential(nn.Conv2d(3, 3, 3, groups=3), nn.Conv2d(3, 2, 1), nn.AdaptiveAvgPool2d(1))
    model.append(nn.Flatten())
    images = np.random.default_rng(0).uniform(-2, 2, (4, 6, 6, 3)).astype(np.float32)
    frozen = calibrate(model.eval(), Preprocessing(6, 6), lambda: [images], PtqConfig(level=1)).model
    next(s for s in read_sites(frozen) if s.name == "0").fake_quant.qparams = int16_qparams(-4, 4)
    graph = convert(frozen, Metadata())
    assert any(isinstance(op, DepthwiseConv2d) for op in graph.ops)
    assert graph.tensors["0.bias"].dtype == "int64"
