import numpy as np
import pytest
from scipy import stats
from scipy.special import ndtri
from sklearn import metrics

from bayeslat.evaluation.scores import LEVELS, crps, log_scores, score_quantiles

N = 20_000
Z = ndtri(LEVELS)


def lognormal(location: np.ndarray, scale: float) -> np.ndarray:
    return np.exp(location[:, None] + scale * Z)


@pytest.fixture(scope="module")
def sample():
    """Latencies of a known lognormal, and its quantiles."""
    rng = np.random.default_rng(1)
    location = rng.normal(3.0, 0.5, N)
    return np.exp(location + 0.2 * rng.standard_normal(N)), location


def test_point_scores_are_those_of_scikit_learn(sample):
    observed, location = sample
    found = score_quantiles(observed, lognormal(location, 0.2))
    median = np.exp(location)
    assert found["r2"] == pytest.approx(metrics.r2_score(observed, median))
    assert found["rmse"] == pytest.approx(metrics.root_mean_squared_error(observed, median))
    assert found["mae"] == pytest.approx(metrics.mean_absolute_error(observed, median))
    share = metrics.mean_absolute_percentage_error(observed, median)
    assert found["mape"] == pytest.approx(100 * share)
    loss = metrics.mean_pinball_loss(observed, np.exp(location + 0.2 * Z[-2]), alpha=0.99)
    assert found["pinball99"] == pytest.approx(loss)


def test_the_true_distribution_has_its_nominal_shares(sample):
    observed, location = sample
    found = score_quantiles(observed, lognormal(location, 0.2))
    for name, nominal in (("coverage50", 0.5), ("coverage90", 0.9), ("coverage99", 0.99),
                          ("exceedance99", 0.01)):  # fmt: skip
        error = np.sqrt(nominal * (1 - nominal) / N)
        assert abs(found[name] - nominal) < 4 * error, name


def test_log_score_of_a_lognormal_is_its_log_density(sample):
    """Within the levels exactly; beyond them a power law has the mass that is left."""
    observed, location = sample
    exact = stats.lognorm.logpdf(observed, 0.2, scale=np.exp(location))
    inside = np.abs(np.log(observed) - location) < 0.2 * Z[-1]
    found = log_scores(observed, lognormal(location, 0.2))
    np.testing.assert_allclose(found[inside], exact[inside], atol=1e-9)
    assert not inside.all()
    assert np.abs(found - exact)[~inside].mean() < 1.0


def test_a_density_from_quantiles_integrates_to_one():
    t = np.exp(np.linspace(-12.0, 18.0, 400_001))
    skewed = np.exp(np.array([[0.2, 0.3, 0.5, 0.6, 0.7, 1.0, 1.2, 2.0, 2.1, 2.2, 2.3, 3.0, 3.5]]))
    density = np.exp(log_scores(t, np.repeat(skewed, t.size, axis=0)))
    assert np.trapezoid(density, t) == pytest.approx(1.0, abs=1e-4)


def test_the_truth_has_the_best_log_score_and_crps(sample):
    observed, location = sample
    right = score_quantiles(observed, lognormal(location, 0.2))
    for wrong in (
        lognormal(location, 0.15),
        lognormal(location, 0.3),
        lognormal(location + 0.1, 0.2),
    ):
        found = score_quantiles(observed, wrong)
        assert found["log_score"] < right["log_score"]
        assert found["crps"] > right["crps"]


def test_crps_is_a_few_per_cent_below_that_of_a_normal():
    rng = np.random.default_rng(2)
    observed = 100.0 + rng.standard_normal(N)
    found = crps(observed, np.tile(100.0 + Z, (N, 1)))
    exact = 1.0 / np.sqrt(np.pi)
    assert 0.95 * exact < found < exact


def test_ties_and_zero_quantiles_have_finite_scores():
    quantiles = np.array([[0.0] * 3 + [5.0] * 10, [5.0] * 13])
    assert np.isfinite(log_scores(np.array([5.0, 7.0]), quantiles)).all()


def test_a_point_alone_gets_no_score_that_asks_for_more():
    quantiles = np.full((3, len(LEVELS)), np.nan)
    quantiles[:, LEVELS.index(0.5)] = [1.0, 2.0, 3.0]
    found = score_quantiles(np.array([1.0, 2.0, 4.0]), quantiles)
    assert found["mape"] == pytest.approx(25 / 3)
    for name in ("crps", "coverage90", "exceedance99", "pinball99", "log_score"):
        assert np.isnan(found[name]), name


def test_equal_latencies_have_no_r2():
    quantiles = lognormal(np.zeros(4), 0.1)
    assert np.isnan(score_quantiles(np.ones(4), quantiles)["r2"])
