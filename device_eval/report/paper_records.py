"""What the report reads of the JSON of `qmnv3 check` and `qmnv3 ablate`, which stand beside the paper."""

from typing import Any, Literal

from pydantic import Field

from device_eval.report.records import Count, Device, Interval, Microseconds, PhonePrediction, Real, Record


class Judgement(Record):
    """What an interval says beside a published figure; how many samples would decide, or why none would."""

    verdict: Literal["better", "as the paper", "worse", "not decidable"]
    needed: Count | None
    reason: str | None = None


class CheckRow(Record):
    """One published figure and the same quantity here, in `unit`."""

    quantity: str
    unit: Literal["points", "times"]
    source: str
    published: Real
    estimate: Real
    low: Real
    high: Real
    judgement: Judgement
    samples: Count


class CheckedAccuracy(Record):
    """Top-1 in both precisions on the same images, as shares."""

    images: Count
    float32: Interval
    int8: Interval
    difference: Interval


class CheckedSamples(Record):
    """Latency of one of the two models."""

    runtime: str
    verdict: str
    latency_us: tuple[Microseconds, ...] = Field(min_length=1)


class CheckedLatency(Record):
    """Both models in turns, on one core."""

    device: Device
    float32: CheckedSamples
    int8: CheckedSamples


class Check(Record):
    """Of `qmnv3 check --json`; `forced` where the model is not `network`."""

    model: str
    network: str
    forced: bool = False
    rows: tuple[CheckRow, ...]
    accuracy: CheckedAccuracy | None
    latency: CheckedLatency | None
    notes: tuple[str, ...]


class AblationFile(Record):
    """One file of a network; `form` is its precision, and how its nonlinearities are lowered."""

    form: str
    predicted: tuple[PhonePrediction, ...]
    size_bytes: Count | None = None


class AblationSize(Record):
    """What was counted of a network."""

    files: tuple[AblationFile, ...]
    madds: Count | None = None


class AblationLatency(Record):
    """One file under one runtime."""

    form: str
    runtime: str
    p50_us: Microseconds
    verdict: str
    ratio: Real | None = None


class AblationLatencies(Record):
    """All files of a network, in turns."""

    latencies: tuple[AblationLatency, ...]
    conditions: Device


class AblationAccuracy(Record):
    """Of a network's files, by form, in percent and percentage points."""

    top1: dict[str, Interval]
    int8_minus_float: dict[str, Interval]


class AblationCell(Record):
    """One network; axes that were left out or failed are not there."""

    variant: str
    model: str
    options: dict[str, Any]
    width: Real
    resolution: Count
    size: AblationSize | None = None
    latency: AblationLatencies | None = None
    accuracy: AblationAccuracy | None = None


class Ablation(Record):
    """Of `qmnv3 ablate`: its ablation.json. `device` measured: its "name" and versions."""

    recipe: str
    device: dict[str, str] | None
    cells: tuple[AblationCell, ...]
