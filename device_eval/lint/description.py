"""One read-only description of a quantized model, whatever file it came from: what every rule looks at."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from device_eval.partitions import Partitions

Format = Literal["tflite", "onnx", "run"]
FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

LAYERS = ("Conv", "DepthwiseConv", "FullyConnected")
"""Kinds with inputs (x, weight, optional bias)."""


@dataclass(frozen=True, eq=False)
class Grid:
    """`real = scale * (q - zero_point)`, as stored: nothing is checked. Both are 1-D, one entry per tensor
    or per slice of `axis`.
    """

    scale: FloatArray
    zero_point: IntArray
    axis: int = 0

    @property
    def per_channel(self) -> bool:
        """Whether slices of `axis` have scales of their own."""
        return self.scale.size > 1

    @property
    def valid(self) -> bool:
        """Whether every scale is a normal, positive float32 and there is a zero point for each."""
        normal = np.isfinite(self.scale) & (self.scale >= np.finfo(np.float32).tiny)
        return bool(self.scale.size) and bool(normal.all()) and self.zero_point.size == self.scale.size


@dataclass(frozen=True, eq=False)
class Tensor:
    """A named tensor; `grid` None when its numbers are what they are; `data` None unless constant."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    grid: Grid | None = None
    data: npt.NDArray[Any] | None = None

    @property
    def quantized(self) -> bool:
        """Whether it is an 8 or 16 bit tensor with one usable scale."""
        return (
            self.dtype in ("int8", "uint8", "int16", "uint16")
            and self.grid is not None
            and self.grid.valid
            and not self.grid.per_channel
        )

    @property
    def is_float(self) -> bool:
        """Whether its elements are floating-point numbers."""
        return "float" in self.dtype

    @property
    def is_16_bit(self) -> bool:
        """Whether it has 16 bits: zero point 0, and 256 times finer steps to waste."""
        return self.dtype in ("int16", "uint16")

    @property
    def limits(self) -> tuple[int, int]:
        """Smallest and largest integer of its type."""
        info = np.iinfo(self.dtype)
        return int(info.min), int(info.max)

    @property
    def scale(self) -> float:
        """The step of a `quantized` tensor."""
        assert self.grid is not None
        return float(self.grid.scale[0])

    @property
    def zero_point(self) -> int:
        """The integer that means 0 in a `quantized` tensor."""
        assert self.grid is not None
        return int(self.grid.zero_point[0])

    @property
    def span(self) -> tuple[float, float]:
        """Real values at both ends of a `quantized` tensor's grid."""
        low, high = self.limits
        return self.scale * (low - self.zero_point), self.scale * (high - self.zero_point)

    @property
    def reals(self) -> FloatArray | None:
        """Real values of a constant; None when it is none, or its scales do not fit its shape."""
        if self.data is None:
            return None
        values = np.asarray(self.data, np.float64)
        if self.grid is None:
            return values
        shape = [1] * values.ndim
        if self.grid.per_channel:
            if self.grid.axis >= values.ndim or values.shape[self.grid.axis] != self.grid.scale.size:
                return None
            shape[self.grid.axis] = -1
        return (values - self.grid.zero_point.reshape(shape)) * self.grid.scale.reshape(shape)


@dataclass(frozen=True)
class Op:
    """One operation. `kind` is neutral ("Conv", "Add", "HardSwish", ...; else the file's own name `native`).

    `inputs` name tensors, "" where an optional one is left out. `activation` is fused: "none", "relu",
    "relu6" or the file's name. Layers have `weight_axis`, the output channels' axis of the weight.
    `float_reason` says why it computes in float; None for integer operations and for conversions.
    """

    index: int
    kind: str
    native: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    activation: str = "none"
    weight_axis: int | None = None
    float_reason: str | None = None
    attributes: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Carried:
    """What the file says to its user; `problem` when what it says cannot be read, `keys` it does have."""

    normalization: bool
    labels: bool
    problem: str | None = None
    keys: tuple[str, ...] = ()


@dataclass(frozen=True)
class Calibrated:
    """What a RUN tells of its calibration: faults of the images, and of tensors `site: value`.

    `floored` are scales that were raised because (nearly) nothing was seen, `clipped` the % of values outside
    the grid.
    """

    faults: tuple[str, ...] = ()
    floored: Mapping[str, float] = field(default_factory=dict)
    clipped: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Model:
    """A model file or RUN, read. `ops` are in the file's order.

    `partitions` is what LiteRT's XNNPACK delegate made of it; for ONNX `runtime_floats` counts by name what
    ONNX Runtime's optimizer left in float. Both None when the runtime did not load it: then `runtime_error`
    says why. `calibrated` is only known of a RUN.
    """

    path: Path
    format: Format
    tensors: Mapping[str, Tensor]
    ops: tuple[Op, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    carried: Carried
    partitions: Partitions | None = None
    runtime_floats: Mapping[str, int] | None = None
    runtime_error: str | None = None
    calibrated: Calibrated = field(default_factory=Calibrated)

    @cached_property
    def _producers(self) -> dict[str, Op]:
        return {name: op for op in self.ops for name in op.outputs}

    @cached_property
    def _consumers(self) -> dict[str, list[Op]]:
        found: dict[str, list[Op]] = {}
        for op in self.ops:
            for name in dict.fromkeys(op.inputs):
                found.setdefault(name, []).append(op)
        return found

    def producer(self, name: str) -> Op | None:
        """The operation that writes the tensor; None for inputs and constants."""
        return self._producers.get(name)

    def consumers(self, name: str) -> tuple[Op, ...]:
        """Operations that read the tensor."""
        return tuple(self._consumers.get(name, ()))

    def input(self, op: Op, position: int) -> Tensor | None:
        """The tensor at `position`; None where it is left out."""
        name = op.inputs[position] if position < len(op.inputs) else ""
        return self.tensors.get(name)

    def output(self, op: Op) -> Tensor | None:
        """The first output."""
        return self.tensors.get(op.outputs[0]) if op.outputs else None

    def operands(self, op: Op) -> tuple[Tensor, ...]:
        """All inputs that are there."""
        return tuple(self.tensors[name] for name in op.inputs if name in self.tensors)

    def where(self, op: Op) -> str:
        """Number, the file's operation name and output, for people."""
        return f"op {op.index} {op.native} {short(op.outputs[0]) if op.outputs else '(no output)'}"


def short(name: str) -> str:
    """A tensor's name for people: TFLiteConverter joins the names of all it fused, the last step first."""
    return name.split(";")[0].replace("StatefulPartitionedCall/", "")
