"""Name, preprocessing and labels inside an ONNX file, as one JSON entry of `metadata_props`."""

import json
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from qmnv3.errors import ModelFileError
from qmnv3.ir import Metadata
from qmnv3.preprocessing import Preprocessing

METADATA_KEY = "qmnv3"


def set_metadata(model: onnx.ModelProto, metadata: Metadata) -> None:
    """Store `metadata` in `model`; `read_metadata` is the inverse."""
    value = {
        "name": metadata.name,
        "preprocessing": metadata.preprocessing.to_json(),
        "labels": list(metadata.labels),
    }
    onnx.helper.set_model_props(model, {METADATA_KEY: json.dumps(value, ensure_ascii=False)})


def read_metadata(path: Path) -> Metadata | None:
    """What `write_onnx` stored in the file at `path`; None when another program wrote it.

    Raises ModelFileError when the file is missing, is not ONNX, or its qmnv3 entry is damaged.
    """
    try:
        model = onnx.load(path)
    except (OSError, DecodeError) as error:
        raise ModelFileError(f"{path}: not a readable ONNX file ({error})") from error
    if not model.HasField("graph"):
        raise ModelFileError(f"{path}: not a readable ONNX file (it holds no graph)")
    stored = {entry.key: entry.value for entry in model.metadata_props}.get(METADATA_KEY)
    if stored is None:
        return None
    try:
        value = json.loads(stored)
        preprocessing = Preprocessing.from_json(value["preprocessing"])
        return Metadata(str(value["name"]), preprocessing, tuple(map(str, value["labels"])))
    except (ValueError, KeyError, TypeError) as error:
        raise ModelFileError(
            f"{path}: its metadata entry {METADATA_KEY!r} is damaged ({error}); export the model again"
        ) from error
