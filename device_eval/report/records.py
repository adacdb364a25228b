"""What the report reads of the JSON files that other commands write; what it does not show is not checked."""

from typing import Annotated, Any, Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field

Count = Annotated[int, Field(ge=-(2**62), le=2**62)]
Real = Annotated[float, Field(ge=-1e30, le=1e30)]
"""No NaN, and both small enough to be drawn."""

Microseconds = Annotated[float, Field(ge=1e-3, le=1e12)]


class Record(BaseModel):
    """What a command wrote; other keys are left alone."""

    model_config = ConfigDict(frozen=True)


class Interval(Record):
    """An estimate with its 95 % interval, None where it is not known."""

    estimate: Real
    low: Real | None
    high: Real | None


class Difference(Interval):
    """Of paired accuracies; `p_value` is McNemar's."""

    p_value: Real


class Subject(Record):
    """A model that was evaluated."""

    path: str
    runtime: str


class Against(Record):
    """The second model of an evaluation, and the first against it."""

    top1: Interval
    top5: Interval
    difference: Difference
    agreement: Interval
    mean_kl_nats: Real


class Evaluation(Record):
    """Of `qmnv3 eval --json`; `against` belongs to the second of `models`."""

    data: str
    images: Count
    models: tuple[Subject, ...] = Field(min_length=1)
    top1: Interval
    top5: Interval
    against: Against | None = None


class OperationTime(Record):
    """One operation in a runtime's profile, whose clock may be too coarse for it."""

    kind: str
    name: str
    mean_us: Annotated[float, Field(ge=0, le=1e12)]


class Latency(Record):
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


class Refusal(Record):
    """A model that a runtime would not run."""

    path: str
    runtime: str
    reason: str


class Partitions(Record):
    """How LiteRT's XNNPACK delegate cut a .tflite file."""

    count: Count
    delegated_ops: Count
    undelegated: tuple[tuple[Count, str], ...]
    refused: str | None


class Structure(Record):
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


class Device(Record):
    """What measured: "host", or a phone with its model's name."""

    kind: str
    model: str | None = None


class Benchmark(Record):
    """Of `qmnv3 bench --json`."""

    threads: Count
    device: Device
    latencies: tuple[Latency, ...] = Field(min_length=1)
    refusals: tuple[Refusal, ...]
    models: tuple[Structure, ...]
    notes: tuple[str, ...]


class SensitivityRow(Record):
    """What the rounding of one tensor or weight does, alone or left out."""

    site: str
    kind: Literal["activation", "weight"]
    mode: Literal["one", "all_but_one"]
    images: Count
    sqnr_db: Real | None
    kl_added: Interval
    predicted_kl: Real | None


class Sensitivity(Record):
    """Of `qmnv3 sensitivity`: its sensitivity.json."""

    model: str
    images: Count
    kl: Interval
    agreement: Interval
    rows: tuple[SensitivityRow, ...]


class Errors(Record):
    """Of predictions for networks that were left out of the fit."""

    median_percent: Real
    worst_percent: Real


class PhonePrediction(Record):
    """Predicted latency of one model on one phone, with the errors of the fit by which it is predicted."""

    device: str
    predicted_ms: Real
    interval_ms: tuple[Real, Real]
    fitted_to: Count
    coverage: Real
    leave_one_out: Errors
    families_left_out: dict[str, Errors]


class Prediction(Record):
    """Everything predicted for one model."""

    path: str
    precision: Literal["float32", "int8"]
    macs: Count
    bytes_moved: Count
    weight_bytes: Count
    predicted: tuple[PhonePrediction, ...]
    notes: tuple[str, ...]


class Predictions(Record):
    """Of `qmnv3 predict --json`."""

    models: tuple[Prediction, ...]


class Finding(Record):
    """What a rule of lint found."""

    rule: str
    severity: Literal["error", "warning", "note"]
    effect: str
    where: str
    what: str
    fix: str


class Linted(Record):
    """All findings in one model."""

    path: str
    findings: tuple[Finding, ...]


class Lint(Record):
    """Of `qmnv3 lint --json`."""

    models: tuple[Linted, ...]


class Layer(Record):
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


class Logits(Record):
    """The quantized network's logits against float's."""

    images: Count
    sqnr_db: Real | None
    top1_agreement: Real


class Calibration(Record):
    """A RUN's calibration.json."""

    images: Count
    logits: Logits | None = None
    layers: tuple[Layer, ...]


class Environment(Record):
    """Where it was made."""

    created: str
    python: str
    versions: dict[str, str | None]
    platform: str
    cpu: str
    git_commit: str | None


class Provenance(Record):
    """What every result and RUN says of where it came from."""

    environment: Environment
    # Where "recipe" is only a name, "resolved_recipe" is what it said.
    recipe: dict[str, Any] | None = Field(None, validation_alias=AliasChoices("resolved_recipe", "recipe"))
    warnings: tuple[str, ...] = ()
