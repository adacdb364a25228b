"""Prepared GraphModule to QuantGraph: integers where every site has its grid, or the float parent."""

from dataclasses import replace
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import fx, nn

from qmnv3.errors import PrepareError
from qmnv3.ir import (
    Activation,
    Add,
    Conv2d,
    DepthwiseConv2d,
    Flatten,
    HardSigmoid,
    HardSwish,
    Logistic,
    Mean,
    Metadata,
    Mul,
    Op,
    QParams,
    QuantGraph,
    Tensor,
)
from qmnv3.ir.graph import DType
from qmnv3.quant.affine import HARD_SIGMOID_INT16_QPARAMS, INT16_MIN, is_int16
from qmnv3.quant.equalized_gate import equalized_hard_swish
from qmnv3.quant.geometry import layer_geometry
from qmnv3.quant.int16 import run_in_int16
from qmnv3.quant.sites import Site, output_site, read_sites

Precision = Literal["int8", "float32"]
OUTPUT_NAME = "logits"
# int32 bias with headroom for the accumulator it is added to.
BIAS_LIMIT = 2.0**30
FloatArray = npt.NDArray[np.float32]


def convert(prepared: fx.GraphModule, metadata: Metadata, precision: Precision = "int8") -> QuantGraph:
    """Lower a prepared model to the QuantGraph of its integers, or with "float32" to its float parent.

    Every FakeQuantize must hold qparams for "int8" (calibrate first), else PrepareError. One that holds
    `affine.int16_qparams` makes its tensor int16 and what touches it run in 16 bits; the network's input and
    output cannot be, and a hard-sigmoid only as HARD_SIGMOID_INT16_QPARAMS. Linear layers become 1x1 (or,
    after flattening a map, HxW) convolutions.
    """
    builder = _Builder(precision)
    for site in read_sites(prepared):
        builder.add_site(site)
    return builder.finish(output_site(prepared), metadata)


_UNARY: dict[str, type[Mean | HardSwish | HardSigmoid | Logistic]] = {
    "mean": Mean,
    "hard_swish": HardSwish,
    "hard_sigmoid": HardSigmoid,
    "logistic": Logistic,
}


class _Builder:
    def __init__(self, precision: Precision) -> None:
        self.integer = precision == "int8"
        self.tensors: dict[str, Tensor] = {}
        self.ops: list[Op] = []

    def add_site(self, site: Site) -> None:
        qparams = site.fake_quant.qparams if self.integer else None
        if self.integer and qparams is None:
            raise PrepareError(f"{site.name}: has no scale yet; calibrate before converting")
        if is_int16(qparams):
            _check_int16(site)
        activation: Activation = "none" if site.activation == "hard_sigmoid" else site.activation
        if site.activation == "hard_sigmoid" and is_int16(qparams):
            activation = "relu"  # int8 ends at 0; int16 is symmetric
        name, inputs = site.name, site.inputs
        if site.kind == "layer":
            self._add_layer(site, activation, qparams)
            return
        if site.hard_swish is not None and site.hard_swish.factors is not None:
            self._add_equalized_hard_swish(site, site.hard_swish.factors, qparams)
            return
        op: Op | None = None
        if site.kind in ("add", "mul"):
            op = (Add if site.kind == "add" else Mul)(name, inputs, name, activation)
        elif site.kind in _UNARY:
            op = _UNARY[site.kind](name, inputs, name)
        self._add_activation(name, _nhwc(site.output_shape), qparams)
        if op is not None:
            self.ops.append(op)

    def _add_layer(self, site: Site, activation: Activation, qparams: QParams | None) -> None:
        layer = site.layer
        assert layer is not None
        weight, depthwise = _weight_nhwc(layer, site.input_shape)
        bias = np.zeros(weight.shape[-1 if depthwise else 0], np.float32)
        if layer.bias is not None:
            bias = layer.bias.detach().numpy().copy()
        raw = f"{site.name}.linear" if site.activation == "hard_sigmoid" and not self.integer else site.name
        inputs = (site.inputs[0], f"{site.name}.weight", f"{site.name}.bias")
        if self.integer:
            self._add_integer_constants(site, weight, bias, depthwise)
        else:
            self._add_constant(inputs[1], weight, None)
            self._add_constant(inputs[2], bias, None)
        self._add_activation(raw, _nhwc(site.output_shape), qparams)
        kind = DepthwiseConv2d if depthwise else Conv2d
        geometry = layer_geometry(layer, site.input_shape)
        self.ops.append(kind(site.name, inputs, raw, *geometry, activation))
        if raw != site.name:
            self._add_activation(site.name, _nhwc(site.output_shape), None)
            self.ops.append(HardSigmoid(f"{site.name}.hard_sigmoid", (raw,), site.name))

    def _add_equalized_hard_swish(self, site: Site, factors: torch.Tensor, qparams: QParams | None) -> None:
        if not self.integer:
            raise PrepareError(f"{site.name}: is equalized; convert the float parent before equalization")
        self._add_activation(site.name, _nhwc(site.output_shape), qparams)
        x, output = self.tensors[site.inputs[0]], self.tensors[site.name]
        tensors, ops = equalized_hard_swish(site.name, x, output, factors.numpy())
        self.tensors |= {tensor.name: tensor for tensor in tensors}
        self.ops += ops

    def _add_integer_constants(
        self, site: Site, weight: FloatArray, bias: FloatArray, depthwise: bool
    ) -> None:
        """Quantize weight and bias; a fused hard-sigmoid x/6 + 1/2 goes into their scales and the bias."""
        input_qparams = self.tensors[site.inputs[0]].qparams
        assert input_qparams is not None
        real_bias = bias.astype(np.float64)
        factor = 1.0
        if site.activation == "hard_sigmoid":
            real_bias, factor = real_bias / 6.0 + 0.5, 1.0 / 6.0
        per_channel = site.weight_axis is not None
        channel_axis = 3 if depthwise else 0
        assert site.layer is not None and site.weight_fake_quant is not None
        own = site.weight_fake_quant.qparams(site.layer.weight)
        bias_floor = np.abs(real_bias) / (float(input_qparams.scale) * BIAS_LIMIT) / factor
        floor = bias_floor if per_channel else bias_floor.max()
        scale = np.maximum(own.scale, floor)
        grid = replace(own, scale=scale, axis=channel_axis if per_channel else None)
        weight_i8 = grid.quantize(weight).astype(np.int8)
        weight_qparams = grid.scaled(factor)
        bias_qparams = QParams.bias(input_qparams, weight_qparams)
        self._add_constant(f"{site.name}.weight", weight_i8, weight_qparams)
        self._add_constant(f"{site.name}.bias", bias_qparams.quantize(real_bias), bias_qparams)

    def _add_activation(self, name: str, shape: tuple[int, ...], qparams: QParams | None) -> None:
        dtype: DType = "int8" if self.integer else "float32"
        if qparams is not None and is_int16(qparams):
            # TFLite saturates there, whether or not the grid was frozen with -32767.
            dtype, qparams = "int16", replace(qparams, qmin=INT16_MIN)
        self.tensors[name] = Tensor(name, shape, dtype, qparams)

    def _add_constant(self, name: str, data: npt.NDArray[np.generic], qparams: QParams | None) -> None:
        dtype = str(data.dtype)
        self.tensors[name] = Tensor(name, data.shape, dtype, qparams, data)  # type: ignore[arg-type]

    def finish(self, output: str, metadata: Metadata) -> QuantGraph:
        source = self.tensors[output]
        if source.shape[1:3] != (1, 1):
            height, width = source.shape[1:3]
            raise PrepareError(f"{output}: model returns a {height}x{width} map; return [batch, classes]")
        if source.dtype == "int16":
            raise PrepareError(
                f"{output}: is the network's output, which is int8; make an earlier tensor int16"
            )
        self._add_activation(OUTPUT_NAME, (1, source.shape[3]), source.qparams)
        self.ops.append(Flatten(OUTPUT_NAME, (output,), OUTPUT_NAME))
        tensors, ops = run_in_int16(self.tensors, self.ops)
        return QuantGraph(tensors, ops, (next(iter(tensors)),), (OUTPUT_NAME,), metadata)


def _check_int16(site: Site) -> None:
    if site.kind == "input":
        raise PrepareError(f"{site.name}: is the network's input, which is int8; make a later tensor int16")
    hard_sigmoid = "hard_sigmoid" in (site.kind, site.activation)
    qparams = site.fake_quant.qparams
    if hard_sigmoid and qparams is not None and qparams.scale != HARD_SIGMOID_INT16_QPARAMS.scale:
        raise PrepareError(
            f"{site.name}: hard-sigmoid in int16 has scale 1/32768, not {qparams.scale:.6g}; give it "
            "HARD_SIGMOID_INT16_QPARAMS"
        )


def _nhwc(shape: tuple[int, ...]) -> tuple[int, ...]:
    if len(shape) == 2:
        return (1, 1, 1, shape[1])
    n, c, h, w = shape
    return (n, h, w, c)


def _weight_nhwc(layer: nn.Conv2d | nn.Linear, input_shape: tuple[int, ...]) -> tuple[FloatArray, bool]:
    """Weight as OHWI, or 1HWC for a depthwise convolution; and whether it is depthwise."""
    weight = layer.weight.detach().numpy()
    if isinstance(layer, nn.Linear):
        spatial = input_shape[2:] if len(input_shape) == 4 else (1, 1)
        weight = weight.reshape(layer.out_features, -1, *spatial)
    depthwise = isinstance(layer, nn.Conv2d) and layer.groups > 1
    order = (1, 2, 3, 0) if depthwise else (0, 2, 3, 1)
    return np.ascontiguousarray(weight.transpose(order)), depthwise
