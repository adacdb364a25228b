"""h-swish whose gate falls on ties: worked by hand, all of them up, as in XNNPACK's ADD."""

import math

import numpy as np
import torch
from torch import nn

from calibration.config import PtqConfig
from calibration.ptq import calibrate
from qmnv3.ir import Add, Metadata, QParams
from qmnv3.lowering import lower
from qmnv3.preprocessing import Preprocessing
from qmnv3.quant.convert import convert
from qmnv3.quant.fake_quant import FakeQuantize, QuantHardswish, fake_quant


def test_ties_of_the_gate_go_up() -> None:
    """Scale 3/15: k steps from 0 the gate is 8.5 k + 127.5 of its own steps, a tie for every even k."""
    source, output = FakeQuantize("x", QParams.per_tensor(3 / 15, 0)), FakeQuantize("y")
    steps = np.arange(-15, 16)
    module = QuantHardswish(source, output)
    with fake_quant(module):
        made = module(torch.from_numpy(steps * np.float32(3 / 15)).reshape(1, -1))
    levels = np.array([min(max(math.floor(8.5 * k + 128), 0), 255) for k in steps])
    np.testing.assert_allclose(made[0], steps * 0.2 * levels / 255, rtol=1e-5, atol=1e-6)


def test_the_gates_constant_is_exact_in_fixed_point() -> None:
    """XNNPACK's ADD rounds scale ratios to 21 bits: 3 must be 127.5 steps of the gate all the same."""
    images = np.random.default_rng(0).uniform(-2, 2, (4, 8, 8, 3)).astype(np.float32)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.Hardswish(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)
    )
    model, spec = model.eval(), Preprocessing(8, 8)
    frozen = calibrate(model, spec, lambda: [images], PtqConfig(level=0)).model
    graph = lower(convert(frozen, Metadata("net", spec)), "xnnpack")
    (add,) = (op for op in graph.ops if isinstance(op, Add))
    three, gate = graph.tensors[add.inputs[1]], graph.tensors[add.output]
    multiplier = round(float(three.qparams.scale) / float(gate.qparams.scale) * 2**20)
    assert int(three.data[0]) * multiplier / 2**20 == 127.5
