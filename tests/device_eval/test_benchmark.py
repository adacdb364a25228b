import os
import time
from pathlib import Path

import numpy as np
import pytest
from colour_models import colour_graph, write_colour_onnx

from device_eval.benchmark import Latency, benchmark, pinned, time_in_turns
from qmnv3.errors import ModelFileError
from qmnv3.export.tflite import write_tflite


class Recorder:
    def __init__(self, name: str, log: list[str], seconds: float = 0.0) -> None:
        self.name, self.log, self.seconds = name, log, seconds

    def stage(self, images: np.ndarray) -> None:
        time.sleep(0.005)  # must not be counted

    def invoke(self) -> None:
        self.log.append(self.name)
        time.sleep(self.seconds)


def test_models_take_turns_and_warm_up_is_dropped() -> None:
    log: list[str] = []
    models = [Recorder("A", log), Recorder("B", log, 0.002)]
    image = np.zeros((1, 1, 1, 3), np.float32)
    samples = time_in_turns(models, [image, image], runs=3, warmup=2)
    assert "".join(log) == "AB" * 5
    assert [len(taken) for taken in samples] == [3, 3]
    assert min(samples[1]) >= 2000 > 1500 > np.median(samples[0])


def test_percentiles() -> None:
    latency = Latency(Path("m"), "r", tuple(float(us) for us in range(1, 12)))
    assert (latency.p50_us, latency.p90_us, latency.min_us) == (6, 10, 1)


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="no processor affinity on this system")
def test_one_thread_stays_on_one_core() -> None:
    before = os.sched_getaffinity(0)
    with pinned(1):
        assert len(os.sched_getaffinity(0)) == 1
    with pinned(2):
        assert os.sched_getaffinity(0) == before
    assert os.sched_getaffinity(0) == before


def test_both_runtimes_side_by_side(tmp_path: Path) -> None:
    write_tflite(colour_graph(), tmp_path / "m.tflite")
    paths = [write_colour_onnx(tmp_path / "m.onnx"), tmp_path / "m.tflite"]
    result = benchmark(paths, runs=4, warmup=1)
    assert [latency.runtime for latency in result.latencies] == [
        "ONNX Runtime",
        "LiteRT xnnpack",
        "LiteRT builtin",
    ]
    assert all(len(latency.samples_us) == 4 and latency.min_us > 0 for latency in result.latencies)
    value = result.to_json()
    assert value["latencies"][0]["ratio_p50"] == 1.0
    assert value["models"][0]["float_ops"]["GlobalAveragePool"] == 1
    assert value["models"][1]["partitions"]["count"] == 1


def test_a_refused_model_is_reported_and_the_rest_measured(data_pack: Path) -> None:
    path = data_pack / "peers" / "v3_small_ptq_int8.tflite"
    result = benchmark([path], runs=1, warmup=0)
    assert [latency.runtime for latency in result.latencies] == ["LiteRT builtin"]
    assert [refusal.runtime for refusal in result.refusals] == ["LiteRT xnnpack"]
    with pytest.raises(ModelFileError, match="refuse it"):
        benchmark([path], kernels=["xnnpack"], runs=1, warmup=0)


def test_run_folders_must_be_exported_first(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="qmnv3 export --int8 --checkpoint"):
        benchmark([tmp_path])
