"""Where int8 becomes int16 and back, in a graph in which some activations are int16.

TFLite's 16-bit kernels want all their activations in int16, so an operation that reads or writes an int16
tensor runs in 16 bits: its int8 inputs are widened, which is exact, and an int8 output is first made on a
grid 128 times finer and then rounded onto its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from qmnv3.errors import PrepareError
from qmnv3.ir import Conv2d, DepthwiseConv2d, Logistic, Mean, Op, QParams, Quantize, Tensor
from qmnv3.quant.affine import INT16_MAX, INT16_MIN

# |q - zero_point| of int8 is at most 255, so an int8 grid 128 times finer still fits int16.
FINER = 128
INT8_REACH = 255
INT32_MAX = 2**31 - 1


def run_in_int16(tensors: dict[str, Tensor], ops: Sequence[Op]) -> tuple[dict[str, Tensor], tuple[Op, ...]]:
    """Insert Quantize operations so that each operation has all its activations in int8 or all in int16.

    `x.wide` is int8 tensor x in int16, `y.fine` what is rounded to int8 tensor y. Without int16 nothing
    changes. Raises PrepareError for a sigmoid and for an average over more pixels than LiteRT can sum.
    """
    rewriter = _Rewriter(dict(tensors))
    for op in ops:
        rewriter.visit(op)
    return rewriter.tensors, tuple(rewriter.ops)


@dataclass
class _Rewriter:
    tensors: dict[str, Tensor]
    ops: list[Op] = field(default_factory=list)

    def visit(self, op: Op) -> None:
        read = op.inputs[:1] if isinstance(op, Conv2d | DepthwiseConv2d) else op.inputs
        if "int16" not in {self.tensors[name].dtype for name in (*read, op.output)}:
            self.ops.append(op)
            return
        if isinstance(op, Logistic):
            raise PrepareError(
                f"{op.name}: a sigmoid runs in 8 bits only; keep {op.inputs[0]} and {op.output} int8"
            )
        if isinstance(op, Mean):
            self._check_sum(op)
        inputs = (*(self._widened(name) for name in read), *op.inputs[len(read) :])
        if isinstance(op, Conv2d | DepthwiseConv2d):
            self._choose_bias_type(op)
        output = self.tensors[op.output]
        if output.dtype == "int16":
            self.ops.append(replace(op, inputs=inputs))
            return
        fine = f"{output.name}.fine"
        assert output.qparams is not None
        self._add(fine, output, float(output.qparams.scale) / FINER)
        self.ops.append(replace(op, inputs=inputs, output=fine))
        self.ops.append(Quantize(f"{op.name}.to_int8", (fine,), output.name))

    def _widened(self, name: str) -> str:
        source, wide = self.tensors[name], f"{name}.wide"
        if source.dtype == "int16":
            return name
        if wide not in self.tensors:
            assert source.qparams is not None
            self._add(wide, source, float(source.qparams.scale))
            self.ops.append(Quantize(f"{name}.to_int16", (name,), wide))
        return wide

    def _add(self, name: str, like: Tensor, scale: float) -> None:
        grid = QParams.per_tensor(scale, 0, INT16_MIN, INT16_MAX)
        self.tensors[name] = Tensor(name, like.shape, "int16", grid)

    def _choose_bias_type(self, op: Conv2d | DepthwiseConv2d) -> None:
        """int32 where no sum can overflow, for which alone LiteRT has a fast kernel, else int64."""
        x, weight, bias = (self.tensors[name] for name in op.inputs)
        assert weight.data is not None and bias.data is not None
        reach = INT8_REACH if x.dtype == "int8" else -INT16_MIN
        sums = np.abs(weight.data.astype(np.int64)).sum(
            axis=(1, 2, 3) if isinstance(op, Conv2d) else (0, 1, 2)
        )
        largest = int((reach * sums + np.abs(bias.data.astype(np.int64))).max())
        if isinstance(op, DepthwiseConv2d) or largest > INT32_MAX:
            self.tensors[bias.name] = replace(bias, dtype="int64", data=bias.data.astype(np.int64))

    def _check_sum(self, op: Mean) -> None:
        _, height, width, _ = self.tensors[op.inputs[0]].shape
        if height * width * -INT16_MIN > INT32_MAX:
            raise PrepareError(
                f"{op.name}: an int16 average over {height}x{width} pixels overflows LiteRT's 32-bit sum; "
                f"keep {op.inputs[0]} and {op.output} int8"
            )
