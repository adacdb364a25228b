"""What a .tflite file says about preparing images and naming classes: writing and reading it."""

import io
import json
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

from ai_edge_litert import schema_py_generated as schema

from qmnv3.errors import ExportError, ModelFileError
from qmnv3.export.tflite.standard_metadata import StandardMetadata, decode_metadata, encode_metadata
from qmnv3.ir import Metadata, QuantGraph
from qmnv3.preprocessing import Preprocessing

STANDARD_ENTRY = "TFLITE_METADATA"
OWN_ENTRY = "QMNV3_METADATA"
"""JSON with what the standard has no field for: resize, crop and interpolation."""

LABELS_FILE = "labels.txt"
FORMAT_VERSION = 1

_PIXEL_MAX = 255.0
_ZIP_EPOCH = (1980, 1, 1, 0, 0, 0)
_UNIX, _READ_ALL = 3, 0o644
_CROP_SHARE = 224 / 256
_DAMAGE = (struct.error, ValueError, KeyError, IndexError, TypeError, AttributeError)


def metadata_entries(graph: QuantGraph) -> dict[str, bytes]:
    """The two metadata buffers of `graph`, by entry name. ExportError when labels and classes disagree."""
    metadata, (_, height, width, _) = graph.metadata, _image_shape(graph)
    _check_labels(graph)
    preprocessing = metadata.preprocessing
    standard = StandardMetadata(
        name=metadata.name,
        mean=tuple(_PIXEL_MAX * value for value in preprocessing.mean),
        std=tuple(_PIXEL_MAX * value for value in preprocessing.std),
        labels_file=LABELS_FILE if metadata.labels else None,
        size=(height, width),
    )
    own = {
        "format_version": FORMAT_VERSION,
        "name": metadata.name,
        "preprocessing": preprocessing.to_json(),
        "labels": len(metadata.labels),
    }
    return {
        STANDARD_ENTRY: encode_metadata(standard, graph.inputs, graph.outputs),
        OWN_ENTRY: json.dumps(own, sort_keys=True, ensure_ascii=False).encode(),
    }


def append_labels(model: bytes, labels: tuple[str, ...]) -> bytes:
    """`model` with labels.txt zipped onto its end, as TFLite Metadata packs files; no labels, no zip."""
    if not labels:
        return model
    # A fixed date and a named system: the same graph must give the same bytes on any day and machine.
    info = zipfile.ZipInfo(LABELS_FILE, _ZIP_EPOCH)
    info.create_system, info.external_attr = _UNIX, _READ_ALL << 16
    file = io.BytesIO()
    file.write(model)
    # Stored, not deflated: MediaPipe maps the file and refuses compressed members.
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(info, "\n".join(labels) + "\n")
    return file.getvalue()


def read_metadata(path: Path) -> Metadata | None:
    """Name, preprocessing and labels of a .tflite file; None when it does not say how to prepare images.

    Files that qmnv3 did not write are read through their standard TFLite Metadata. That has no resize and
    no interpolation: bilinear is assumed, and a short side of 256 for a crop of 224 (in that proportion).
    Raises ModelFileError for a file that is not TFLite, is damaged, or lost its labels.
    """
    data = path.read_bytes()
    if data[4:8] != b"TFL3":
        raise ModelFileError(f"{path}: not a TFLite model (identifier {data[4:8]!r}); give a .tflite file")
    try:
        model = schema.Model.GetRootAs(data, 0)
        entries = _read_entries(model)
        standard = decode_metadata(entries[STANDARD_ENTRY]) if STANDARD_ENTRY in entries else None
        labels = _read_labels(path, standard.labels_file) if standard and standard.labels_file else ()
        if OWN_ENTRY in entries:
            return _own_metadata(json.loads(entries[OWN_ENTRY]), labels)
        if standard and standard.mean and standard.std:
            return Metadata(standard.name, _standard_preprocessing(standard, model), labels)
    except _DAMAGE as error:
        raise ModelFileError(f"{path}: its metadata cannot be read ({error}); export it again") from error
    return None


def _image_shape(graph: QuantGraph) -> tuple[int, int, int, int]:
    shape = graph.tensors[graph.inputs[0]].shape if graph.inputs else ()
    if len(shape) != 4:
        raise ExportError(f"{graph.metadata.name}: input shape {shape}; an image model takes [N, H, W, C]")
    return shape


def _check_labels(graph: QuantGraph) -> None:
    labels = graph.metadata.labels
    if not labels:
        return
    scores = graph.tensors[graph.outputs[0]]
    if len(labels) != scores.shape[-1]:
        raise ExportError(
            f"{scores.name}: {len(labels)} labels for {scores.shape[-1]} classes; give one label per class"
        )
    for index, label in enumerate(labels):
        if len(label.splitlines()) > 1 or label.endswith("\n"):
            raise ExportError(f"label {index} {label!r} has a line break; labels.txt holds one per line")


def _read_entries(model: Any) -> dict[str, bytes]:
    entries = {}
    for index in range(model.MetadataLength()):
        entry = model.Metadata(index)
        buffer = model.Buffers(entry.Buffer())
        if buffer.DataLength():
            entries[entry.Name().decode("utf-8")] = buffer.DataAsNumpy().tobytes()
    return entries


def _read_labels(path: Path, name: str) -> tuple[str, ...]:
    try:
        with zipfile.ZipFile(path) as archive:
            text = archive.read(name).decode("utf-8")
    except (zipfile.BadZipFile, zlib.error, KeyError, RuntimeError, EOFError, OSError) as error:
        raise ModelFileError(f"{path}: its {name} is missing or damaged; export it again") from error
    return tuple(text.removesuffix("\n").split("\n"))


def _own_metadata(value: dict[str, Any], labels: tuple[str, ...]) -> Metadata:
    if value["format_version"] != FORMAT_VERSION:
        raise ValueError(f"format_version {value['format_version']}, this qmnv3 reads {FORMAT_VERSION}")
    if value["labels"] != len(labels):
        raise ValueError(f"{len(labels)} labels, {value['labels']} were written")
    return Metadata(value["name"], Preprocessing.from_json(value["preprocessing"]), labels)


def _standard_preprocessing(standard: StandardMetadata, model: Any) -> Preprocessing:
    subgraph = model.Subgraphs(0)
    resolution = int(subgraph.Tensors(subgraph.Inputs(0)).Shape(1))
    return Preprocessing(
        resolution=resolution,
        resize=round(resolution / _CROP_SHARE),
        mean=_per_channel(standard.mean),
        std=_per_channel(standard.std),
    )


def _per_channel(values: tuple[float, ...]) -> tuple[float, float, float]:
    """Three channels in [0, 1] from one or three values in 0..255."""
    if len(values) not in (1, 3):
        raise ValueError(f"{len(values)} normalisation values, expected 1 or 3")
    # float32 keeps seven digits: 123.675f / 255 must read as 0.485 again.
    red, green, blue = (round(value / _PIXEL_MAX, 7) for value in (values * 3)[:3])
    return red, green, blue
