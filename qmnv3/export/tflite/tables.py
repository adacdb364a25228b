"""The numbered tables of a TFLite model: buffers, tensors and operator codes."""

from dataclasses import dataclass, field
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from qmnv3.errors import ExportError
from qmnv3.ir import QParams, Tensor

BUFFER_ALIGNMENT = 16
"""Bytes; the schema's `force_align` for Buffer.data, which XNNPACK's vector loads rely on."""

_TENSOR_TYPES = {
    "float32": schema.TensorType.FLOAT32,
    "int64": schema.TensorType.INT64,
    "int32": schema.TensorType.INT32,
    "int16": schema.TensorType.INT16,
    "uint8": schema.TensorType.UINT8,
    "int8": schema.TensorType.INT8,
}


@dataclass(frozen=True)
class AlignedBuffer:
    """One Buffer table; stands in for schema.BufferT, whose Pack aligns data to its item size only."""

    data: bytes = b""

    def Pack(self, builder: flatbuffers.Builder) -> int:
        """Write the table and return its offset (the name is the schema's packing protocol)."""
        vector = None
        if self.data:
            builder.Prep(BUFFER_ALIGNMENT, len(self.data))
            vector = builder.CreateByteVector(self.data)
        schema.BufferStart(builder)
        if vector is not None:
            schema.BufferAddData(builder, vector)
        return int(schema.BufferEnd(builder))


@dataclass
class ModelTables:
    """Grows while a graph is encoded; every index it returns is final.

    Buffer 0 is the empty one that all activations use. Identical constants share a buffer.
    """

    buffers: list[AlignedBuffer] = field(default_factory=lambda: [AlignedBuffer()])
    tensors: list[Any] = field(default_factory=list)
    operator_codes: list[Any] = field(default_factory=list)
    _buffer_index: dict[tuple[object, ...], int] = field(default_factory=dict)
    _tensor_index: dict[str, int] = field(default_factory=dict)
    _code_index: dict[tuple[int, int], int] = field(default_factory=dict)

    def buffer(self, data: bytes) -> int:
        """Index of a new buffer holding `data`."""
        self.buffers.append(AlignedBuffer(data))
        return len(self.buffers) - 1

    def tensor(self, tensor: Tensor) -> int:
        """Index of `tensor`, added on first use."""
        if tensor.name not in self._tensor_index:
            _check_grid(tensor)
            self._add(tensor.name, _encode_tensor(tensor, self._constant_buffer(tensor)))
        return self._tensor_index[tensor.name]

    def int32_constant(self, name: str, values: Any) -> int:
        """Index of a plain int32 tensor (axes, paddings, shapes), which has no quantization."""
        data = np.asarray(values, "<i4")
        key = ("plain int32", data.shape, data.tobytes())
        encoded = schema.TensorT(
            shape=np.asarray(data.shape, np.int32),
            type=schema.TensorType.INT32,
            buffer=self._shared_buffer(key, data.tobytes()),
            name=name,
            hasRank=True,
        )
        return self._add(name, encoded)

    def operator_code(self, builtin: int, version: int) -> int:
        """Index of the (builtin operator, version) pair, added on first use."""
        key = (builtin, version)
        if key not in self._code_index:
            self._code_index[key] = len(self.operator_codes)
            # Runtimes before 2.4 read only the int8 field, which holds 127 where the code does not fit.
            deprecated = min(builtin, schema.BuiltinOperator.PLACEHOLDER_FOR_GREATER_OP_CODES)
            self.operator_codes.append(
                schema.OperatorCodeT(builtinCode=builtin, deprecatedBuiltinCode=deprecated, version=version)
            )
        return self._code_index[key]

    def _add(self, name: str, encoded: Any) -> int:
        if name in self._tensor_index:
            raise ExportError(f"{name}: two tensors have this name; rename one of them")
        self._tensor_index[name] = len(self.tensors)
        self.tensors.append(encoded)
        return self._tensor_index[name]

    def _constant_buffer(self, tensor: Tensor) -> int:
        if tensor.data is None:
            return 0
        data = np.ascontiguousarray(tensor.data)
        little = data.astype(data.dtype.newbyteorder("<"), copy=False).tobytes()
        # The same integers on another grid stay apart: XNNPACK's weight cache finds packed weights by
        # buffer, and packs the scales into them.
        return self._shared_buffer((tensor.dtype, tensor.shape, tensor.qparams, little), little)

    def _shared_buffer(self, key: tuple[object, ...], data: bytes) -> int:
        if key not in self._buffer_index:
            self._buffer_index[key] = self.buffer(data)
        return self._buffer_index[key]


def _encode_tensor(tensor: Tensor, buffer: int) -> Any:
    any_batch = None if tensor.data is not None else np.asarray((-1, *tensor.shape[1:]), np.int32)
    return schema.TensorT(
        shape=np.asarray(tensor.shape, np.int32),
        shapeSignature=any_batch,
        type=_TENSOR_TYPES[tensor.dtype],
        buffer=buffer,
        name=tensor.name,
        quantization=_encode_qparams(tensor.qparams) if tensor.qparams else None,
        hasRank=True,
    )


def _encode_qparams(qparams: QParams) -> Any:
    return schema.QuantizationParametersT(
        scale=qparams.scale.reshape(-1).astype("<f4"),
        zeroPoint=qparams.zero_point.reshape(-1).astype("<i8"),
        quantizedDimension=qparams.axis or 0,
    )


def _check_grid(tensor: Tensor) -> None:
    """TFLite activations saturate at their dtype's limits and have one scale; anything else is refused."""
    q = tensor.qparams
    if tensor.data is not None or q is None:
        return
    limits = np.iinfo(tensor.dtype)
    if q.axis is not None:
        raise ExportError(f"{tensor.name}: {q.scale.size} scales; a TFLite activation needs exactly one")
    if (q.qmin, q.qmax) != (limits.min, limits.max):
        raise ExportError(
            f"{tensor.name}: range [{q.qmin}, {q.qmax}]; TFLite {tensor.dtype} activations use "
            f"[{limits.min}, {limits.max}], so freeze it with that range"
        )
