"""Several models measured on one device."""

from collections.abc import Sequence
from pathlib import Path

from device_eval.latency.host import Host
from device_eval.latency.result import Benchmark, Device, Plan, Report
from device_eval.latency.structure import structure

HOST = Host()


def benchmark(
    paths: Sequence[Path], plan: Plan | None = None, device: Device = HOST, report: Report | None = None
) -> Benchmark:
    """Time every .tflite under each of the plan's kernels, and every .onnx, in turns.

    Raises ModelFileError for files that are no models, for RUN folders, and when no model runs at all;
    DeviceError when a phone cannot be measured.
    """
    structures = tuple(structure(path) for path in paths)
    return Benchmark(device.measure(paths, plan or Plan(), report or Report()), structures)
