"""Time and memory of `qmnv3 ptq` beside the float model and ONNX Runtime's quantize_static, same images.

`python -m benchmarks.ptq --model small --weights W --calib DIR`, from the repository root. Without --calib,
images and weights of the data pack that QMNV3_DATA names.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.ptq_contenders import BATCH_SIZE, CONTENDERS, Setting, setting_json

LABELS = {
    "float": "float model: decode, preprocess, forward",
    "qmnv3": "qmnv3 ptq, start to saved RUN",
    "onnxruntime": "onnxruntime quantize_static (min-max)",
}
PACK_WEIGHTS = {"small": "v3_small_imagenet", "v2": "v2_imagenet"}
Samples = dict[str, list[float]]
Memory = dict[str, dict[str, float]]


def main(
    model: Annotated[str, typer.Option(help="As in `qmnv3 ptq --model`.")] = "small",
    weights: Annotated[Path | None, typer.Option(help="Checkpoint of the model.")] = None,
    calib: Annotated[Path | None, typer.Option(help="Folder of images.")] = None,
    images: Annotated[int, typer.Option(min=1, help="Images in the timed runs.")] = 200,
    repeats: Annotated[int, typer.Option(min=1, help="Timed runs of each, in turns.")] = 3,
    memory: Annotated[str, typer.Option(help="Image counts for peak memory; empty for none.")] = "200,1000",
    json_file: Annotated[Path | None, typer.Option("--json", help="Write all samples here.")] = None,
) -> None:
    """Seconds in turns within one process; peak memory each in a fresh process per number of images."""
    weights, calib = _inputs(model, weights, calib)
    with tempfile.TemporaryDirectory() as folder:
        setting = Setting(
            model, str(weights) if weights else None, str(calib), images, folder + "/float.onnx"
        )
        _export_float(setting)
        seconds = _measure(setting, repeats)
        cold = [_cold_command_s(setting) for _ in range(repeats)]
        counts = [int(count) for count in memory.split(",") if count]
        peaks = {name: {str(n): _peak_mib(name, setting, n) for n in counts} for name in CONTENDERS}
    Console(width=110).print(_table(seconds, peaks, images, counts))
    print(f"qmnv3 ptq as a command, with Python and torch starting: {min(cold):.2f} s")
    if json_file is not None:
        _write(json_file, setting, seconds, cold, peaks)


def _inputs(model: str, weights: Path | None, calib: Path | None) -> tuple[Path | None, Path]:
    data = os.environ.get("QMNV3_DATA")
    if calib is None and data:
        calib = Path(data, "imagenet", "calib")
        known = Path(data, "weights", f"{PACK_WEIGHTS.get(model)}.safetensors")
        weights = weights or (known if known.is_file() else None)
    if calib is None:
        raise typer.BadParameter("give --calib DIR (a folder of images), or set QMNV3_DATA to the data pack")
    return weights, calib


def _export_float(setting: Setting) -> None:
    """Write `setting.onnx`, the float parent that qmnv3 exports."""
    from calibration.config import PtqConfig
    from qmnv3.cli.ptq_job import PtqJob, run_ptq
    from qmnv3.export.files import export_run

    weights = Path(setting.weights) if setting.weights else None
    folder = Path(setting.onnx).parent
    job = PtqJob(setting.model, weights, Path(setting.calib), folder / "run", PtqConfig(images=BATCH_SIZE))
    run_ptq(job)
    export_run(folder / "run", folder / "exported", ("float32",), "onnx")
    (folder / "exported" / "model_float32.onnx").replace(setting.onnx)


def _measure(setting: Setting, repeats: int) -> Samples:
    """Samples in turns, so that what else the machine does falls on all alike; one unmeasured turn first."""
    samples: Samples = {name: [] for name in CONTENDERS}
    for turn in range(repeats + 1):
        for name, run in CONTENDERS.items():
            elapsed = run(setting)
            if turn:
                samples[name].append(elapsed)
    return samples


def _cold_command_s(setting: Setting) -> float:
    with tempfile.TemporaryDirectory() as folder:
        options = ["--model", setting.model, "--calib", setting.calib, "--images", str(setting.images)]
        if setting.weights:
            options += ["--weights", setting.weights]
        command = [sys.executable, "-m", "qmnv3", "ptq", *options, "--out", f"{folder}/run"]
        started = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        return time.perf_counter() - started


def _peak_mib(name: str, setting: Setting, images: int) -> float:
    value = Setting(setting.model, setting.weights, setting.calib, images, setting.onnx)
    command = [sys.executable, "-m", "benchmarks.ptq_contenders", name, setting_json(value)]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return float(json.loads(output.splitlines()[-1])["peak_mib"])


def _table(seconds: Samples, peaks: Memory, images: int, counts: list[int]) -> Table:
    table = Table(title=f"{images} images, fastest of {len(seconds['float'])}", title_justify="left")
    table.add_column("")
    for heading in ("seconds", "x float", *(f"MiB at {count}" for count in counts)):
        table.add_column(heading, justify="right")
    reference = min(seconds["float"])
    for name, samples in seconds.items():
        memory = (f"{peaks[name][str(count)]:.0f}" for count in counts)
        table.add_row(LABELS[name], f"{min(samples):.2f}", f"{min(samples) / reference:.2f}", *memory)
    return table


def _write(path: Path, setting: Setting, seconds: Samples, cold: list[float], peaks: Memory) -> None:
    import torch

    from calibration.config import PtqConfig
    from qmnv3.environment import environment
    from qmnv3.files import write_json
    from recipes import load_recipe

    recipe = load_recipe("ptq", PtqConfig, images=setting.images, batch_size=BATCH_SIZE)
    value: dict[str, Any] = {
        "command": "benchmarks.ptq",
        "model": setting.model,
        "weights": setting.weights,
        "calibration_images": setting.calib,
        "recipe": recipe.model_dump(),
        "torch_threads": torch.get_num_threads(),
        "environment": environment(),
        "seconds": seconds,
        "command_seconds": cold,
        "peak_mib": peaks,
    }
    write_json(path, value)


if __name__ == "__main__":
    typer.run(main)
