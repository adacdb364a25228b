import numpy as np
import pytest
from scipy.stats import bootstrap, entropy

from device_eval.statistics import kl_divergence, log_probabilities, paired_difference, proportion


def outcomes(both: int, only_this: int, only_other: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    this = [True] * (both + only_this) + [False] * (only_other + neither)
    other = [True] * both + [False] * only_this + [True] * only_other + [False] * neither
    return np.array(this), np.array(other)


# Newcombe 1998, Statistics in Medicine 17:857, Table I, method 3 (score without continuity correction).
@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_interval(successes: int, trials: int, low: float, high: float) -> None:
    result = proportion(successes, trials)
    assert result.estimate == successes / trials
    assert (round(result.low, 4), round(result.high, 4)) == (low, high)


# Fagerland, Lydersen and Laake 2014, Statistics in Medicine 33:2850 (airway data of Bentur et al.), and
# Altman et al. 2000, Statistics with Confidence, table 6.2: both by Newcombe's paired method.
@pytest.mark.parametrize(
    ("table", "low", "high"),
    [((1, 1, 7, 12), -0.507, -0.026), ((14, 5, 0, 22), 0.011, 0.226)],
)
def test_paired_interval_of_published_tables(
    table: tuple[int, int, int, int], low: float, high: float
) -> None:
    result = paired_difference(*outcomes(*table))
    assert (round(result.low, 3), round(result.high, 3)) == (low, high)
    assert (result.only_this, result.only_other) == table[1:3]


def test_paired_interval_is_close_to_the_bootstrap() -> None:
    this, other = outcomes(470, 46, 20, 114)
    steps = this.astype(int) - other.astype(int)
    sampled = bootstrap((steps,), np.mean, method="percentile", random_state=0).confidence_interval
    result = paired_difference(this, other)
    # Two methods at 650 images: a fifth of a point apart at most.
    assert result.low == pytest.approx(sampled.low, abs=0.002)
    assert result.high == pytest.approx(sampled.high, abs=0.002)


def test_exact_mcnemar() -> None:
    # Two-sided sign test of 1 against 7: 2 * (1 + 8) / 2^8.
    assert paired_difference(*outcomes(1, 1, 7, 12)).p_value == pytest.approx(18 / 256)
    assert paired_difference(*outcomes(5, 0, 0, 5)).p_value == 1.0


@pytest.mark.parametrize("table", [(10, 0, 0, 0), (0, 0, 0, 10), (6, 0, 0, 4), (0, 10, 0, 0)])
def test_degenerate_tables_have_finite_intervals(table: tuple[int, int, int, int]) -> None:
    result = paired_difference(*outcomes(*table))
    assert -1 <= result.low <= result.estimate <= result.high <= 1
    if table[1] == 0:
        assert result.low < 0 < result.high


def test_kl_of_logits_equals_scipy() -> None:
    generator = np.random.default_rng(0)
    a, b = generator.normal(0, 4, (2, 5, 10)).astype(np.float32)
    pa, pb = (np.exp(x) / np.exp(x).sum(-1, keepdims=True) for x in (a.astype(float), b.astype(float)))
    result = kl_divergence(log_probabilities(a, "logits"), log_probabilities(b, "logits"))
    np.testing.assert_allclose(result, entropy(pa, pb, axis=-1), rtol=1e-9)
    assert np.array_equal(
        kl_divergence(log_probabilities(a, "logits"), log_probabilities(a, "logits")), np.zeros(5)
    )


def test_stored_zero_probabilities_stay_finite() -> None:
    stored = np.array([[1.0, 0.0, 0.0], [0.5, 0.5, 0.0]], np.float32)
    logs = log_probabilities(stored, "probabilities")
    np.testing.assert_allclose(np.exp(logs).sum(-1), 1)
    np.testing.assert_allclose(np.exp(logs), stored, atol=1 / 256)
    assert np.isfinite(kl_divergence(logs[:1], logs[1:])).all()
