"""Latency on this host, in LiteRT and ONNX Runtime: models in turns, one thread kept on one core."""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np

from device_eval.latency.onnx_profile import onnx_profile
from device_eval.latency.result import Latency, Measurement, OperationTime, Plan, Refusal, Report
from device_eval.latency.steadiness import noise, settled
from device_eval.probe import Stage, peak_memory_mb
from device_eval.runners.interface import FloatArray, Invocable
from device_eval.runners.litert import LitertRunner
from device_eval.runners.onnx import OnnxRunner
from qmnv3.environment import cpu_name
from qmnv3.errors import ModelFileError

RUNTIMES = ("ai-edge-litert", "onnxruntime")
MORE_WARMUP_ROUNDS = 50
REPEATS = 2

Samples = list[list[float]]
Take = Callable[[str, int], Samples]
"""Runs every model in turn, a number of rounds, under the name of a phase: microseconds per model."""

_NO_PROFILER = (
    "LiteRT's Python interpreter has no profiler: times per operation of .tflite files need --device adb"
)


@dataclass(frozen=True)
class Host:
    """This machine; every sample is one run."""

    def measure(self, paths: Sequence[Path], plan: Plan, report: Report) -> Measurement:
        """Models of one resolution get the same seeded input. With one thread the process keeps to a core."""
        with pinned(plan.threads):
            runners, refusals = _open_all(paths, plan)
            if not runners:
                raise ModelFileError(refusals[0].reason)
            images = [_random_image(runner.input.resolution, plan.seed) for runner in runners]

            def take(phase: str, rounds: int) -> Samples:
                return time_in_turns(runners, images, rounds, lambda done: report.step(phase, done, rounds))

            warmup_rounds = warm_up(take, plan.warmup)
            samples, attempts = until_steady(take, plan.runs)
            profiles = [_profile(r, i, plan) for r, i in zip(runners, images, strict=True)]
        latencies = tuple(
            Latency(runner.path, runner.runtime, tuple(taken), memory_mb=_memory_mb(runner), profile=profile)
            for runner, taken, profile in zip(runners, samples, profiles, strict=True)
        )
        lacking = plan.profile and any(isinstance(runner, LitertRunner) for runner in runners)
        conditions = {"kind": "host", "warmup_rounds": warmup_rounds, "attempts": attempts}
        return Measurement(latencies, tuple(refusals), conditions, (_NO_PROFILER,) if lacking else ())

    def identity(self) -> dict[str, str]:
        """Processor and versions of the runtimes."""
        return {"name": cpu_name(), **{package: version(package) for package in RUNTIMES}}


def time_in_turns(
    models: Sequence[Invocable],
    inputs: Sequence[FloatArray],
    rounds: int,
    advance: Callable[[int], None] = lambda done: None,
) -> Samples:
    """Microseconds of `invoke` alone, A B C A B C ..., per model; `advance` gets the rounds done so far.

    In turns, so that a slow spell of the machine hits all models alike.
    """
    samples: Samples = [[] for _ in models]
    for number in range(rounds):
        for model, image, taken in zip(models, inputs, samples, strict=True):
            # LiteRT may reuse the input's memory for later tensors: hand it in again every time.
            model.stage(image)
            start = time.perf_counter_ns()
            model.invoke()
            taken.append((time.perf_counter_ns() - start) / 1000)
        advance(number + 1)
    return samples


def warm_up(take: Take, minimum: int) -> int:
    """Run `minimum` rounds, then up to 50 more until every model has settled; returns the rounds run."""
    samples = take("warming up", minimum)
    rounds = minimum
    while rounds < minimum + MORE_WARMUP_ROUNDS and not all(settled(taken) for taken in samples):
        for taken, more in zip(samples, take("warming up", 1), strict=True):
            taken += more
        rounds += 1
    return rounds


def until_steady(take: Take, runs: int) -> tuple[Samples, int]:
    """Measure `runs` rounds, again at most twice while some model is noisy; returns samples and attempts.

    All samples are of one attempt, the least noisy: ratios compare models that ran at the same time.
    """
    attempts: list[Samples] = []
    for number in range(1 + REPEATS):
        attempts.append(take("measuring again" if number else "measuring", runs))
        if _noisy(attempts[-1]) == 0:
            break
    return min(attempts, key=_noisy), len(attempts)


def _noisy(samples: Samples) -> int:
    return sum(1 for taken in samples if noise(taken) is not None)


def _highest_khz(core: int) -> int:
    """0 where Linux does not tell; processors with cores of several kinds do."""
    try:
        return int(Path(f"/sys/devices/system/cpu/cpu{core}/cpufreq/cpuinfo_max_freq").read_text())
    except (OSError, ValueError):
        return 0


@contextmanager
def pinned(threads: int) -> Iterator[None]:
    """Keep this thread on one of the fastest cores while measuring with one thread, where the system can."""
    if threads != 1 or not hasattr(os, "sched_setaffinity"):
        yield
        return
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(allowed, key=lambda core: (_highest_khz(core), core))})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def _open_all(paths: Sequence[Path], plan: Plan) -> tuple[list[LitertRunner | OnnxRunner], list[Refusal]]:
    runners: list[LitertRunner | OnnxRunner] = []
    refusals: list[Refusal] = []
    for path in paths:
        if path.suffix == ".onnx":
            runners.append(OnnxRunner(path, plan.threads))
            continue
        for kernel in plan.kernels:
            try:
                runners.append(LitertRunner(path, kernel, plan.threads))
            except ModelFileError as error:
                refusals.append(Refusal(path, f"LiteRT {kernel}", str(error)))
    return runners, refusals


def _profile(
    runner: LitertRunner | OnnxRunner, image: FloatArray, plan: Plan
) -> tuple[OperationTime, ...] | None:
    if not plan.profile or isinstance(runner, LitertRunner):
        return None
    return onnx_profile(runner.path, image, plan)


def _memory_mb(runner: LitertRunner | OnnxRunner) -> float | None:
    stage: Stage = runner.kernel if isinstance(runner, LitertRunner) else "onnxruntime"
    return peak_memory_mb(runner.path, stage)


def _random_image(resolution: int, seed: int) -> FloatArray:
    generator = np.random.default_rng(seed)
    return generator.uniform(-1, 1, (1, resolution, resolution, 3)).astype(np.float32)
