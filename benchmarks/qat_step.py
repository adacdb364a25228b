"""Seconds and memory of a quantization-aware training step beside the float model's and torchao's.

`python -m benchmarks.qat_step [--model large] [--steps N] [--json F]`, from the repository root.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.qat_step_contenders import CONTENDERS, Setting
from qmnv3.environment import environment
from qmnv3.files import write_json
from qmnv3.training.distributed import gpu_name
from qmnv3.training.memory import keep_freed_memory

BASE = "float"
LABELS = {
    "float_contiguous": "float, contiguous",
    "float": "float, channels_last",
    "float_bf16": "float, bfloat16 autocast",
    "float_compiled": "float, torch.compile",
    "qmnv3": "qmnv3",
    "qmnv3_frozen": "qmnv3, BatchNorm frozen",
    "qmnv3_bf16": "qmnv3, bfloat16 autocast",
    "torchao": "torchao prepare_qat_pt2e",
}
WARMUP = 2
COMPILERS = (os.environ.get("CXX", "g++"), "clang++")


def main(
    model: Annotated[str, typer.Option(help="A built-in model.")] = "large",
    steps: Annotated[int, typer.Option(min=1, help="Timed steps of each, in turns.")] = 7,
    batch: Annotated[int, typer.Option(min=1, help="Images per step.")] = 32,
    resolution: Annotated[int, typer.Option(min=32, help="Side of an image in pixels.")] = 224,
    device: Annotated[str, typer.Option(help="cpu, cuda, or all there are.")] = "all",
    memory: Annotated[bool, typer.Option(help="Also measure peak memory.")] = True,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write all samples here.")] = None,
) -> None:
    """Steps in turns within one process; peak memory each in a process of its own."""
    keep_freed_memory()
    results: dict[str, Any] = {}
    for where in _devices(device):
        setting = Setting(model, batch, resolution, where)
        samples = _measure(setting, steps)
        peaks = {name: _peak_mib(name, setting) for name in samples} if memory else {}
        results[where] = _summary(samples, peaks)
        Console(width=110).print(_table(setting, results[where]))
        for name in CONTENDERS:
            if missing := _missing(name, where):
                print(f"{LABELS[name]}: left out, {missing}")
    if json_file is not None:
        first = next(iter(results.values()))
        head = {"model": model, "batch": batch, "resolution": resolution, "ratio": first["ratio"]}
        measured = environment() | {"gpus": {name: gpu_name(name) for name in results}}
        write_json(json_file, {**head, "devices": results, "environment": measured})


def _devices(asked: str) -> list[str]:
    there = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    chosen = there if asked == "all" else [asked]
    if not set(chosen) <= set(there):
        sys.exit(f"error: --device {asked}: there is only {', '.join(there)}")
    return chosen


def _missing(name: str, device: str) -> str | None:
    """What a contender lacks on this machine, and how to get it."""
    if name == "torchao" and find_spec("torchao") is None:
        return "torchao is not installed: pip install 'torchao>=0.18,<0.19'"
    if name == "float_compiled" and device == "cpu" and not any(map(shutil.which, COMPILERS)):
        return "torch.compile needs a C++ compiler: apt install g++"
    return None


def _measure(setting: Setting, steps: int) -> dict[str, list[float]]:
    ready = {name: make(setting) for name, make in CONTENDERS.items() if not _missing(name, setting.device)}
    samples: dict[str, list[float]] = {name: [] for name in ready}
    for index in track(range(WARMUP + steps), f"steps on {setting.device}", console=Console(stderr=True)):
        for name, step in ready.items():
            seconds = _timed(step, setting)
            if index >= WARMUP:
                samples[name].append(seconds)
    return samples


def _timed(step: Callable[[], None], setting: Setting) -> float:
    start = time.perf_counter()
    step()
    if setting.device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def _peak_mib(name: str, setting: Setting) -> float:
    """What two steps need beyond the model, its parent and the image, in a process of their own."""
    command = [sys.executable, "-m", "benchmarks.qat_step_contenders", name, json.dumps(setting.__dict__)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def _summary(samples: dict[str, list[float]], peaks: dict[str, float]) -> dict[str, Any]:
    """Ratios are medians of the ratios within each turn."""
    base = samples[BASE]
    ratio = {
        name: statistics.median(s / b for s, b in zip(taken, base, strict=True))
        for name, taken in samples.items()
    }
    summary: dict[str, Any] = {"step_s": samples, "ratio": ratio}
    if peaks:
        summary |= {
            "peak_mib": peaks,
            "memory_ratio": {name: peak / peaks[BASE] for name, peak in peaks.items()},
        }
    return summary


def _table(setting: Setting, summary: dict[str, Any]) -> Table:
    size = f"{setting.batch} images of {setting.resolution} px on {setting.device}"
    table = Table(title=f"one training step of {setting.model}, {size}")
    for column in ("", "s (median)", "s (all)", "× float", "peak MiB", "× float"):
        table.add_column(column, justify="left" if not column else "right")
    for name, taken in summary["step_s"].items():
        peak = summary.get("peak_mib", {}).get(name)
        table.add_row(
            LABELS[name],
            f"{statistics.median(taken):.3f}",
            " ".join(f"{seconds:.2f}" for seconds in taken),
            f"{summary['ratio'][name]:.2f}",
            "" if peak is None else f"{peak:.0f}",
            "" if peak is None else f"{summary['memory_ratio'][name]:.2f}",
        )
    return table


if __name__ == "__main__":
    typer.run(main)
