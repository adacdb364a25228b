"""The public "TFLITE_METADATA" flatbuffer, as MediaPipe Tasks and the Task Library read it.

Source: mediapipe/tasks/metadata/metadata_schema.fbs, file identifier M001. Only the tables an image
classifier needs are here. Slots are field positions in that schema; a union takes two, type then value.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import flatbuffers
import numpy as np
from flatbuffers import number_types
from flatbuffers.table import Table

FILE_IDENTIFIER = b"M001"
MIN_PARSER_VERSION = "1.0.0"
"""Every field written here was in the first version of the schema."""

_TENSOR_AXIS_LABELS = 2
_IMAGE_PROPERTIES = 2
_NORMALIZATION_OPTIONS = 1
_RGB = 1


class _Model:
    NAME, SUBGRAPHS, MIN_PARSER_VERSION, SLOTS = 0, 3, 7, 8


class _SubGraph:
    INPUTS, OUTPUTS, SLOTS = 2, 3, 10


class _Tensor:
    NAME, CONTENT, PROCESS_UNITS, ASSOCIATED_FILES, SLOTS = 0, 3, 4, 6, 7


class _File:
    NAME, TYPE, SLOTS = 0, 2, 5


class _Content:
    PROPERTIES_TYPE, PROPERTIES, SLOTS = 0, 1, 3


class _Image:
    COLOR_SPACE, DEFAULT_SIZE, SLOTS = 0, 1, 2


class _Size:
    WIDTH, HEIGHT, SLOTS = 0, 1, 2


class _Unit:
    OPTIONS_TYPE, OPTIONS, SLOTS = 0, 1, 2


class _Normalization:
    MEAN, STD, SLOTS = 0, 1, 2


@dataclass(frozen=True)
class StandardMetadata:
    """What a classifier's metadata says of its image input and its scores.

    `mean` and `std` are per channel, for pixels in 0..255, as `(pixel - mean) / std`; empty when absent.
    `size` is (height, width) in pixels, written but not read back: the input tensor's shape says it.
    """

    name: str
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    labels_file: str | None = None
    size: tuple[int, int] = (0, 0)


def encode_metadata(metadata: StandardMetadata, inputs: Sequence[str], outputs: Sequence[str]) -> bytes:
    """Metadata flatbuffer of a model with these tensor names; the first input is the RGB image, the first
    output its scores."""
    b = flatbuffers.Builder(1024)
    images = [_image(b, inputs[0], metadata), *(_plain_tensor(b, name) for name in inputs[1:])]
    scores = [_scores(b, outputs[0], metadata), *(_plain_tensor(b, name) for name in outputs[1:])]
    tensors = {_SubGraph.INPUTS: _vector(b, images), _SubGraph.OUTPUTS: _vector(b, scores)}
    subgraph = _table(b, _SubGraph.SLOTS, offsets=tensors)
    model = {
        _Model.NAME: b.CreateString(metadata.name),
        _Model.SUBGRAPHS: _vector(b, [subgraph]),
        _Model.MIN_PARSER_VERSION: b.CreateString(MIN_PARSER_VERSION),
    }
    b.Finish(_table(b, _Model.SLOTS, offsets=model), FILE_IDENTIFIER)
    return bytes(b.Output())


def decode_metadata(data: bytes) -> StandardMetadata:
    """Read the metadata flatbuffer of any classifier.

    ValueError when the identifier is not M001; damage shows as ValueError, IndexError, TypeError or
    struct.error.
    """
    if data[4:8] != FILE_IDENTIFIER:
        raise ValueError(f"metadata identifier is {data[4:8]!r}, expected {FILE_IDENTIFIER!r}")
    root = Table(data, int(np.frombuffer(data, "<u4", 1)[0]))
    subgraph = _children(root, _Model.SUBGRAPHS)[:1]
    image = [tensor for graph in subgraph for tensor in _children(graph, _SubGraph.INPUTS)[:1]]
    scores = [tensor for graph in subgraph for tensor in _children(graph, _SubGraph.OUTPUTS)[:1]]
    normalization = [
        unit
        for tensor in image
        for unit in _children(tensor, _Tensor.PROCESS_UNITS)
        if _byte(unit, _Unit.OPTIONS_TYPE) == _NORMALIZATION_OPTIONS
    ]
    labels = [
        _string(file, _File.NAME)
        for tensor in scores
        for file in _children(tensor, _Tensor.ASSOCIATED_FILES)
        if _byte(file, _File.TYPE) == _TENSOR_AXIS_LABELS
    ]
    return StandardMetadata(
        name=_string(root, _Model.NAME),
        mean=_normalization(normalization, _Normalization.MEAN),
        std=_normalization(normalization, _Normalization.STD),
        labels_file=labels[0] if labels else None,
    )


def _image(b: flatbuffers.Builder, name: str, metadata: StandardMetadata) -> int:
    height, width = metadata.size
    size = _table(b, _Size.SLOTS, numbers={_Size.WIDTH: width, _Size.HEIGHT: height})
    properties = _table(
        b, _Image.SLOTS, bytes_={_Image.COLOR_SPACE: _RGB}, offsets={_Image.DEFAULT_SIZE: size}
    )
    content = _table(
        b,
        _Content.SLOTS,
        bytes_={_Content.PROPERTIES_TYPE: _IMAGE_PROPERTIES},
        offsets={_Content.PROPERTIES: properties},
    )
    vectors = {
        _Normalization.MEAN: b.CreateNumpyVector(np.asarray(metadata.mean, "<f4")),
        _Normalization.STD: b.CreateNumpyVector(np.asarray(metadata.std, "<f4")),
    }
    unit = _table(
        b,
        _Unit.SLOTS,
        bytes_={_Unit.OPTIONS_TYPE: _NORMALIZATION_OPTIONS},
        offsets={_Unit.OPTIONS: _table(b, _Normalization.SLOTS, offsets=vectors)},
    )
    tensor = {
        _Tensor.NAME: b.CreateString(name),
        _Tensor.CONTENT: content,
        _Tensor.PROCESS_UNITS: _vector(b, [unit]),
    }
    return _table(b, _Tensor.SLOTS, offsets=tensor)


def _scores(b: flatbuffers.Builder, name: str, metadata: StandardMetadata) -> int:
    if metadata.labels_file is None:
        return _plain_tensor(b, name)
    file = _table(
        b,
        _File.SLOTS,
        bytes_={_File.TYPE: _TENSOR_AXIS_LABELS},
        offsets={_File.NAME: b.CreateString(metadata.labels_file)},
    )
    tensor = {_Tensor.NAME: b.CreateString(name), _Tensor.ASSOCIATED_FILES: _vector(b, [file])}
    return _table(b, _Tensor.SLOTS, offsets=tensor)


def _plain_tensor(b: flatbuffers.Builder, name: str) -> int:
    return _table(b, _Tensor.SLOTS, offsets={_Tensor.NAME: b.CreateString(name)})


def _table(
    b: flatbuffers.Builder,
    slots: int,
    *,
    bytes_: Mapping[int, int] | None = None,
    numbers: Mapping[int, int] | None = None,
    offsets: Mapping[int, int] | None = None,
) -> int:
    b.StartObject(slots)
    for slot, value in (offsets or {}).items():
        b.PrependUOffsetTRelativeSlot(slot, value, 0)
    for slot, value in (numbers or {}).items():
        b.PrependUint32Slot(slot, value, 0)
    for slot, value in (bytes_ or {}).items():
        b.PrependUint8Slot(slot, value, 0)
    return int(b.EndObject())


def _vector(b: flatbuffers.Builder, offsets: Sequence[int]) -> int:
    width = number_types.UOffsetTFlags.bytewidth
    b.StartVector(width, len(offsets), width)
    for offset in reversed(offsets):
        b.PrependUOffsetTRelative(offset)
    return int(b.EndVector())


def _position(table: Table, slot: int) -> int:
    """Position of a field relative to its table; 0 when the field is absent."""
    return int(table.Offset(4 + 2 * slot))


def _children(table: Table, slot: int) -> list[Table]:
    position = _position(table, slot)
    if not position:
        return []
    start = table.Vector(position)
    return [Table(table.Bytes, table.Indirect(start + 4 * i)) for i in range(table.VectorLen(position))]


def _normalization(units: Sequence[Table], slot: int) -> tuple[float, ...]:
    for unit in units[:1]:
        options = Table(unit.Bytes, unit.Indirect(unit.Pos + _position(unit, _Unit.OPTIONS)))
        if position := _position(options, slot):
            values = options.GetVectorAsNumpy(number_types.Float32Flags, position)
            return tuple(float(value) for value in values)
    return ()


def _byte(table: Table, slot: int) -> int:
    position = _position(table, slot)
    return int(table.Get(number_types.Uint8Flags, table.Pos + position)) if position else 0


def _string(table: Table, slot: int) -> str:
    position = _position(table, slot)
    return table.String(table.Pos + position).decode("utf-8") if position else ""
