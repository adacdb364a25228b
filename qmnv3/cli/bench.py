"""`qmnv3 bench`: latency of model files, measured in turns on this host or a phone."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qmnv3.cli.options import KernelName

if TYPE_CHECKING:
    from device_eval.latency import Benchmark
    from device_eval.latency.result import Device

EXAMPLES = """
Latency at batch 1 in LiteRT and ONNX Runtime, models measured in turns; partitions and operations.

**Examples**

    qmnv3 bench out/model_float32.tflite out/model_int8.tflite

    qmnv3 bench out/model_float32.onnx out/model_int8.onnx --threads 2 --runs 100 --json latency.json

    qmnv3 bench out/model_int8.tflite --device adb --benchmark-model android_aarch64_benchmark_model
"""


def command(
    models: Annotated[list[Path], typer.Argument(help=".tflite and .onnx files; ratios are to the first.")],
    device: Annotated[str, typer.Option(help="host, adb (the only phone connected) or adb:SERIAL.")] = "host",
    threads: Annotated[int, typer.Option(min=1, help="Threads; with 1, pinned to one core.")] = 1,
    runs: Annotated[int, typer.Option(min=1, help="Measured runs of each model.")] = 50,
    warmup: Annotated[
        int, typer.Option(min=0, help="Least runs of each model before measuring; more until times settle.")
    ] = 10,
    kernel: Annotated[
        list[KernelName] | None, typer.Option(help="LiteRT kernels (default: xnnpack and builtin).")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the random input image, on the host.")] = 0,
    profile: Annotated[
        bool,
        typer.Option("--profile", help="Times per operation too: .onnx on the host, .tflite on a phone."),
    ] = False,
    benchmark_model: Annotated[
        str | None,
        typer.Option(help="TFLite's benchmark_model for the phone: a file, or URL#sha256=DIGEST to fetch."),
    ] = None,
    cool_down: Annotated[
        float, typer.Option(min=0, help="Most seconds to wait, in all, for a throttled phone.")
    ] = 180,
    json: Annotated[Path | None, typer.Option(help="Write all samples here.")] = None,
) -> None:
    """p50, p90 and fastest run in LiteRT and ONNX Runtime, batch 1; partitions and operations."""
    from device_eval.latency import Plan, benchmark
    from device_eval.latency.result import DEFAULT_KERNELS
    from qmnv3.cli.bench_view import print_benchmark, reporting

    kernels = tuple(name.kernel for name in kernel) if kernel else DEFAULT_KERNELS
    plan = Plan(kernels, threads, runs, warmup, seed, profile)
    chosen = find_device(device, benchmark_model, cool_down)
    with reporting() as report:
        result = benchmark(models, plan, chosen, report)
    print_benchmark(result, threads)
    if json is not None:
        _write(json, result, {"threads": threads, "runs": runs, "warmup": warmup, "seed": seed})


command.__doc__ = EXAMPLES


def find_device(name: str, program: str | None, cool_down_s: float) -> "Device":
    """Host, or the phone of that name; DeviceError for any other."""
    from device_eval.latency.host import Host
    from qmnv3.errors import DeviceError

    kind, _, serial = name.partition(":")
    if name == "host":
        if program is not None:
            raise DeviceError(f"--benchmark-model {program}: only for phones; add --device adb")
        return Host()
    if kind != "adb" or (":" in name and not serial):
        raise DeviceError(f"--device {name}: unknown; give host, adb or adb:SERIAL")
    from device_eval.latency.adb import connect
    from device_eval.latency.android import Android
    from qmnv3.cli.benchmark_model import find_program

    path = find_program(program)
    return Android(connect(serial or None), path, cool_down_s)


def _write(path: Path, result: "Benchmark", options: dict[str, Any]) -> None:
    from qmnv3.environment import environment
    from qmnv3.files import write_json

    value = {"command": "bench", **options, "environment": environment(), **result.to_json()}
    write_json(path, value)
