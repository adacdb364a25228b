"""Latency of several models measured in turns on the same machine."""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from device_eval.onnx_operations import optimized_operations
from device_eval.partitions import Partitions, delegate_partitions
from device_eval.runners import check_exists
from device_eval.runners.interface import FloatArray, Invocable, Kernel
from device_eval.runners.litert import LitertRunner
from device_eval.runners.onnx import OnnxRunner
from qmnv3.errors import ModelFileError

DEFAULT_KERNELS: tuple[Kernel, ...] = ("xnnpack", "builtin")


@dataclass(frozen=True)
class Latency:
    """One model under one runtime: every sample in microseconds, in the order taken."""

    path: Path
    runtime: str
    samples_us: tuple[float, ...]

    @property
    def p50_us(self) -> float:
        """Median."""
        return float(np.percentile(self.samples_us, 50))

    @property
    def p90_us(self) -> float:
        """Nine of ten runs are at least this fast."""
        return float(np.percentile(self.samples_us, 90))

    @property
    def min_us(self) -> float:
        """The fastest run."""
        return min(self.samples_us)


@dataclass(frozen=True)
class Structure:
    """What a model is made of: `partitions` for TFLite; for ONNX `float_ops` that remain after optimizing."""

    path: Path
    size_bytes: int
    op_counts: dict[str, int]
    partitions: Partitions | None = None
    float_ops: dict[str, int] | None = None


@dataclass(frozen=True)
class Refusal:
    """A model that one runtime will not run, with its reason."""

    path: Path
    runtime: str
    reason: str


@dataclass(frozen=True)
class Benchmark:
    """Latencies in the order of the models given, and what could not be measured."""

    latencies: tuple[Latency, ...]
    refusals: tuple[Refusal, ...]
    structures: tuple[Structure, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types, every sample included; ratios are to the first model's median."""
        return {
            "latencies": [_latency_json(latency, self.latencies[0]) for latency in self.latencies],
            "refusals": [{**asdict(refusal), "path": str(refusal.path)} for refusal in self.refusals],
            "models": [{**asdict(model), "path": str(model.path)} for model in self.structures],
        }


def _latency_json(latency: Latency, first: Latency) -> dict[str, Any]:
    return {
        "path": str(latency.path),
        "runtime": latency.runtime,
        "p50_us": latency.p50_us,
        "p90_us": latency.p90_us,
        "min_us": latency.min_us,
        "ratio_p50": latency.p50_us / first.p50_us,
        "latency_us": list(latency.samples_us),
    }


def benchmark(
    paths: Sequence[Path],
    *,
    kernels: Sequence[Kernel] = DEFAULT_KERNELS,
    threads: int = 1,
    runs: int = 50,
    warmup: int = 10,
    seed: int = 0,
    advance: Callable[[], None] = lambda: None,
) -> Benchmark:
    """Time every .tflite under each of `kernels` and every .onnx in ONNX Runtime, batch 1, in turns.

    Models of one resolution get the same seeded input. With one thread the process stays on one core.
    `advance` is called after every round, warm-up included. Raises ModelFileError for files that are no
    models, for RUN folders, and when no model runs at all.
    """
    structures = tuple(_structure(path) for path in paths)
    with pinned(threads):
        runners, refusals = _open_all(paths, kernels, threads)
        if not runners:
            raise ModelFileError(refusals[0].reason)
        inputs = [_random_image(runner.input.resolution, seed) for runner in runners]
        samples = time_in_turns(runners, inputs, runs=runs, warmup=warmup, advance=advance)
    latencies = tuple(
        Latency(runner.path, runner.runtime, tuple(taken))
        for runner, taken in zip(runners, samples, strict=True)
    )
    return Benchmark(latencies, tuple(refusals), structures)


def time_in_turns(
    models: Sequence[Invocable],
    inputs: Sequence[FloatArray],
    *,
    runs: int,
    warmup: int,
    advance: Callable[[], None] = lambda: None,
) -> list[list[float]]:
    """Microseconds of `invoke` alone, A B C A B C ..., per model; the first `warmup` rounds are dropped.

    In turns, so that a slow spell of the machine hits all models alike.
    """
    samples: list[list[float]] = [[] for _ in models]
    for round_index in range(warmup + runs):
        for model, image, taken in zip(models, inputs, samples, strict=True):
            # LiteRT may reuse the input's memory for later tensors: hand it in again every time.
            model.stage(image)
            start = time.perf_counter_ns()
            model.invoke()
            elapsed_ns = time.perf_counter_ns() - start
            if round_index >= warmup:
                taken.append(elapsed_ns / 1000)
        advance()
    return samples


@contextmanager
def pinned(threads: int) -> Iterator[None]:
    """Keep this thread on one core while measuring with one thread, where the system can."""
    if threads != 1 or not hasattr(os, "sched_setaffinity"):
        yield
        return
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(allowed)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def _structure(path: Path) -> Structure:
    if path.is_dir():
        raise ModelFileError(
            f"{path}: a folder has no runtime to time; "
            f"run `qmnv3 export --int8 --checkpoint {path} --out DIR` and give the files"
        )
    check_exists(path)
    if path.suffix == ".tflite":
        partitions = delegate_partitions(path)
        return Structure(path, path.stat().st_size, partitions.op_counts, partitions=partitions)
    operations = optimized_operations(path)
    return Structure(path, path.stat().st_size, operations.op_counts, float_ops=operations.float_ops)


def _open_all(
    paths: Sequence[Path], kernels: Sequence[Kernel], threads: int
) -> tuple[list[LitertRunner | OnnxRunner], list[Refusal]]:
    runners: list[LitertRunner | OnnxRunner] = []
    refusals: list[Refusal] = []
    for path in paths:
        if path.suffix == ".onnx":
            runners.append(OnnxRunner(path, threads))
            continue
        for kernel in kernels:
            try:
                runners.append(LitertRunner(path, kernel, threads))
            except ModelFileError as error:
                refusals.append(Refusal(path, f"LiteRT {kernel}", str(error)))
    return runners, refusals


def _random_image(resolution: int, seed: int) -> FloatArray:
    generator = np.random.default_rng(seed)
    return generator.uniform(-1, 1, (1, resolution, resolution, 3)).astype(np.float32)
