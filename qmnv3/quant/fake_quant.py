"""Modules that carry quantization state inside a prepared GraphModule; the arithmetic is in `affine`."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

from qmnv3.ir import QParams
from qmnv3.quant.affine import (
    HARD_SWISH_GATE_INT16_QPARAMS,
    HARD_SWISH_GATE_QPARAMS,
    INT4_MAX,
    INT8_MAX,
    fake_quantize,
    is_int16,
    least_squares_qparams,
    symmetric_qparams,
)
from qmnv3.quant.equalized_gate import gate_integers
from qmnv3.quant.fold import Norm, promised

WeightBits = Literal[4, 8]


class FakeQuantize(nn.Module):
    """One activation tensor of the deployed graph: observes it, or rounds it to its one grid, or passes it.

    `site` is the tensor's name in messages and reports. `fixed` marks grids that are not calibrated
    (hard-sigmoid's 1/256, the input's known pixel range). `factors` [C], if any, say how many times larger
    than in the float model each channel is (equalization).
    """

    factors: torch.Tensor | None

    def __init__(self, site: str, qparams: QParams | None = None) -> None:
        super().__init__()
        self.site = site
        self.fixed = qparams is not None
        self.qparams = qparams
        self.enabled = False
        self.register_buffer("factors", None)

    def equalize(self, factors: torch.Tensor) -> None:
        """Note that the tensor is from now on `factors` [C] (positive) times larger than before."""
        self.factors = factors if self.factors is None else self.factors * factors

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Any shape in, the same shape out."""
        if self.enabled and self.qparams is not None:
            return fake_quantize(x, self.qparams)
        return x

    def extra_repr(self) -> str:
        """Site and grid for printing."""
        return f"{self.site}, qparams={self.qparams}"


class WeightFakeQuantize(nn.Module):
    """A layer's weight: symmetric, integers up to 127 or with 4 `bits` up to 7, scale per output channel.

    The scale follows the weight's own magnitudes until the grid is frozen. Learned integers need that: their
    largest magnitude need not be the grid's end.
    """

    def __init__(self, axis: int | None, bits: WeightBits = 8) -> None:
        super().__init__()
        self.axis = axis
        self.bits = bits
        self.frozen: QParams | None = None
        self.enabled = False

    def qparams(self, weight: torch.Tensor) -> QParams:
        """Grid for `weight` [O, ...]; per output channel when `axis` is 0, per tensor when None."""
        if self.frozen is not None:
            return self.frozen
        if self.bits == 4:
            return least_squares_qparams(weight, axis=self.axis, qmax=INT4_MAX)
        magnitude = weight.detach().abs()
        absmax = magnitude.amax() if self.axis is None else magnitude.flatten(1).amax(1)
        return symmetric_qparams(absmax.numpy(force=True), axis=self.axis)

    def freeze(self, weight: torch.Tensor) -> None:
        """Keep the grid that `weight` has now, whatever becomes of it."""
        self.frozen = None
        self.frozen = self.qparams(weight)

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """`weight` on its grid when enabled, else unchanged."""
        return fake_quantize(weight, self.qparams(weight)) if self.enabled else weight


class QuantWeight(nn.Module):
    """A convolution or linear layer with int8 weight and int32 bias.

    `source` is the FakeQuantize of the input: its scale times the weight's is the bias's. A layer whose
    requantization does hard-sigmoid holds its bias as b + 3 (the 1/2 of x/6 + 1/2 before the division).
    `norm` is the float model's BatchNorm that was folded into the layer, as it was; `normal` what it promised
    of the float model's output.
    """

    def __init__(
        self,
        layer: nn.Conv2d | nn.Linear,
        axis: int | None,
        source: FakeQuantize,
        hard_sigmoid: bool,
        norm: Norm | None = None,
        bits: WeightBits = 8,
    ) -> None:
        super().__init__()
        self.layer = layer
        self.normal = None if norm is None else promised(norm)
        self.weight_fake_quant = WeightFakeQuantize(axis, bits)
        self.bias_offset = 3.0 if hard_sigmoid else 0.0
        # In a tuple, so that the module belongs to the graph alone and not to this layer too.
        self._source = (source,)
        # Likewise, and because its parameters are no longer used.
        self._norm = (norm,)

    @property
    def norm(self) -> Norm | None:
        """The folded BatchNorm."""
        return self._norm[0]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The layer's own shapes and padding."""
        if not self.weight_fake_quant.enabled:
            return cast(torch.Tensor, self.layer(x))
        return self.call(x, self.rounded())

    def call(self, x: torch.Tensor, parameters: dict[str, torch.Tensor]) -> torch.Tensor:
        """The layer with `parameters` in place of its own."""
        return cast(torch.Tensor, functional_call(self.layer, parameters, (x,)))

    def rounded(self) -> dict[str, torch.Tensor]:
        """The layer's parameters on their grids, if enabled."""
        parameters = {"weight": self.weight_fake_quant(self.layer.weight)}
        if self.layer.bias is not None:
            parameters["bias"] = self._round_bias(self.layer.bias)
        return parameters

    def _round_bias(self, bias: torch.Tensor) -> torch.Tensor:
        input_qparams = self._source[0].qparams
        if input_qparams is None:
            return bias
        grid = QParams.bias(input_qparams, self.weight_fake_quant.qparams(self.layer.weight))
        step = torch.from_numpy(grid.scale).double().to(bias.device)
        rounded = ((bias.double() + self.bias_offset) / step).round() * step - self.bias_offset
        return rounded.to(bias.dtype)


class QuantHardswish(nn.Module):
    """h-swish as the integer network computes it: x times a gate on the fixed grid 6/255.

    `source` and `output` are the FakeQuantize of its tensors: where either is int16, the gate's grid is
    6/32767. Equalized, it takes and gives tensors whose channel c is `factors[c]` times its true value: the
    gate divides by it, so x' * relu6(x' / a + 3) / 6 = a * h-swish(x' / a), exactly.
    """

    factors: torch.Tensor | None

    def __init__(self, source: FakeQuantize, output: FakeQuantize) -> None:
        super().__init__()
        self.enabled = False
        self.register_buffer("factors", None)
        # In a tuple, so that the modules belong to the graph alone and not to this one too.
        self._tensors = (source, output)

    @property
    def gate_qparams(self) -> QParams:
        """Grid of relu6(x + 3)."""
        int16 = any(is_int16(tensor.qparams) for tensor in self._tensors)
        return HARD_SWISH_GATE_INT16_QPARAMS if int16 else HARD_SWISH_GATE_QPARAMS

    def equalize(self, factors: torch.Tensor) -> None:
        """Take inputs that are from now on `factors` [C] (positive) times larger than before."""
        self.factors = factors if self.factors is None else self.factors * factors

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x [N, C, H, W] or [N, C] (already on its own grid); MobileNetV3 section 5.2."""
        if self.factors is None and not self.enabled:
            return F.hardswish(x)
        source = self._tensors[0].qparams
        if self.factors is None:
            # A grid that ends at -3 makes exact ties by the thousand; like XNNPACK's ADD, take them up.
            tie = 1e-4 * float(self.gate_qparams.scale)
            gate = fake_quantize(F.relu6(x + 3.0 + tie), self.gate_qparams)
        elif self.enabled and source is not None:
            gate = self._rounded_gate(x, self.factors, source)
        else:
            gate = F.relu6(x / _per_channel(self.factors, x) + 3.0)
        return x * gate / 6.0

    def _rounded_gate(self, x: torch.Tensor, factors: torch.Tensor, source: QParams) -> torch.Tensor:
        """The equalized gate by the integers it is deployed as: it has many ties, rounded as theirs."""
        grid = self.gate_qparams
        bias, multiplier = gate_integers(factors.numpy(force=True), source, grid)
        steps = x / float(source.scale)
        steps = steps + (steps.round() - steps).detach()  # whole but for float32; the gradient passes
        accumulator = steps * INT8_MAX + _per_channel(torch.from_numpy(bias), x)
        level = F.relu(accumulator * _per_channel(torch.from_numpy(multiplier), x))
        levels = QParams.per_tensor(1.0, int(grid.zero_point), grid.qmin, grid.qmax)
        return fake_quantize(level, levels) * float(grid.scale)


def _per_channel(values: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """`values` [C] shaped to broadcast against x [N, C, ...], where x is."""
    return values.to(x.device).reshape(-1, *[1] * (x.dim() - 2))


QuantState = FakeQuantize | WeightFakeQuantize | QuantHardswish


def set_fake_quant(model: nn.Module, enabled: bool) -> None:
    """Switch all rounding in a prepared model on or off; off, it computes what the float model does."""
    for module in model.modules():
        if isinstance(module, QuantState):
            module.enabled = enabled


@contextmanager
def fake_quant(model: nn.Module, enabled: bool = True) -> Iterator[None]:
    """`set_fake_quant` for the length of a with block; off afterwards."""
    set_fake_quant(model, enabled)
    try:
        yield
    finally:
        set_fake_quant(model, False)


def activation_sites(model: nn.Module) -> dict[str, FakeQuantize]:
    """Every activation FakeQuantize of a prepared model by site name, in execution order."""
    return {m.site: m for m in model.modules() if isinstance(m, FakeQuantize)}
