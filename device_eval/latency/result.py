"""What is asked of a device that measures, and what it answers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from device_eval.latency.steadiness import MIN_SAMPLES, noise
from device_eval.latency.structure import Structure
from device_eval.runners.interface import Kernel

DEFAULT_KERNELS: tuple[Kernel, ...] = ("xnnpack", "builtin")


@dataclass(frozen=True)
class Plan:
    """How to measure: batch 1, every model `runs` times after at least `warmup` runs that do not count."""

    kernels: tuple[Kernel, ...] = DEFAULT_KERNELS
    threads: int = 1
    runs: int = 50
    warmup: int = 10
    seed: int = 0
    profile: bool = False


@dataclass(frozen=True)
class Report:
    """Called while measuring: `step` with a phase and how much of it is done, `note` with news for people."""

    step: Callable[[str, int, int], None] = lambda phase, done, total: None
    note: Callable[[str], None] = lambda text: None


@dataclass(frozen=True)
class OperationTime:
    """Mean microseconds of one operation per run of the model, as the runtime's own profiler calls it."""

    kind: str
    name: str
    mean_us: float


@dataclass(frozen=True)
class Latency:
    """One model under one runtime: every sample in microseconds, in the order taken.

    A sample is one run, or the mean of `runs_per_sample` where the runtime tells no more. `disturbance` is
    what the device itself says against the samples. `memory_mb` is how much a process grew at its peak that
    loaded the model and ran it once.
    """

    path: Path
    runtime: str
    samples_us: tuple[float, ...]
    runs_per_sample: int = 1
    disturbance: str | None = None
    memory_mb: float | None = None
    profile: tuple[OperationTime, ...] | None = None

    @property
    def p50_us(self) -> float:
        """Median."""
        return float(np.percentile(self.samples_us, 50))

    @property
    def p90_us(self) -> float:
        """Nine of ten samples are at least this fast."""
        return float(np.percentile(self.samples_us, 90))

    @property
    def min_us(self) -> float:
        """The fastest sample."""
        return min(self.samples_us)

    @property
    def verdict(self) -> str:
        """ "steady", "noisy: REASON", or "not judged: REASON"."""
        reason = self.disturbance or noise(self.samples_us)
        if reason:
            return f"noisy: {reason}"
        if len(self.samples_us) < MIN_SAMPLES:
            return f"not judged: {len(self.samples_us)} samples, {MIN_SAMPLES} show drift"
        return "steady"


@dataclass(frozen=True)
class Refusal:
    """A model that one runtime will not run, with its reason."""

    path: Path
    runtime: str
    reason: str


@dataclass(frozen=True)
class Measurement:
    """Latencies in the order of the models given, and what could not be measured.

    `conditions` holds plain JSON about the device while it measured; `notes` are sentences for people.
    """

    latencies: tuple[Latency, ...]
    refusals: tuple[Refusal, ...] = ()
    conditions: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


class Device(Protocol):
    """Something that runs model files and times them."""

    def measure(self, paths: Sequence[Path], plan: Plan, report: Report) -> Measurement:
        """Samples of every model, taken in turns; ModelFileError when no model runs at all."""

    def identity(self) -> dict[str, str]:
        """What tells the device and the program that runs models on it from others; "name" is for people."""


@dataclass(frozen=True)
class Benchmark:
    """A measurement, and what the models are made of."""

    measurement: Measurement
    structures: tuple[Structure, ...]

    @property
    def latencies(self) -> tuple[Latency, ...]:
        """Latencies in the order of the models given."""
        return self.measurement.latencies

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types, every sample included; ratios are to the first model's median."""
        return {
            "device": dict(self.measurement.conditions),
            "latencies": [_latency_json(latency, self.latencies[0]) for latency in self.latencies],
            "refusals": [_with_path(refusal) for refusal in self.measurement.refusals],
            "models": [_with_path(structure) for structure in self.structures],
            "notes": list(self.measurement.notes),
        }


def _latency_json(latency: Latency, first: Latency) -> dict[str, Any]:
    profile = latency.profile
    return {
        "path": str(latency.path),
        "runtime": latency.runtime,
        "p50_us": latency.p50_us,
        "p90_us": latency.p90_us,
        "min_us": latency.min_us,
        "ratio_p50": latency.p50_us / first.p50_us,
        "verdict": latency.verdict,
        "runs_per_sample": latency.runs_per_sample,
        "memory_mb": latency.memory_mb,
        "latency_us": list(latency.samples_us),
        "profile": None if profile is None else [asdict(operation) for operation in profile],
    }


def _with_path(value: Refusal | Structure) -> dict[str, Any]:
    return {**asdict(value), "path": str(value.path)}
