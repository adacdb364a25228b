"""RUN folders: the frozen result of quantizing a model, read by export, eval and inspect.

`int8.json/.safetensors` and `float32.json/.safetensors` are QuantGraphs (the integers and the float parent),
`calibration.json` the per-layer report, `run.json` where it all came from, `calibrated.safetensors` what
training with quantization starts from.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qmnv3.environment import environment
from qmnv3.errors import GraphError
from qmnv3.files import atomic_dir, check_model_file, write_json
from qmnv3.ir import QuantGraph, load_graph, save_graph

INT8, FLOAT32 = "int8", "float32"
CALIBRATION, PROVENANCE = "calibration.json", "run.json"
CALIBRATED = "calibrated.safetensors"


def save_run(
    path: Path,
    int8: QuantGraph,
    float32: QuantGraph,
    calibration: dict[str, Any],
    provenance: dict[str, Any],
    extra: Mapping[str, bytes] | None = None,
) -> None:
    """Write a whole RUN folder atomically; an existing RUN at `path` is replaced, see `check_out`.

    `extra` are more files by path in it, such as a training's log.
    """
    check_out(path)
    with atomic_dir(path) as temporary:
        save_graph(int8, temporary / INT8)
        save_graph(float32, temporary / FLOAT32)
        write_json(temporary / CALIBRATION, calibration)
        for name, content in (extra or {}).items():
            (temporary / name).parent.mkdir(exist_ok=True)
            (temporary / name).write_bytes(content)
        write_json(temporary / PROVENANCE, {**provenance, "environment": environment()})


def check_out(path: Path) -> None:
    """Raise GraphError where `save_run` could not write: call it before the work, not after.

    Fine are a path where nothing is, an empty folder, and a RUN.
    """
    if path.exists() and not is_run(path) and (path.is_file() or any(path.iterdir())):
        raise GraphError(f"{path}: exists and is not a RUN folder; choose another --out")
    target = path.resolve()
    if target == Path.cwd() or path.is_mount():
        raise GraphError(
            f"{path}: the current folder or a mount point cannot be replaced; name one inside it"
        )
    above = next(folder for folder in target.parents if folder.exists())
    if not above.is_dir():
        raise GraphError(f"{path}: {above} is not a folder; choose another --out")
    if not os.access(above, os.W_OK | os.X_OK):
        raise GraphError(f"{path}: no permission to write in {above}; choose another --out")


def load_run_graph(path: Path, precision: str = INT8) -> QuantGraph:
    """The QuantGraph of a RUN, "int8" or "float32"; GraphError when `path` is not a RUN or is damaged."""
    _check_run(path)
    return load_graph(path / precision)


def load_report(path: Path, name: str) -> dict[str, Any]:
    """`calibration.json` or `run.json` of a RUN; GraphError when `path` is not a RUN or is damaged."""
    _check_run(path)
    try:
        check_model_file(path / name)
        value = json.loads((path / name).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise GraphError(f"{path / name}: cannot be read ({error}); run `qmnv3 ptq` again") from error
    if not isinstance(value, dict):
        raise GraphError(f"{path / name}: holds no JSON object; run `qmnv3 ptq` again")
    return value


def is_run(path: Path) -> bool:
    """Whether `path` holds a RUN."""
    return (path / PROVENANCE).is_file()


def _check_run(path: Path) -> None:
    if not is_run(path):
        raise GraphError(f"{path}: not a RUN folder (no {PROVENANCE}); make one with `qmnv3 ptq`")
