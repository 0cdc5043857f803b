"""Scores against closed forms."""

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.stats import norm

from contest import scores
from contest.scores import LEVELS

N = 4000


@pytest.fixture(scope="module")
def normal() -> tuple[np.ndarray, np.ndarray]:
    """Equally likely values of a standard normal around 10, and its own quantiles as forecast."""
    observed = 10.0 + norm.ppf((np.arange(N) + 0.5) / N)
    return observed, np.tile(10.0 + norm.ppf(LEVELS), (N, 1))


def test_a_true_forecast_covers_and_is_exceeded_as_often_as_it_says(normal) -> None:
    assert scores.coverage(*normal) == pytest.approx(0.9, abs=1 / N)
    assert scores.exceedance(*normal) == pytest.approx(0.01, abs=1 / N)


def test_pinball_of_a_true_normal_quantile_is_its_density(normal) -> None:
    # E[pinball] at the true quantile q of level a is the density there, for a standard normal.
    # The grid of N values leaves out the far tail, which the loss at 0.99 feels most.
    assert scores.mean_pinball(*normal) == pytest.approx(norm.pdf(norm.ppf(0.99)), rel=5e-3)


def test_pinball_weighs_the_two_sides_by_the_level() -> None:
    assert scores.pinball([3.0, 1.0], 2.0, 0.9) == pytest.approx([0.9, 0.1])


def test_crps_of_a_normal_is_too_small_by_the_stated_truncation(normal) -> None:
    # The CRPS of a true standard normal forecast is 1 / sqrt(pi). The trapezoid is 3.3 % below,
    # which follows from the density at the levels alone.
    expected = 2 * np.trapezoid([0, *norm.pdf(norm.ppf(LEVELS)), 0], [0, *LEVELS, 1])
    assert scores.crps(*normal) == pytest.approx(expected, rel=1e-3)
    assert expected == pytest.approx(1 / np.sqrt(np.pi), rel=0.035)


def test_crps_of_a_point_mass_is_the_absolute_error_within_the_truncation() -> None:
    # All quantiles at one point: the loss is linear in the level, and only the two end pieces,
    # where it is cut to zero, are wrong.
    value = scores.crps(np.array([3.0, 6.0]), np.full((2, len(LEVELS)), 4.0))
    assert value == pytest.approx(1.5, rel=0.01)


def test_mape_is_of_the_median() -> None:
    forecast = np.tile(np.linspace(1.0, 13.0, len(LEVELS)), (2, 1))
    assert scores.mape(np.array([7.0, 14.0]), forecast) == pytest.approx(25.0)


def test_a_point_forecast_has_a_mape_and_no_other_score(normal) -> None:
    observed, forecast = normal
    point = np.full_like(forecast, np.nan)
    point[:, LEVELS.index(0.5)] = 10.0
    found = scores.score_forecast(observed, point)
    assert found.pop("mape") > 0.0
    assert np.isnan(list(found.values())).all()


def test_mixture_quantile_of_two_normals() -> None:
    centres = np.repeat([0.0, 3.0], 40)
    found = scores.mixture_quantile(centres[:, None] + norm.ppf(LEVELS), 0.9)
    exact = brentq(lambda t: norm.cdf(t - centres).mean() - 0.9, 0.0, 10.0)
    # At 0.9 of the mixture the upper normal is at its level 0.8: the error is at most that of a
    # straight line from its level 0.75 to 0.9.
    between = np.linspace(0.75, 0.9, 50)
    chord = np.interp(between, LEVELS, norm.ppf(LEVELS)) - norm.ppf(between)
    assert found == pytest.approx(exact, abs=chord.max())


def test_p99_error_sees_only_bins_with_enough_rows() -> None:
    observed = np.concatenate([np.full(60, 2.0), np.full(10, 9.0)])
    batch = np.concatenate([np.full(60, 1.0), np.full(10, 2.0)])
    forecast = np.tile(np.linspace(2.99, 3.01, len(LEVELS)), (70, 1))
    assert scores.p99_error(observed, forecast, batch) == pytest.approx(50.0, abs=0.6)
    assert np.isnan(scores.p99_error(observed[:40], forecast[:40], batch[:40]))
