"""QuantGraph on disk: `<path>.json` for structure and qparams, `<path>.safetensors` for constants."""

import json
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.numpy import load, save

from qmnv3.errors import GraphError
from qmnv3.files import atomic_file, check_model_file, write_json
from qmnv3.ir.graph import Metadata, QuantGraph, Tensor
from qmnv3.ir.ops import OP_KINDS, Op, Padding
from qmnv3.ir.qparams import QParams
from qmnv3.preprocessing import Preprocessing

FORMAT_VERSION = 1
_DAMAGE = (
    OSError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    RecursionError,
    SafetensorError,
)


def save_graph(graph: QuantGraph, path: Path) -> None:
    """Write `graph` to `path` + .json and .safetensors; both are replaced atomically."""
    constants = {t.name: t.data for t in graph.tensors.values() if t.data is not None}
    encoded = save(constants)
    structure = {
        "format_version": FORMAT_VERSION,
        "constants_sha256": sha256(encoded).hexdigest(),
        "metadata": {
            "name": graph.metadata.name,
            "preprocessing": graph.metadata.preprocessing.to_json(),
            "labels": list(graph.metadata.labels),
        },
        "inputs": list(graph.inputs),
        "outputs": list(graph.outputs),
        "tensors": [_tensor_to_json(t) for t in graph.tensors.values()],
        "ops": [{"kind": type(op).__name__, **asdict(op)} for op in graph.ops],
    }
    with atomic_file(path.with_suffix(".safetensors")) as temporary:
        temporary.write_bytes(encoded)
    write_json(path.with_suffix(".json"), structure)


def load_graph(path: Path) -> QuantGraph:
    """Read what `save_graph` wrote at `path`; GraphError when a file is missing or damaged."""
    try:
        for suffix in (".json", ".safetensors"):
            check_model_file(path.with_suffix(suffix))
        value = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        encoded = path.with_suffix(".safetensors").read_bytes()
        if value["format_version"] != FORMAT_VERSION:
            raise GraphError(f"format_version {value['format_version']}, this qmnv3 reads {FORMAT_VERSION}")
        if value["constants_sha256"] != sha256(encoded).hexdigest():
            raise GraphError("its constants are not those it was saved with")
        constants = load(encoded)
        tensors = [
            Tensor(
                t["name"],
                tuple(t["shape"]),
                t["dtype"],
                QParams.from_json(t["qparams"]) if t["qparams"] else None,
                constants[t["name"]] if t["constant"] else None,
            )
            for t in value["tensors"]
        ]
        meta = value["metadata"]
        return QuantGraph(
            {t.name: t for t in tensors},
            tuple(_op_from_json(op) for op in value["ops"]),
            tuple(value["inputs"]),
            tuple(value["outputs"]),
            Metadata(str(meta["name"]), Preprocessing.from_json(meta["preprocessing"]), (*meta["labels"],)),
        )
    except (*_DAMAGE, GraphError) as error:
        raise GraphError(f"{path}: not a readable QuantGraph ({error}); run `qmnv3 ptq` again") from error


def _tensor_to_json(tensor: Tensor) -> dict[str, Any]:
    return {
        "name": tensor.name,
        "shape": list(tensor.shape),
        "dtype": tensor.dtype,
        "qparams": tensor.qparams.to_json() if tensor.qparams else None,
        "constant": tensor.data is not None,
    }


def _op_from_json(value: dict[str, Any]) -> Op:
    value = dict(value)
    kind = OP_KINDS[value.pop("kind")]
    for key, item in value.items():
        if key == "padding":
            value[key] = Padding(**item)
        elif isinstance(item, list):
            value[key] = tuple(item)
    return kind(**value)
