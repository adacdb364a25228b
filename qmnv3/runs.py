"""RUN folders: the frozen result of quantizing a model, read by export, eval and inspect.

`int8.json/.safetensors` and `float32.json/.safetensors` are QuantGraphs (the integers and the float parent),
`calibration.json` the per-layer report, `run.json` where it all came from.
"""

import json
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from qmnv3.errors import GraphError
from qmnv3.files import atomic_dir, write_json
from qmnv3.ir import QuantGraph, load_graph, save_graph

INT8, FLOAT32 = "int8", "float32"
CALIBRATION, PROVENANCE = "calibration.json", "run.json"


def save_run(
    path: Path,
    int8: QuantGraph,
    float32: QuantGraph,
    calibration: dict[str, Any],
    provenance: dict[str, Any],
) -> None:
    """Write a whole RUN folder atomically; an existing RUN at `path` is replaced, another folder refused."""
    if path.exists() and not is_run(path) and any(path.iterdir()):
        raise GraphError(f"{path}: exists and is not a RUN folder; choose another --out")
    with atomic_dir(path) as temporary:
        save_graph(int8, temporary / INT8)
        save_graph(float32, temporary / FLOAT32)
        write_json(temporary / CALIBRATION, calibration)
        write_json(temporary / PROVENANCE, {**provenance, **environment()})


def load_run_graph(path: Path, precision: str = INT8) -> QuantGraph:
    """The QuantGraph of a RUN, "int8" or "float32"; GraphError when `path` is not a RUN."""
    if not is_run(path):
        raise GraphError(f"{path}: not a RUN folder (no {PROVENANCE}); make one with `qmnv3 ptq`")
    return load_graph(path / precision)


def load_report(path: Path, name: str) -> dict[str, Any]:
    """`calibration.json` or `run.json` of a RUN."""
    try:
        value = json.loads((path / name).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise GraphError(f"{path / name}: cannot be read ({error}); run `qmnv3 ptq` again") from error
    assert isinstance(value, dict)
    return value


def is_run(path: Path) -> bool:
    """Whether `path` holds a RUN."""
    return (path / PROVENANCE).is_file()


def environment() -> dict[str, Any]:
    """Versions, device and commit, for the record of any result."""
    packages = ("qmnv3", "torch", "numpy", "onnx", "onnxruntime", "ai-edge-litert")
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in packages}},
        "device": {"machine": platform.machine(), "system": platform.platform(), "cpu": _cpu_model()},
        "commit": _commit(),
    }


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")


def _commit() -> str | None:
    """Commit of the qmnv3 checkout in use; None when installed without one."""
    try:
        done = subprocess.run(
            ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
