"""The whole of `qmnv3 check`: both models as files, evaluated, measured, and judged."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from device_eval.check import (
    NETWORKS,
    Network,
    Row,
    accuracy_rows,
    identify,
    latency_rows,
    published,
    rows_in_words,
)
from device_eval.evaluation import Evaluation, evaluate, make_subject
from device_eval.latency import Latency, Measurement, Plan, benchmark
from device_eval.latency.result import Device
from device_eval.latency.steadiness import MIN_SAMPLES
from device_eval.preparation import Override
from device_eval.runners import Kernel, check_exists, open_model
from qmnv3.cli.bench_view import reporting
from qmnv3.cli.eval import SAMPLE_SEED, check_override
from qmnv3.cli.progress import progress
from qmnv3.data import find_images, sample
from qmnv3.errors import ModelFileError
from qmnv3.export.files import export_run

_THREADS = 2


@dataclass(frozen=True)
class CheckJob:
    """What to check: a RUN, or an 8-bit file with its float parent. No `data`: accuracy is left out; no
    `device`: latency is. `network` compares with its row whatever the model is. `kernel` is LiteRT's.
    """

    model: Path
    parent: Path | None
    network: Network | None
    data: Path | None
    images: int | None
    classes: Path | None
    override: Override
    device: Device | None
    runs: int
    kernel: Kernel = "xnnpack"


@dataclass(frozen=True)
class CheckResult:
    """All comparisons, and sentences about what the figures rest on.

    `forced`: the user named the network, and the model is another. `accuracy` and `latency` are what was
    measured, every sample included, in plain JSON types.
    """

    model: Path
    network: Network
    forced: bool
    rows: tuple[Row, ...]
    notes: tuple[str, ...]
    accuracy: dict[str, Any] | None = None
    latency: dict[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "against": "table4",
            "model": str(self.model),
            "network": self.network,
            "forced": self.forced,
            "rows": [asdict(row) for row in self.rows],
            "accuracy": self.accuracy,
            "latency": self.latency,
            "notes": list(self.notes),
        }


def run_check(job: CheckJob) -> CheckResult:
    """Evaluate and measure; raises a QmnError for anything wrong with models, images or device."""
    if job.data is None and job.device is None:
        raise ModelFileError(f"{job.model}: nothing to check; give --data, or a --device")
    with _files(job) as (quantized, parent):
        network, forced = _network(job, quantized, parent)
        known = published(network)
        rows: list[Row] = []
        notes: list[str] = [] if forced is None else [forced]
        accuracy = latency = None
        if job.data is not None:
            result = _evaluate(job, job.data, quantized, parent)
            assert result.comparison is not None
            rows += accuracy_rows(result.comparison.difference, len(result.paths), known)
            notes.append(_accuracies(result))
            accuracy = _accuracy_json(result)
        if job.device is not None:
            measured = _measure(job, job.device, parent, quantized)
            slow, fast = (_latency(measured, path) for path in (parent, quantized))
            rows += latency_rows(fast, slow, known)
            notes.append(_latencies(fast, slow))
            latency = _latency_json(measured, slow, fast)
    return CheckResult(job.model, network, forced is not None, tuple(rows), tuple(notes), accuracy, latency)


@contextmanager
def _files(job: CheckJob) -> Iterator[tuple[Path, Path]]:
    """The 8-bit file and its parent's."""
    check_exists(job.model)
    if job.model.is_dir():
        if job.parent is not None:
            raise ModelFileError(f"{job.model}: a RUN holds its float parent; leave out --float")
        with TemporaryDirectory() as folder:
            quantized, parent = export_run(job.model, Path(folder), ("int8", "float32"), "tflite")
            yield quantized, parent
    elif job.parent is None:
        raise ModelFileError(f"{job.model}: has no float parent to compare with; give --float FILE")
    else:
        check_exists(job.parent)
        yield job.model, job.parent


def _network(job: CheckJob, quantized: Path, parent: Path) -> tuple[Network, str | None]:
    """The row to compare with, and what to say where the user chose it for a model that is not in it."""
    found = identify(quantized, parent)
    if job.network is None:
        if found.network is None:
            raise ModelFileError(
                f"{job.model}: no published row is of this network: it has {found.size}, Table 4 has "
                f"{rows_in_words()}; --network {', '.join(NETWORKS)} compares with one all the same"
            )
        return found.network, None
    if found.network == job.network:
        return job.network, None
    size = f"it has {found.size}, Table 4 has {rows_in_words()}"
    return job.network, f"--network {job.network}: {job.model} is not this published network; {size}"


def _evaluate(job: CheckJob, data: Path, quantized: Path, parent: Path) -> Evaluation:
    folder = find_images(data, classes=True)
    runners = [open_model(path, job.kernel, _THREADS) for path in (quantized, parent)]
    check_override(runners, job.override)
    this, other = (make_subject(runner, folder, job.override, job.classes) for runner in runners)
    indices = sample(folder, job.images, SAMPLE_SEED) if job.images else tuple(range(len(folder)))
    with progress("evaluating", len(indices)) as advance:
        return evaluate(folder, this, other, indices=indices, advance=advance)


def _accuracy_json(result: Evaluation) -> dict[str, Any]:
    assert result.other is not None and result.comparison is not None
    return {
        "images": len(result.paths),
        "float32": asdict(result.other.top1),
        "int8": asdict(result.this.top1),
        "difference": asdict(result.comparison.difference),
    }


def _measure(job: CheckJob, device: Device, parent: Path, quantized: Path) -> Measurement:
    with reporting() as report:
        plan = Plan((job.kernel,), runs=job.runs)
        return benchmark([parent, quantized], plan, device, report).measurement


def _latency(measured: Measurement, path: Path) -> Latency:
    found = [latency for latency in measured.latencies if latency.path == path]
    if not found:
        reasons = "; ".join(refusal.reason for refusal in measured.refusals)
        raise ModelFileError(f"{path}: was not measured: {reasons}; --device none leaves latency out")
    return found[0]


def _latency_json(measured: Measurement, slow: Latency, fast: Latency) -> dict[str, Any]:
    return {
        "device": dict(measured.conditions),
        **{
            precision: {
                "runtime": latency.runtime,
                "verdict": latency.verdict,
                "runs_per_sample": latency.runs_per_sample,
                "latency_us": list(latency.samples_us),
            }
            for precision, latency in (("float32", slow), ("int8", fast))
        },
    }


def _accuracies(result: Evaluation) -> str:
    assert result.other is not None
    float_top1, top1 = (100 * accuracy.top1.estimate for accuracy in (result.other, result.this))
    return f"top-1 on {len(result.paths)} images: {float_top1:.1f} % in float, {top1:.1f} % in 8 bits"


def _latencies(fast: Latency, slow: Latency) -> str:
    text = f"median latency here: {slow.p50_us / 1000:.2f} ms in float, {fast.p50_us / 1000:.2f} ms in 8 bits"
    doubts = [one.verdict for one in (slow, fast) if one.verdict != "steady"]
    if not doubts:
        return text
    if doubts[0].startswith("noisy"):
        advice = "quiet the device and check again, with more --runs"
    else:
        advice = f"give --runs {MIN_SAMPLES * fast.runs_per_sample} or more"
    return f"{text}; {doubts[0]}; {advice}"
