"""How much this process grows while it loads a model and runs it once: for processes made for that alone."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from device_eval.probe import Stage

_STATUS = Path("/proc/self/status")
_BYTES_PER_MB = 1e6


def grown_mb(path: Path, stage: Stage) -> float | None:
    """Growth of the peak of resident memory in MB (10^6 bytes), pages of files left out: the runtime's code.

    None where the system does not tell. Raises what the runtime does.
    """
    if not _STATUS.exists():
        return None
    run = _onnx(path) if stage == "onnxruntime" else _litert(path, stage)
    before = _Resident.now()
    run()
    after = _Resident.now()
    return (after.peak - before.total - (after.of_files - before.of_files)) / _BYTES_PER_MB


@dataclass(frozen=True)
class _Resident:
    """Bytes of this process in memory."""

    total: int
    peak: int
    of_files: int

    @classmethod
    def now(cls) -> "_Resident":
        lines = (line.partition(":") for line in _STATUS.read_text().splitlines())
        values = {name: value.split() for name, _, value in lines}
        return cls(*(int(values[name][0]) * 1024 for name in ("VmRSS", "VmHWM", "RssFile")))


# Runtimes are imported before the memory at the start is read.


def _litert(path: Path, stage: Stage) -> Callable[[], None]:
    from device_eval.runners.litert import load_interpreter

    assert stage != "read" and stage != "onnxruntime"

    def run() -> None:
        interpreter = load_interpreter(path, stage, 1)
        for details in interpreter.get_input_details():
            interpreter.set_tensor(details["index"], np.zeros(details["shape"], details["dtype"]))
        interpreter.invoke()

    return run


def _onnx(path: Path) -> Callable[[], None]:
    from device_eval.runners.onnx import load_session, session_options

    def run() -> None:
        session = load_session(path, session_options(1))
        shapes = {given.name: given.shape for given in session.get_inputs()}
        sides = {name: [n if isinstance(n, int) else 1 for n in shape] for name, shape in shapes.items()}
        session.run(None, {name: np.zeros(shape, np.float32) for name, shape in sides.items()})

    return run
