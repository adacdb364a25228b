"""Equalized h-swish as integer operations: a 1x1 depthwise convolution for the gate, then a multiplication.

With channel c of the input a_c times its true value, the gate relu6(x / a_c + 3) / 6 is a depthwise
convolution with weight 1 / (6 a_c) and bias 1/2 whose output grid ends at 0 and 1, so saturating clamps.
"""

import numpy as np
import numpy.typing as npt

from qmnv3.ir import DepthwiseConv2d, Mul, Op, QParams, Tensor
from qmnv3.quant.affine import (
    HARD_SWISH_GATE_INT16_QPARAMS,
    HARD_SWISH_GATE_QPARAMS,
    INT8_MAX,
    is_int16,
)

FloatArray = npt.NDArray[np.float32]


def equalized_hard_swish(
    name: str, x: Tensor, output: Tensor, factors: npt.NDArray[np.float32]
) -> tuple[list[Tensor], list[Op]]:
    """Tensors and operations that compute `output` from `x` [1, H, W, C] with `factors` [C].

    The gate is int16 where x or output is. The weight is 127 in every channel: its scale carries 1 / (6 a_c).
    """
    assert x.qparams is not None
    wide = is_int16(x.qparams) or is_int16(output.qparams)
    gate_qparams = (HARD_SWISH_GATE_INT16_QPARAMS if wide else HARD_SWISH_GATE_QPARAMS).scaled(1.0 / 6.0)
    channels = factors.size
    weight_qparams, bias_qparams = gate_grids(factors, x.qparams)
    weight_data = np.full((1, 1, 1, channels), INT8_MAX, np.int8)
    bias_data = bias_qparams.quantize(np.full(channels, 0.5))
    weight = Tensor(f"{name}.gate.weight", weight_data.shape, "int8", weight_qparams, weight_data)
    bias = Tensor(f"{name}.gate.bias", (channels,), "int32", bias_qparams, bias_data)
    gate = Tensor(f"{name}.gate", x.shape, "int16" if wide else "int8", gate_qparams)
    ops: list[Op] = [
        DepthwiseConv2d(
            gate.name, (x.name, weight.name, bias.name), gate.name, activation="relu" if wide else "none"
        ),
        Mul(name, (x.name, gate.name), output.name),
    ]
    return [weight, bias, gate, output], ops


def gate_grids(factors: npt.NDArray[np.float32], x: QParams) -> tuple[QParams, QParams]:
    """Grids of the gate's weight (127 everywhere, so 1 / (6 a_c)) and of its bias, which is near 1/2."""
    scale = (1.0 / (6.0 * INT8_MAX * factors.astype(np.float64))).astype(np.float32)
    weight = QParams(scale, np.zeros(factors.size, np.int32), -INT8_MAX, INT8_MAX, 3)
    return weight, QParams.bias(x, weight)


def gate_integers(
    factors: npt.NDArray[np.float32], x: QParams, gate: QParams
) -> tuple[FloatArray, FloatArray]:
    """Bias and requantization multiplier [C], so that the gate's level is (127 * q_x + bias) * multiplier.

    `gate` is the grid of relu6(x + 3), six times that of the deployed gate. In float32, as XNNPACK computes.
    """
    _, bias = gate_grids(factors, x)
    levels = bias.quantize(np.full(factors.size, 0.5)).astype(np.float32)
    return levels, bias.scale / gate.scaled(1.0 / 6.0).scale
