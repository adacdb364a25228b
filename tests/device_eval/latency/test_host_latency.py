"""Measuring on this host: turns, warm-up, repeats, refusals, profiles."""

import os
import time
from collections.abc import Iterator
from itertools import chain, repeat
from pathlib import Path

import numpy as np
import pytest
from colour_models import SIDE, SPEC, colour_graph, write_colour_onnx

from device_eval.latency import Latency, Plan, benchmark, host
from device_eval.latency.benchmark import HOST
from device_eval.latency.host import (
    MORE_WARMUP_ROUNDS,
    Samples,
    Take,
    pinned,
    time_in_turns,
    until_steady,
    warm_up,
)
from device_eval.latency.onnx_profile import node_times
from qmnv3.errors import ModelFileError
from qmnv3.export.onnx_qdq import write_onnx
from qmnv3.export.tflite import write_tflite
from qmnv3.ir import Conv2d, Flatten, Metadata, QuantGraph, Tensor


class Recorder:
    def __init__(self, name: str, log: list[str], seconds: float = 0.0) -> None:
        self.name, self.log, self.seconds = name, log, seconds

    def stage(self, images: np.ndarray) -> None:
        time.sleep(0.005)  # must not be counted

    def invoke(self) -> None:
        self.log.append(self.name)
        time.sleep(self.seconds)


def test_models_take_turns() -> None:
    log: list[str] = []
    models = [Recorder("A", log), Recorder("B", log, 0.002)]
    image = np.zeros((1, 1, 1, 3), np.float32)
    samples = time_in_turns(models, [image, image], 5)
    assert "".join(log) == "AB" * 5
    assert [len(taken) for taken in samples] == [5, 5]
    assert min(samples[1]) >= 2000 > 1500 > np.median(samples[0])


def _script(*models: Iterator[float]) -> tuple[Take, list[tuple[str, int]]]:
    """A `take` whose models need the times given, and the log of its calls."""
    calls: list[tuple[str, int]] = []

    def take(phase: str, rounds: int) -> Samples:
        calls.append((phase, rounds))
        return [[next(times) for _ in range(rounds)] for times in models]

    return take, calls


def test_warm_up_goes_on_until_every_model_has_settled() -> None:
    falling = chain([100.0 - 5 * index for index in range(16)], repeat(20.0))
    take, _ = _script(repeat(7.0), falling)
    # It needs 20 from the 17th run on. The median of runs n-9 to n-5 is 20 when three of them are: n = 24.
    assert warm_up(take, minimum=3) == 24


def test_warm_up_has_a_least_and_an_end() -> None:
    take, calls = _script(repeat(7.0))
    assert warm_up(take, minimum=12) == 12
    assert calls == [("warming up", 12)]
    restless, _ = _script(iter(np.geomspace(1, 1e9, 100).tolist()))
    assert warm_up(restless, minimum=2) == 2 + MORE_WARMUP_ROUNDS


def test_a_noisy_measurement_is_repeated_for_all_models() -> None:
    noisy, quiet = [*[1.0] * 10, *[2.0] * 10], [1.5] * 20
    take, calls = _script(repeat(3.0), chain(noisy, quiet))
    samples, attempts = until_steady(take, 20)
    assert attempts == 2 and calls == [("measuring", 20), ("measuring again", 20)]
    assert samples == [[3.0] * 20, quiet]


def test_what_stays_noisy_is_kept_from_the_least_noisy_attempt() -> None:
    noisy, quiet = [*[1.0] * 10, *[2.0] * 10], [1.5] * 20
    first = chain(noisy, quiet, noisy)
    second = chain(noisy, noisy, noisy)
    take, _ = _script(first, second)
    samples, attempts = until_steady(take, 20)
    assert attempts == 3 and samples == [quiet, noisy]


def test_percentiles_and_verdict() -> None:
    latency = Latency(Path("m"), "r", tuple(float(us) for us in range(1, 12)))
    assert (latency.p50_us, latency.p90_us, latency.min_us) == (6, 10, 1)
    assert latency.verdict.startswith("noisy: drifts")
    assert Latency(Path("m"), "r", (1.0,) * 20).verdict == "steady"
    assert Latency(Path("m"), "r", (1.0,) * 3).verdict == "not judged: 3 samples, 10 show drift"
    assert Latency(Path("m"), "r", (1.0,) * 20, disturbance="hot").verdict == "noisy: hot"


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="no processor affinity on this system")
def test_one_thread_stays_on_one_core() -> None:
    before = os.sched_getaffinity(0)
    with pinned(1):
        assert len(os.sched_getaffinity(0)) == 1
    with pinned(2):
        assert os.sched_getaffinity(0) == before
    assert os.sched_getaffinity(0) == before


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="no processor affinity on this system")
def test_of_cores_of_several_kinds_a_fast_one_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    fast = min(os.sched_getaffinity(0))
    monkeypatch.setattr(host, "_highest_khz", lambda core: 3_000_000 if core == fast else 2_000_000)
    with pinned(1):
        assert os.sched_getaffinity(0) == {fast}


def test_both_runtimes_side_by_side_with_profiles(tmp_path: Path) -> None:
    write_tflite(colour_graph(), tmp_path / "m.tflite")
    paths = [write_colour_onnx(tmp_path / "m.onnx"), tmp_path / "m.tflite"]
    result = benchmark(paths, Plan(runs=4, warmup=1, profile=True))
    assert [latency.runtime for latency in result.latencies] == [
        "ONNX Runtime",
        "LiteRT xnnpack",
        "LiteRT builtin",
    ]
    assert all(len(latency.samples_us) == 4 and latency.min_us > 0 for latency in result.latencies)
    value = result.to_json()
    assert value["device"]["kind"] == "host"
    assert value["latencies"][0]["ratio_p50"] == 1.0
    assert value["models"][0]["float_ops"]["GlobalAveragePool"] == 1
    assert value["models"][1]["partitions"]["count"] == 1
    kinds = [operation["kind"] for operation in value["latencies"][0]["profile"]]
    assert "GlobalAveragePool" in kinds and value["latencies"][1]["profile"] is None
    assert "LiteRT's Python interpreter has no profiler" in value["notes"][0]


def test_the_profile_leaves_warm_up_out() -> None:
    def event(name: str, us: float) -> dict[str, object]:
        return {"cat": "Node", "name": f"{name}_kernel_time", "dur": us, "args": {"op_name": "Conv"}}

    session = {"cat": "Session", "name": "model_run", "dur": 9}
    fence = {"cat": "Node", "name": "a_fence_before", "dur": 9, "args": {"op_name": "Conv"}}
    events = [session, event("a", 100), event("b", 70), fence, event("a", 10), event("a", 20), event("b", 4)]
    assert [(t.name, t.mean_us) for t in node_times(events, runs=2)] == [("a", 15), ("b", 37)]
    assert [t.mean_us for t in node_times(events, runs=1)] == [20, 4]


def test_a_refused_model_is_reported_and_the_rest_measured(data_pack: Path) -> None:
    path = data_pack / "peers" / "v3_small_ptq_int8.tflite"
    result = benchmark([path], Plan(runs=1, warmup=0))
    assert [latency.runtime for latency in result.latencies] == ["LiteRT builtin"]
    assert [refusal.runtime for refusal in result.measurement.refusals] == ["LiteRT xnnpack"]
    with pytest.raises(ModelFileError, match="refuse it"):
        benchmark([path], Plan(("xnnpack",), runs=1, warmup=0))


def test_run_folders_must_be_exported_first(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="qmnv3 export --int8 --checkpoint"):
        benchmark([tmp_path])


def heavy(outputs: int) -> QuantGraph:
    """A float convolution over the whole image: 768 bytes of weights for each output, few activations."""
    weight = np.random.default_rng(0).standard_normal((outputs, SIDE, SIDE, 3), np.float32)
    tensors = [
        Tensor("image", (1, SIDE, SIDE, 3), "float32"),
        Tensor("weight", weight.shape, "float32", None, weight),
        Tensor("bias", (outputs,), "float32", None, np.zeros(outputs, np.float32)),
        Tensor("features", (1, 1, 1, outputs), "float32"),
        Tensor("logits", (1, outputs), "float32"),
    ]
    ops = (
        Conv2d("conv", ("image", "weight", "bias"), "features"),
        Flatten("flatten", ("features",), "logits"),
    )
    metadata = Metadata("heavy", SPEC)
    return QuantGraph({t.name: t for t in tensors}, ops, ("image",), ("logits",), metadata)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the system tells no memory")
def test_memory_is_what_the_weights_take(tmp_path: Path) -> None:
    """LiteRT's own kernels use weights where the file's bytes lie; the others keep copies besides."""
    most = {"LiteRT builtin": 1, "LiteRT xnnpack": 3, "ONNX Runtime": 6}
    weights_mb = 32_768 * 768 / 1e6
    for name, write in (("heavy.tflite", write_tflite), ("heavy.onnx", write_onnx)):
        write(heavy(32_768), tmp_path / name)
        write(heavy(8), tmp_path / f"light_{name}")
        light, full = (
            benchmark([path], Plan(runs=1, warmup=0), HOST).latencies
            for path in (tmp_path / f"light_{name}", tmp_path / name)
        )
        for small, large in zip(light, full, strict=True):
            assert small.memory_mb is not None and large.memory_mb is not None
            grown = large.memory_mb - small.memory_mb
            assert 0.98 * weights_mb <= grown <= most[large.runtime] * weights_mb + 4, large.runtime
            assert small.memory_mb <= 8, small.runtime
