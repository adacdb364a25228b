"""QuantGraph: tensors and operations that check themselves on construction."""

from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from qmnv3.errors import GraphError
from qmnv3.ir.ops import Activation, Op
from qmnv3.ir.qparams import QParams
from qmnv3.ir.shapes import output_shape
from qmnv3.preprocessing import Preprocessing

DType = Literal["float32", "int8", "uint8", "int16", "int32", "int64"]
Array = npt.NDArray[Any]
# TFLite accumulates int16 convolutions in the type of their bias, depthwise ones only in int64.
_BIAS_TYPES: dict[tuple[str, str], tuple[DType, ...]] = {
    ("int16", "Conv2d"): ("int32", "int64"),
    ("int16", "DepthwiseConv2d"): ("int64",),
}


@dataclass(frozen=True, eq=False)
class Tensor:
    """One named tensor: an activation (`data` None, batch written as 1) or a constant.

    Integer tensors carry `qparams`, float32 ones do not. Activations are int8 (uint8 at the ends) or int16,
    which is symmetric; weights are int8, biases int32 or int64. Raises GraphError when these disagree.
    """

    name: str
    shape: tuple[int, ...]
    dtype: DType
    qparams: QParams | None = None
    data: Array | None = None

    def __post_init__(self) -> None:
        if (self.dtype == "float32") != (self.qparams is None):
            raise GraphError(
                f"{self.name}: dtype {self.dtype} with qparams={self.qparams}; only integers have them"
            )
        if self.dtype == "int16" and self.qparams and (self.qparams.zero_point.any() or self.qparams.axis):
            raise GraphError(f"{self.name}: int16 has one scale and zero point 0, not {self.qparams}")
        if self.data is not None:
            if self.data.shape != self.shape or self.data.dtype != np.dtype(self.dtype):
                raise GraphError(
                    f"{self.name}: data is {self.data.dtype}{self.data.shape}, not {self.dtype}{self.shape}"
                )
            self.data.flags.writeable = False
        axis = self.qparams.axis if self.qparams else None
        if axis is not None and self.qparams and self.shape[axis] != self.qparams.scale.size:
            raise GraphError(f"{self.name}: {self.qparams.scale.size} scales for {self.shape[axis]} channels")


@dataclass(frozen=True)
class Metadata:
    """What a user of the deployed file must know: name, how to prepare images, and the class labels."""

    name: str = "model"
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class QuantGraph:
    """A network as integers (or all float32: the float parent, same structure).

    `ops` are in execution order. Construction checks names, single producers, order, dtypes, shapes and
    shared qparams, and raises GraphError naming the offender. Layout is NHWC; batch is 1 in shapes, and
    every operation works for any batch.
    """

    tensors: dict[str, Tensor]
    ops: tuple[Op, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    metadata: Metadata = field(default_factory=Metadata)

    def __post_init__(self) -> None:
        for name, tensor in self.tensors.items():
            if name != tensor.name:
                raise GraphError(f"tensor {tensor.name!r} is filed under {name!r}")
        known = {t.name for t in self.tensors.values() if t.data is not None} | set(self.inputs)
        for op in self.ops:
            self._check_op(op, known)
            known.add(op.output)
        if not self.inputs or not self.outputs:
            raise GraphError(f"{self.metadata.name}: {len(self.inputs)} inputs, {len(self.outputs)} outputs")
        for name in (*self.inputs, *self.outputs):
            if name not in known or name not in self.tensors:
                raise GraphError(f"graph input or output {name!r} is never produced")

    def _check_op(self, op: Op, known: set[str]) -> None:
        for name in op.inputs:
            if name not in self.tensors or name not in known:
                raise GraphError(f"{op.name}: input {name!r} does not exist before it is used")
        if op.output in known or op.output not in self.tensors:
            raise GraphError(f"{op.name}: output {op.output!r} is undeclared or has two producers")
        activation = getattr(op, "activation", "none")
        if activation not in get_args(Activation):
            raise GraphError(f"{op.name}: activation {activation!r} is not one of {get_args(Activation)}")
        expected = output_shape(op, [self.tensors[name].shape for name in op.inputs])
        if self.tensors[op.output].shape != expected:
            raise GraphError(f"{op.name}: output shape {self.tensors[op.output].shape}, computed {expected}")
        self._check_dtypes(op)

    def _check_dtypes(self, op: Op) -> None:
        kind = type(op).__name__
        ins, out = [self.tensors[name] for name in op.inputs], self.tensors[op.output]
        if kind == "Quantize" and out.dtype == "float32":
            raise GraphError(f"{op.name}: Quantize must produce integers")
        if kind == "Quantize" and (ins[0].dtype, out.dtype) == ("float32", "int16"):
            raise GraphError(f"{op.name}: Quantize of float32 makes 8 bits, for the interface; not int16")
        if kind == "Dequantize" and (out.dtype != "float32" or ins[0].dtype == "float32"):
            raise GraphError(f"{op.name}: Dequantize takes integers and produces float32")
        if kind == "Cast" and (ins[0].dtype, out.dtype) != ("int8", "int16"):
            raise GraphError(f"{op.name}: Cast turns int8 into int16, not {ins[0].dtype} into {out.dtype}")
        layer = kind in ("Conv2d", "DepthwiseConv2d")
        activations = ins[:1] if layer else ins
        mixed = {t.dtype for t in (*activations, out)}
        if kind not in ("Quantize", "Dequantize", "Cast") and len(mixed) > 1:
            found = ", ".join(t.dtype for t in activations)
            raise GraphError(f"{op.name}: {kind} input is {found} but output is {out.dtype}")
        if kind in ("Pad", "Flatten", "PixelPairs") and ins[0].qparams != out.qparams:
            raise GraphError(f"{op.name}: {kind} must share its input's scale and zero point")
        if layer and out.qparams is not None:
            self._check_bias_scale(op)

    def _check_bias_scale(self, op: Op) -> None:
        x, weight, bias = (self.tensors[name] for name in op.inputs)
        allowed = _BIAS_TYPES.get((x.dtype, type(op).__name__), ("int32",))
        fitting = weight.dtype == "int8" and bias.dtype in allowed
        if not (fitting and x.qparams and weight.qparams and bias.qparams):
            raise GraphError(
                f"{op.name}: needs int8 weight and {' or '.join(allowed)} bias, "
                f"has {weight.dtype} and {bias.dtype}"
            )
        wanted = x.qparams.scale * weight.qparams.scale
        if not np.array_equal(np.broadcast_to(wanted, bias.qparams.scale.shape), bias.qparams.scale):
            raise GraphError(f"{op.name}: bias scale must be input scale times weight scale")

    def __str__(self) -> str:
        lines = [f"QuantGraph {self.metadata.name}: {len(self.ops)} ops"]
        for op in self.ops:
            out = self.tensors[op.output]
            q = out.qparams
            grid = f" scale={q.scale:.6g} zero_point={q.zero_point}" if q else ""
            lines.append(f"  {type(op).__name__:16} {op.name:40} {out.dtype}{list(out.shape)}{grid}")
        return "\n".join(lines)

    def consumers(self, tensor: str) -> tuple[Op, ...]:
        """Operations that read `tensor`."""
        return tuple(op for op in self.ops if tensor in op.inputs)

    def producer(self, tensor: str) -> Op | None:
        """The operation that writes `tensor`; None for graph inputs and constants."""
        return next((op for op in self.ops if op.output == tensor), None)
