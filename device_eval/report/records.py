"""What the report reads of the JSON files that other commands write; what it does not show is not checked."""

from typing import Annotated, Any, Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field

Count = Annotated[int, Field(ge=-(2**62), le=2**62)]
Real = Annotated[float, Field(ge=-1e30, le=1e30)]
"""No NaN, and both small enough to be drawn."""

Microseconds = Annotated[float, Field(ge=1e-3, le=1e12)]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True)


class Interval(_Record):
    """An estimate with its 95 % interval, None where it is not known."""

    estimate: Real
    low: Real | None
    high: Real | None


class Difference(Interval):
    """Of paired accuracies; `p_value` is McNemar's."""

    p_value: Real


class Subject(_Record):
    """A model that was evaluated."""

    path: str
    runtime: str


class Against(_Record):
    """The second model of an evaluation, and the first against it."""

    top1: Interval
    top5: Interval
    difference: Difference
    agreement: Interval
    mean_kl_nats: Real


class Evaluation(_Record):
    """Of `qmnv3 eval --json`; `against` belongs to the second of `models`."""

    data: str
    images: Count
    models: tuple[Subject, ...] = Field(min_length=1)
    top1: Interval
    top5: Interval
    against: Against | None = None


class OperationTime(_Record):
    """One operation in a runtime's profile, whose clock may be too coarse for it."""

    kind: str
    name: str
    mean_us: Annotated[float, Field(ge=0, le=1e12)]


class Latency(_Record):
    """One model under one runtime."""

    path: str
    runtime: str
    p50_us: Microseconds
    p90_us: Microseconds
    min_us: Microseconds
    verdict: str
    latency_us: tuple[Microseconds, ...] = Field(min_length=1)
    memory_mb: Real | None
    profile: tuple[OperationTime, ...] | None


class Refusal(_Record):
    """A model that a runtime would not run."""

    path: str
    runtime: str
    reason: str


class Partitions(_Record):
    """How LiteRT's XNNPACK delegate cut a .tflite file."""

    count: Count
    delegated_ops: Count
    undelegated: tuple[tuple[Count, str], ...]
    refused: str | None


class Structure(_Record):
    """What a measured file is made of."""

    path: str
    quantized: bool
    size_bytes: Count
    op_counts: dict[str, Count]
    macs: Count | None
    bytes_moved: Count | None
    arena_bytes: Count | None
    partitions: Partitions | None
    float_ops: dict[str, Count] | None


class Device(_Record):
    """What measured: "host", or a phone with its model's name."""

    kind: str
    model: str | None = None


class Benchmark(_Record):
    """Of `qmnv3 bench --json`."""

    threads: Count
    device: Device
    latencies: tuple[Latency, ...] = Field(min_length=1)
    refusals: tuple[Refusal, ...]
    models: tuple[Structure, ...]
    notes: tuple[str, ...]


class SensitivityRow(_Record):
    """What the rounding of one tensor or weight does, alone or left out."""

    site: str
    kind: Literal["activation", "weight"]
    mode: Literal["one", "all_but_one"]
    images: Count
    sqnr_db: Real | None
    kl_added: Interval
    predicted_kl: Real | None


class Sensitivity(_Record):
    """Of `qmnv3 sensitivity`: its sensitivity.json."""

    model: str
    images: Count
    kl: Interval
    agreement: Interval
    rows: tuple[SensitivityRow, ...]


class PhonePrediction(_Record):
    """Predicted latency of one model on one phone."""

    device: str
    predicted_ms: Real
    interval_ms: tuple[Real, Real]
    fitted_to: Count
    coverage: Real


class Prediction(_Record):
    """Everything predicted for one model."""

    path: str
    precision: Literal["float32", "int8"]
    macs: Count
    bytes_moved: Count
    weight_bytes: Count
    predicted: tuple[PhonePrediction, ...]
    notes: tuple[str, ...]


class Predictions(_Record):
    """Of `qmnv3 predict --json`."""

    models: tuple[Prediction, ...]


class Finding(_Record):
    """What a rule of lint found."""

    rule: str
    severity: Literal["error", "warning", "note"]
    effect: str
    where: str
    what: str
    fix: str


class Linted(_Record):
    """All findings in one model."""

    path: str
    findings: tuple[Finding, ...]


class Lint(_Record):
    """Of `qmnv3 lint --json`."""

    models: tuple[Linted, ...]


class Judgement(_Record):
    """What an interval says beside a published figure; how many samples would decide, or why none would."""

    verdict: Literal["better", "as the paper", "worse", "not decidable"]
    needed: Count | None
    reason: str | None = None


class CheckRow(_Record):
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


class CheckedAccuracy(_Record):
    """Top-1 in both precisions on the same images, as shares."""

    images: Count
    float32: Interval
    int8: Interval
    difference: Interval


class CheckedSamples(_Record):
    """Latency of one of the two models."""

    runtime: str
    verdict: str
    latency_us: tuple[Microseconds, ...] = Field(min_length=1)


class CheckedLatency(_Record):
    """Both models in turns, on one core."""

    device: Device
    float32: CheckedSamples
    int8: CheckedSamples


class Check(_Record):
    """Of `qmnv3 check --json`; `forced` where the model is not `network`."""

    model: str
    network: str
    forced: bool = False
    rows: tuple[CheckRow, ...]
    accuracy: CheckedAccuracy | None
    latency: CheckedLatency | None
    notes: tuple[str, ...]


class AblationFile(_Record):
    """One file of a network; `form` is its precision, and how its nonlinearities are lowered."""

    form: str
    predicted: tuple[PhonePrediction, ...]


class AblationSize(_Record):
    """What was counted of a network."""

    files: tuple[AblationFile, ...]


class AblationLatency(_Record):
    """One file under one runtime."""

    form: str
    runtime: str
    p50_us: Microseconds
    verdict: str


class AblationLatencies(_Record):
    """All files of a network, in turns."""

    latencies: tuple[AblationLatency, ...]
    conditions: Device


class AblationCell(_Record):
    """One network; axes that were left out or failed are not there."""

    variant: str
    model: str
    options: dict[str, Any]
    width: Real
    resolution: Count
    size: AblationSize | None = None
    latency: AblationLatencies | None = None


class Ablation(_Record):
    """Of `qmnv3 ablate`: its ablation.json. `device` measured, in words."""

    device: str
    cells: tuple[AblationCell, ...]


class Layer(_Record):
    """One tensor in a RUN's calibration.json."""

    site: str
    kind: str
    activation: str
    equalized: bool
    observed_low: Real
    observed_high: Real
    low: Real
    high: Real
    scale: Real
    zero_point: Count
    sqnr_db: Real | None
    clipped_percent: Real | None
    predicted_kl: Real | None
    weight_sqnr_db: Real | None


class Logits(_Record):
    """The quantized network's logits against float's."""

    images: Count
    sqnr_db: Real | None
    top1_agreement: Real


class Calibration(_Record):
    """A RUN's calibration.json."""

    images: Count
    logits: Logits | None = None
    layers: tuple[Layer, ...]


class Environment(_Record):
    """Where it was made."""

    created: str
    python: str
    versions: dict[str, str | None]
    platform: str
    cpu: str
    git_commit: str | None


class Provenance(_Record):
    """What every result and RUN says of where it came from."""

    environment: Environment
    # Where "recipe" is only a name, "resolved_recipe" is what it said.
    recipe: dict[str, Any] | None = Field(None, validation_alias=AliasChoices("resolved_recipe", "recipe"))
    warnings: tuple[str, ...] = ()
