"""The import rules of the architecture: data flows one way, and nothing after QuantGraph imports torch."""

import ast
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OURS = ("qmnv3", "calibration", "device_eval", "recipes")
# Everybody may use these; they import nothing else of ours but each other.
COMMON = {
    "qmnv3.errors",
    "qmnv3.files",
    "qmnv3.preprocessing",
    "qmnv3.processes",
    "qmnv3.environment",
    "qmnv3",
}
# Room: other rooms it may import. qmnv3.cli is missing: it imports across.
ALLOWED: dict[str, set[str]] = {
    "qmnv3.models": {"torch"},
    "qmnv3.training": {"torch", "qmnv3.data"},
    "qmnv3.quant": {"torch", "qmnv3.models", "qmnv3.ir"},
    "qmnv3.qat": {"torch", "qmnv3.models", "qmnv3.quant", "qmnv3.ir", "qmnv3.training", "calibration"},
    "calibration": {"torch", "qmnv3.quant", "qmnv3.ir"},
    "qmnv3.ir": set(),
    "qmnv3.runs": {"qmnv3.ir"},
    "qmnv3.lowering": {"qmnv3.ir"},
    "qmnv3.reference": {"qmnv3.ir"},
    "qmnv3.export": {"qmnv3.ir", "qmnv3.lowering", "qmnv3.runs"},
    "qmnv3.data": set(),
    "device_eval": {
        "qmnv3.ir",
        "qmnv3.runs",
        "qmnv3.lowering",
        "qmnv3.reference",
        "qmnv3.data",
        "qmnv3.export",
    },
    "recipes": set(),
} | {room: set() for room in COMMON}
TORCH_FREE = (
    "qmnv3.ir",
    "qmnv3.lowering",
    "qmnv3.reference",
    "qmnv3.export",
    "qmnv3.data",
    "qmnv3.runs",
    "device_eval",
    "recipes",
)


def room_of(module: str) -> str:
    """ "qmnv3.ir.graph" is in "qmnv3.ir", "calibration.ptq" in "calibration"."""
    parts = module.split(".")
    return ".".join(parts[:2]) if parts[0] == "qmnv3" else parts[0]


def module_name(file: Path, root: Path) -> str:
    return ".".join(file.relative_to(root).with_suffix("").parts).removesuffix(".__init__")


def imported_modules(source: str) -> set[str]:
    """Absolute names imported anywhere in `source`, inside functions too; relative ones are an error."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import at line {node.lineno}"
            assert node.module is not None
            # `from qmnv3 import cli` imports a room too.
            submodules = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {node.module} | {name for name in submodules if node.module == "qmnv3" and exists(name)}
    return found


def exists(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def violations(root: Path) -> list[str]:
    """Forbidden imports below `root` as "file: room imports room"."""
    found = []
    for file in sorted(file for top in OURS for file in (root / top).rglob("*.py")):
        room = room_of(module_name(file, root))
        if room in ("qmnv3.cli", "qmnv3.__main__"):
            continue
        for module in sorted(imported_modules(file.read_text(encoding="utf-8"))):
            other = room_of(module)
            ours = other.partition(".")[0] in (*OURS, "torch", "benchmarks", "tests")
            if ours and other != room and other not in COMMON | ALLOWED[room]:
                found.append(f"{file.relative_to(root)}: {room} imports {other}")
    return found


def test_rooms_import_only_what_they_may() -> None:
    assert violations(ROOT) == []


def test_every_folder_of_the_package_is_a_room() -> None:
    folders = {f"qmnv3.{path.parent.name}" for path in (ROOT / "qmnv3").glob("*/__init__.py")}
    assert folders - set(ALLOWED) == {"qmnv3.cli"}


@pytest.mark.parametrize(
    ("file", "source", "expected"),
    [
        ("qmnv3/ir/graph.py", "def f():\n    import torch.nn", "qmnv3.ir imports torch"),
        ("qmnv3/models/net.py", "from qmnv3.quant import fold", "qmnv3.models imports qmnv3.quant"),
        ("device_eval/run.py", "from qmnv3 import models", "device_eval imports qmnv3.models"),
        ("calibration/job.py", "from qmnv3.data import sample", "calibration imports qmnv3.data"),
        ("qmnv3/quant/x.py", "import calibration.ptq", "qmnv3.quant imports calibration"),
    ],
)
def test_a_forbidden_import_is_found(tmp_path: Path, file: str, source: str, expected: str) -> None:
    path = tmp_path / file
    path.parent.mkdir(parents=True)
    path.write_text(source)
    assert violations(tmp_path) == [f"{file}: {expected}"]


def test_nothing_after_quant_graph_loads_torch() -> None:
    """The rules above cannot see what third-party packages import; a process can."""
    modules = [
        module_name(file, ROOT)
        for top in {room.partition(".")[0] for room in TORCH_FREE}
        for file in sorted((ROOT / top).rglob("*.py"))
        if room_of(module_name(file, ROOT)) in TORCH_FREE
    ]
    assert "qmnv3.ir.graph" in modules
    probe = (
        "import importlib, json, sys\n"
        "for name in json.loads(sys.argv[1]):\n"
        "    importlib.import_module(name)\n"
        "    assert 'torch' not in sys.modules, name\n"
    )
    command = [sys.executable, "-c", probe, json.dumps(modules)]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert finished.returncode == 0, finished.stderr
