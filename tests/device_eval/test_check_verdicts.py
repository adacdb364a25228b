"""Verdicts on intervals worked out by hand, and the published figures they are compared with."""

import numpy as np
import pytest

from device_eval.check import Judgement, accuracy_rows, latency_rows, published
from device_eval.check.verdict import judge
from device_eval.latency import Latency
from device_eval.statistics import median_ratio, paired_difference


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (-1.3, 0.5, Judgement("better")),
        (-4.0, -1.5, Judgement("worse")),
        (-1.8, -1.0, Judgement("as the paper")),
        # Around -1.4 itself, 1.0 to each side: half as wide needs four times as many.
        (-2.4, -0.4, Judgement("not decidable", 4 * 650)),
        # Middle -0.9, 0.5 off: better shows as soon as the half width of 1.0 is 0.5, too.
        (-1.9, 0.1, Judgement("not decidable", 4 * 650)),
        # Middle -1.3: the margin's end at -0.9 is 0.4 away, the value itself only 0.1: (1.0 / 0.4)^2 = 6.25.
        (-2.3, -0.3, Judgement("not decidable", 4063)),
    ],
)
def test_an_interval_against_a_change_of_accuracy(low: float, high: float, expected: Judgement) -> None:
    assert judge(low, high, -1.4, 0.5, more_is_better=True, samples=650) == expected


def test_less_time_is_better() -> None:
    assert judge(0.6, 0.7, 0.8, 0.05, more_is_better=False, samples=50).verdict == "better"
    assert judge(0.9, 1.0, 0.8, 0.05, more_is_better=False, samples=50).verdict == "worse"


def test_what_was_published() -> None:
    """Large: 75.2 to 73.8, 66 to 57 ms; released 75.2 to 73.9, 51.2 to 44 ms (README of slim)."""
    paper, release = published("large")
    assert paper.top1_percent == (75.2, 73.8) and paper.latency_ms[0] == (66, 57)
    assert paper.change_points == pytest.approx(-1.4)
    assert release.top1_percent == (75.2, 73.9) and release.latency_ms[0] == (51.2, 44)
    (small, _), (v2,), (narrow,) = (published(name) for name in ("small", "v2", "v2-0.35"))
    assert small.top1_percent == (67.4, 64.9) and small.latency_ms[2] == (17.7, 13.9)
    assert v2.top1_percent == (72.0, 70.9) and narrow.top1_percent == (60.8, 57.2)


def test_accuracies_are_compared_in_points() -> None:
    parent = np.ones(1000, bool)
    quantized = np.arange(1000) >= 60  # 6 points lost, far from 1.4
    (row, _) = accuracy_rows(paired_difference(quantized, parent), 1000, published("large"))
    assert row.estimate == pytest.approx(-6.0) and row.published == pytest.approx(-1.4)
    assert row.low < -6.0 < row.high and row.judgement.verdict == "worse"


def latency(name: str, level_us: float, noise: float) -> Latency:
    generator = np.random.default_rng(len(name))
    samples = level_us * (1 + noise * generator.standard_normal(60))
    return Latency(name, "LiteRT xnnpack", tuple(map(float, samples)))  # type: ignore[arg-type]


def test_latencies_are_compared_as_ratios() -> None:
    rows = latency_rows(latency("int8", 800, 0.01), latency("float", 1000, 0.01), published("large"))
    assert [row.source.rsplit(", ", 1)[1] for row in rows[:3]] == ["Pixel 1", "Pixel 2", "Pixel 3"]
    assert [round(row.published, 3) for row in rows[:3]] == [0.864, 0.726, 0.74]
    assert [row.judgement.verdict for row in rows[:3]] == ["better", "worse", "worse"]


def test_noisy_latencies_decide_nothing() -> None:
    noisy = Latency(
        latency("float", 1000, 0.01).path,
        "LiteRT xnnpack",
        tuple(np.linspace(900, 1400, 60)),
    )
    rows = latency_rows(latency("int8", 500, 0.01), noisy, published("small"))
    (judgement,) = {row.judgement for row in rows}
    assert (judgement.verdict, judgement.needed) == ("not decidable", None)
    assert judgement.reason is not None and judgement.reason.startswith("noisy: drifts")


def test_too_few_runs_to_show_noise_decide_nothing() -> None:
    few = [
        Latency(latency(name, level, 0.01).path, "phone xnnpack", (level,) * 3, runs_per_sample=5)
        for name, level in (("int8", 500.0), ("float", 1000.0))
    ]
    rows = latency_rows(*few, published("large"))
    # Ten samples of five runs each; three are fifteen.
    assert {row.judgement for row in rows} == {Judgement("not decidable", 50)}
    assert {row.samples for row in rows} == {15}


def test_the_ratio_of_medians_has_scipys_interval() -> None:
    from scipy.stats import bootstrap

    generator = np.random.default_rng(3)
    this, other = generator.normal(8, 0.5, 200), generator.normal(10, 0.5, 200)
    expected = bootstrap(
        (this, other),
        lambda a, b, axis: np.median(a, axis=axis) / np.median(b, axis=axis),
        method="percentile",
        rng=np.random.default_rng(1),
    ).confidence_interval
    estimate, low, high = median_ratio(list(this), list(other))
    assert estimate == np.median(this) / np.median(other)
    assert low == pytest.approx(expected.low, abs=2e-3) and high == pytest.approx(expected.high, abs=2e-3)
