"""Affine quantization parameters: `real = scale * (q - zero_point)`."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class QParams:
    """Scale and zero point of one tensor, per-tensor (`axis` None) or per-channel along `axis`.

    `scale` is float32, shape () or (channels,), as TFLite and ONNX store it; `zero_point` int32 of the same
    shape, within [qmin, qmax] (bias tensors and weights use 0). Raises ValueError for a scale that is not
    finite and positive. Source: Jacob et al. 2018, section 2.1.
    """

    scale: FloatArray
    zero_point: IntArray
    qmin: int = -128
    qmax: int = 127
    axis: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "scale", np.asarray(self.scale, np.float32))
        object.__setattr__(self, "zero_point", np.asarray(self.zero_point, np.int32))
        wanted = 0 if self.axis is None else 1
        if self.scale.ndim != wanted or self.zero_point.shape != self.scale.shape:
            raise ValueError(
                f"scale{self.scale.shape} and zero_point{self.zero_point.shape} must have {wanted} dimensions"
            )
        if not (np.isfinite(self.scale).all() and (self.scale > 0).all()):
            raise ValueError(f"scale={self.scale.min()!r} must be finite and > 0")
        if self.qmin >= self.qmax:
            raise ValueError(f"qmin={self.qmin} must be below qmax={self.qmax}")
        if (self.zero_point < self.qmin).any() or (self.zero_point > self.qmax).any():
            raise ValueError(f"zero_point={self.zero_point} must lie in [{self.qmin}, {self.qmax}]")

    @classmethod
    def per_tensor(cls, scale: float, zero_point: int, qmin: int = -128, qmax: int = 127) -> "QParams":
        """Parameters of a whole tensor; `scale` is rounded to float32."""
        return cls(np.asarray(scale, np.float32), np.asarray(zero_point, np.int32), qmin, qmax)

    @classmethod
    def bias(cls, input_qparams: "QParams", weight_qparams: "QParams") -> "QParams":
        """int32 bias grid: input scale times weight scale, per output channel as the weight."""
        scale = input_qparams.scale * weight_qparams.scale
        axis = None if weight_qparams.axis is None else 0
        return cls(scale, np.zeros(scale.shape, np.int32), -(2**31), 2**31 - 1, axis)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, QParams)
            and (self.qmin, self.qmax, self.axis) == (other.qmin, other.qmax, other.axis)
            and np.array_equal(self.scale, other.scale)
            and np.array_equal(self.zero_point, other.zero_point)
        )

    def __hash__(self) -> int:
        return hash((self.scale.tobytes(), self.zero_point.tobytes(), self.qmin, self.qmax, self.axis))

    def quantize(self, real: npt.ArrayLike) -> npt.NDArray[np.int32]:
        """Round half to even onto the grid and saturate to [qmin, qmax]. Per-channel follows `axis`."""
        scale, zero_point = self.broadcast(np.ndim(real))
        q = np.rint(np.asarray(real, np.float64) / scale) + zero_point
        return np.clip(q, self.qmin, self.qmax).astype(np.int32)

    def dequantize(self, q: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """Real values of integers `q`."""
        scale, zero_point = self.broadcast(np.ndim(q))
        return ((np.asarray(q, np.int64) - zero_point) * scale).astype(np.float32)

    def broadcast(self, ndim: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
        """Scale (float64) and zero point (int64) shaped to broadcast against `ndim` dimensions."""
        shape = [1] * ndim
        if self.axis is not None:
            shape[self.axis] = self.scale.size
        return self.scale.astype(np.float64).reshape(shape), self.zero_point.astype(np.int64).reshape(shape)

    def scaled(self, factor: float) -> "QParams":
        """The same integers read as `factor` times the real value."""
        return QParams(self.scale * np.float32(factor), self.zero_point, self.qmin, self.qmax, self.axis)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON; float32 scales survive exactly (shortest repr of their float64 value)."""
        return {
            "scale": self.scale.astype(float).tolist(),
            "zero_point": self.zero_point.tolist(),
            "qmin": self.qmin,
            "qmax": self.qmax,
            "axis": self.axis,
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "QParams":
        """Inverse of `to_json`."""
        return cls(value["scale"], value["zero_point"], value["qmin"], value["qmax"], value["axis"])
