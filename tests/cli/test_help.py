"""Help must come at once: nothing heavy is imported before a command runs."""

import json
import subprocess
import sys

import pytest

HEAVY = {"torch", "numpy", "scipy", "PIL", "onnx", "onnxruntime", "ai_edge_litert", "sklearn", "safetensors"}

PROBE = """
import json, sys
import qmnv3.cli
sys.argv = ["qmnv3", *json.loads(sys.argv[1])]
try:
    qmnv3.cli.main()
except SystemExit as exit_:
    print("\\nPROBE", json.dumps([exit_.code, sorted({name.partition(".")[0] for name in sys.modules})]))
"""


def run_cli(*arguments: str) -> tuple[str, int, set[str]]:
    """Output, exit code and top-level modules imported by `qmnv3 ARGUMENTS` in a fresh process."""
    command = [sys.executable, "-c", PROBE, json.dumps(arguments)]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert finished.returncode == 0, finished.stderr
    output, _, probe = finished.stdout.rpartition("PROBE")
    code, modules = json.loads(probe)
    return output, code or 0, set(modules)


@pytest.mark.parametrize(
    "command",
    [
        [],
        ["train"],
        ["ptq"],
        ["qat"],
        ["sensitivity"],
        ["export"],
        ["eval"],
        ["bench"],
        ["lint"],
        ["weights"],
    ],
)
def test_help_imports_nothing_heavy(command: list[str]) -> None:
    output, code, modules = run_cli(*command, "--help")
    assert code == 0
    assert "Usage" in output
    assert sorted(modules & HEAVY) == []


def test_help_names_every_command() -> None:
    output, _, _ = run_cli("--help")
    for name in ("info", "ptq", "sensitivity", "inspect", "export", "eval", "bench", "lint", "weights"):
        assert f" {name} " in output


def test_the_probe_sees_heavy_imports(tmp_path: object) -> None:
    """Guards the test above: a command that runs does import NumPy, and the probe reports it."""
    _, code, modules = run_cli("inspect", f"{tmp_path}/missing")
    assert code == 2
    assert "numpy" in modules
