"""Drift and noise on samples made up here, with known behaviour."""

import numpy as np
import pytest

from device_eval.latency.steadiness import noise, settled

RUNS = 50


def _steady(seed: int, spread: float = 0.03) -> np.ndarray:
    """Equally distributed, and one run in ten twice as slow: what a quiet machine gives."""
    generator = np.random.default_rng(seed)
    values = 4000 * generator.lognormal(0, spread, RUNS)
    return np.where(generator.random(RUNS) < 0.1, 2 * values, values)


def test_a_quiet_machine_is_hardly_ever_called_noisy() -> None:
    flagged = [seed for seed in range(500) if noise(list(_steady(seed)))]
    assert len(flagged) <= 5


def test_scattered_samples_do_not_drift() -> None:
    """Halves of widely scattered samples differ by chance; only what goes with time is drift."""
    found = [noise(list(_steady(seed, spread=0.1))) or "" for seed in range(300)]
    assert sum(reason.startswith("drifts") for reason in found) <= 2


@pytest.mark.parametrize("slope", [0.25, -0.25, 0.5])
def test_a_slow_trend_is_drift(slope: float) -> None:
    trend = 1 + slope * np.linspace(0, 1, RUNS)
    found = [noise(list(_steady(seed) * trend)) for seed in range(50)]
    assert all(reason is not None for reason in found)


def test_the_reason_gives_both_medians() -> None:
    values = [1000.0 + 20 * index for index in range(20)]
    assert noise(values) == "drifts: median 1.09 ms in the first half, 1.29 in the second"


def test_another_level_in_the_middle_is_noise_though_both_halves_agree() -> None:
    values = [1000.0] * 20 + [1300.0] * 10 + [1000.0] * 20
    assert noise(values) == "changes level: medians of fifths from 1 to 1.3 ms"


def test_too_few_and_equal_samples() -> None:
    assert noise([1.0, 100.0, 1.0]) is None
    assert noise([5.0] * RUNS) is None


def test_settled_compares_the_last_five_with_the_five_before() -> None:
    assert not settled([1.0] * 9)
    assert settled([9.0, 9.0, *[1.0] * 5, *[1.02] * 5])
    assert not settled([*[1.05] * 5, *[1.0] * 5])
    assert settled([*[1.0] * 5, 1.0, 50.0, 1.0, 50.0, 1.0])  # single slow runs
