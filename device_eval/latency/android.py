"""Latency on a phone: TFLite's benchmark_model, sent there by adb and run on one big core."""

import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

from device_eval.latency.adb import Adb
from device_eval.latency.benchmark_output import Run, complaint, parse
from device_eval.latency.binary import check_abi
from device_eval.latency.phone_folder import PROGRAM, phone_folder
from device_eval.latency.phone_state import (
    READ_BATTERY,
    READ_HEAT,
    READ_MAX_KHZ,
    fastest,
    parse_battery,
    parse_frequencies,
    parse_heat,
)
from device_eval.latency.result import Latency, Measurement, Plan, Refusal, Report
from device_eval.runners.interface import Kernel
from qmnv3.errors import DeviceError, ModelFileError
from qmnv3.files import file_sha256

RUNS_PER_SAMPLE = 5
"""benchmark_model tells means, not runs. Many short calls in turns show drift, which one long call hides."""

COOL_DOWN_S = 180.0
_RUN_TIMEOUT_S = 300.0
_POLL_S = 5.0
# What a shell says of a program it cannot start, and of one that is not there.
_CANNOT_START = (126, 127)


@dataclass(frozen=True)
class Contender:
    """A model under one of TFLite's kernels; `remote` is its path on the phone."""

    path: Path
    kernel: Kernel
    remote: str

    @property
    def runtime(self) -> str:
        """For people."""
        return f"phone {self.kernel}"


@dataclass(frozen=True)
class Android:
    """A phone behind adb. `program` is a benchmark_model built for it.

    With one thread its fastest core is used, with N its N fastest. `cool_down_s` bounds all waiting for it to
    cool down.
    """

    adb: Adb
    program: Path
    cool_down_s: float = COOL_DOWN_S
    sleep: Callable[[float], None] = time.sleep

    def measure(self, paths: Sequence[Path], plan: Plan, report: Report) -> Measurement:
        """A sample is the mean of five runs in one call of benchmark_model; models take turns call by call.

        Raises DeviceError when the phone cannot be used or is lost, ModelFileError when no model runs.
        """
        _check(paths, plan)
        facts = self._facts()
        check_abi(self.program, facts["abis"], self.adb.serial)
        max_khz = parse_frequencies(self._ask(READ_MAX_KHZ))
        if not max_khz:
            raise DeviceError(f"phone {self.adb.serial} does not tell its cores' frequencies: none to choose")
        before = self._state()
        with phone_folder(self.adb, self.program, paths) as (folder, remotes):
            session = _Session(self, folder, plan, report, max_khz, fastest(max_khz, plan.threads))
            first, refusals = session.first_runs(
                [Contender(p, k, r) for p, r in zip(paths, remotes, strict=True) for k in plan.kernels]
            )
            samples = session.rounds(list(first))
        latencies = tuple(
            Latency(
                contender.path,
                contender.runtime,
                tuple(samples[contender]),
                min(plan.runs, RUNS_PER_SAMPLE),
                session.throttled,
                run.memory_mb,
                run.operations if plan.profile else None,
            )
            for contender, run in first.items()
        )
        conditions = {
            "kind": "android",
            **facts,
            "cores": list(session.cores),
            "max_khz": {str(core): khz for core, khz in max_khz.items()},
            "before": before,
            "after": self._state(),
            "waited_s": session.waited_s,
        }
        return Measurement(latencies, tuple(refusals), conditions)

    def identity(self) -> dict[str, str]:
        """Serial number, model, Android; SHA-256 of the program. DeviceError when the phone is gone."""
        found = self._facts()
        facts = {name: found[name] for name in ("serial", "model", "android")}
        name = f"{facts['model']} ({facts['serial']})"
        return {"name": name, **facts, "benchmark_model": file_sha256(self.program)}

    def _facts(self) -> dict[str, Any]:
        names = ("ro.product.model", "ro.build.version.release", "ro.product.cpu.abilist")
        model, release, abis = (self._ask(f"getprop {name}").strip() for name in names)
        return {"serial": self.adb.serial, "model": model, "android": release, "abis": abis.split(",")}

    def _state(self) -> dict[str, Any]:
        heat, battery = parse_heat(self._ask(READ_HEAT)), parse_battery(self._ask(READ_BATTERY))
        return {
            "thermal_status": heat.status,
            "cpu_celsius": heat.cpu_celsius,
            "battery_percent": battery.percent,
            "battery_celsius": battery.celsius,
            "charging": battery.powered,
        }

    def _ask(self, command: str) -> str:
        return self.adb.shell(command).output


@dataclass
class _Session:
    """Calls of benchmark_model in one folder of the phone, and how long it had to cool meanwhile."""

    phone: Android
    folder: str
    plan: Plan
    report: Report
    max_khz: dict[int, int]
    cores: tuple[int, ...]
    waited_s: float = 0.0
    throttled: str | None = None

    def first_runs(self, contenders: Sequence[Contender]) -> tuple[dict[Contender, Run], list[Refusal]]:
        """One call each that is not timed: does it run, how much memory, and times per operation."""
        # The thread that watches memory disturbs the timing: only here.
        flags = ["--report_peak_memory_footprint=true"]
        if self.plan.profile:
            # TFLite's tool knows the first, LiteRT's the second; both only warn of the other.
            flags += ["--enable_op_profiling=true", "--use_profiler=true"]
        runs: dict[Contender, Run] = {}
        refusals = []
        for number, contender in enumerate(contenders):
            self.report.step("first runs", number, len(contenders))
            run = self._call(contender, self.plan.runs if self.plan.profile else 1, flags)
            if isinstance(run, str):
                reason = f"{contender.path}: the phone's benchmark_model refuses it ({run})"
                refusals.append(Refusal(contender.path, contender.runtime, reason))
            elif contender.kernel == "builtin" and "use_xnnpack" in run.ignored_flags:
                reason = f"{self.phone.program}: it knows no --use_xnnpack=false; use --kernel xnnpack"
                refusals.append(Refusal(contender.path, contender.runtime, reason))
            else:
                runs[contender] = run
        if not runs:
            raise ModelFileError(refusals[0].reason)
        return runs, refusals

    def rounds(self, contenders: Sequence[Contender]) -> dict[Contender, list[float]]:
        """Mean microseconds per call, A B C A B C ..., until every model had its runs."""
        samples: dict[Contender, list[float]] = {contender: [] for contender in contenders}
        rounds = ceil(self.plan.runs / RUNS_PER_SAMPLE)
        for number in range(rounds):
            self._wait_until_cool()
            self.report.step("measuring", number, rounds)
            for contender in contenders:
                run = self._call(contender, min(self.plan.runs, RUNS_PER_SAMPLE))
                if isinstance(run, str):
                    raise DeviceError(
                        f"{contender.path}: ran on the phone before, fails now ({run}); run again"
                    )
                samples[contender].append(run.mean_us)
        if self.throttled is None and (reason := self._slowed()):
            self.throttled = f"throttled: {reason} after the last run"
        return samples

    def _call(self, contender: Contender, runs: int, more: Sequence[str] = ()) -> Run | str:
        """What benchmark_model measured, or why it did not."""
        command = [
            *("taskset", f"{sum(1 << core for core in self.cores):x}", f"{self.folder}/{PROGRAM}"),
            f"--graph={contender.remote}",
            f"--num_threads={self.plan.threads}",
            f"--use_xnnpack={'true' if contender.kernel == 'xnnpack' else 'false'}",
            f"--num_runs={runs}",
            # No least time: the number of runs decides. Half a second of warm-up brings the clock up.
            "--min_secs=0",
            f"--warmup_runs={max(1, self.plan.warmup)}",
            "--warmup_min_secs=0.5",
            *more,
        ]
        answer = self.phone.adb.shell(shlex.join(command), _RUN_TIMEOUT_S)
        if answer.code in _CANNOT_START:
            raise DeviceError(
                f"phone {self.phone.adb.serial} cannot start {self.phone.program} "
                f"({complaint(answer.output)}); give a benchmark_model built for it"
            )
        run = parse(answer.output) if answer.code == 0 else None
        return run or complaint(answer.output)

    def _wait_until_cool(self) -> None:
        """Wait while the phone slows its cores; what waiting did not mend is kept as `throttled`."""
        limit_s, announced = self.phone.cool_down_s, False
        while (reason := self._slowed()) and self.waited_s < limit_s:
            if not announced:
                left_s = limit_s - self.waited_s
                self.report.note(f"{reason}; waiting up to {left_s:.0f} s for the phone to cool down")
                announced = True
            self.report.step("cooling down", int(self.waited_s), int(limit_s))
            self.phone.sleep(_POLL_S)
            self.waited_s += _POLL_S
        if reason:
            self.throttled = f"throttled: {reason}, not over after {self.waited_s:.0f} s"

    def _slowed(self) -> str | None:
        heat = parse_heat(self.phone.adb.shell(READ_HEAT).output)
        return heat.throttled(self.max_khz, self.cores)


def _check(paths: Sequence[Path], plan: Plan) -> None:
    for path in paths:
        if path.suffix != ".tflite":
            raise ModelFileError(f"{path}: a phone's benchmark_model runs .tflite only; give the .tflite")
    if "reference" in plan.kernels:
        raise DeviceError("--kernel reference: benchmark_model has only xnnpack and builtin")
