"""Prequential scores against loops, closed forms and their own calibration."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import special, stats

from bayeslat.online.belief import SCORING_DRAWS, Belief, picked
from bayeslat.online.scoring import score


def test_scores_of_one_draw_are_those_of_a_student_t(one):
    draws = one.draws.take(np.zeros(100, dtype=int))
    rows = one.rows[:30]
    found = score(Belief.of(draws), rows, tolerance=0.05)
    mu, sigma = (each[0] for each in draws.location_and_scale(rows.points))
    law = stats.t(draws.nu[0], loc=mu, scale=mu * sigma)
    np.testing.assert_allclose(found.pit, law.cdf(rows.latency_ms), atol=1e-6)
    np.testing.assert_allclose(found.p_slower, law.sf(rows.latency_ms / 1.05), atol=1e-6)
    np.testing.assert_allclose(found.p_faster, law.cdf(rows.latency_ms * 1.05), atol=1e-6)
    np.testing.assert_allclose(found.log_score, law.logpdf(rows.latency_ms), atol=1e-9)
    np.testing.assert_allclose(found.predicted_ms, mu, rtol=1e-12)


def test_every_row_is_scored_by_the_draws_as_all_earlier_rows_leave_them(one):
    rows = one.rows[:6]
    belief = Belief.of(one.draws)
    log_density = one.draws.log_density(rows.latency_ms, rows.points)
    found = score(belief, rows, tolerance=0.0)
    pick = picked(belief.log_weights, SCORING_DRAWS)
    draws = one.draws.take(pick)
    for i in range(6):
        weights = special.softmax(log_density[pick][:, :i].sum(axis=1))
        cdf = 1.0 - draws.sf_draws(rows.latency_ms[i : i + 1], rows.points[i : i + 1])[:, 0]
        assert found.pit[i] == pytest.approx(weights @ cdf, abs=1e-6)
        density = np.exp(log_density[pick][:, i])
        assert found.log_score[i] == pytest.approx(np.log(weights @ density), rel=1e-9)


def test_pit_is_uniform_where_the_truth_is_one_of_the_draws(one):
    """Steps of a truth drawn from the belief, many times over, whatever steps are asked for."""
    rng = np.random.default_rng(11)
    values = []
    for truth in rng.integers(one.draws.n_draws, size=60):
        rows = one.rows[rng.choice(len(one.rows), 20)]
        own = one.draws.take(np.array([truth]))
        mu, sigma = own.location_and_scale(rows.points)
        latency = (mu * (1.0 + sigma * rng.standard_t(own.nu[0], mu.shape)))[0]
        rows = replace(rows, latency_ms=np.maximum(latency, 1e-3))
        values.append(score(Belief.of(one.draws), rows, tolerance=0.0).pit)
    assert stats.kstest(np.concatenate(values), "uniform").pvalue > 0.01


def test_a_slower_deployment_is_not_uniform(one):
    rows = replace(one.rows[:60], latency_ms=1.15 * one.rows[:60].latency_ms)
    found = score(Belief.of(one.draws), rows, tolerance=0.0)
    assert stats.kstest(found.pit, "uniform").pvalue < 1e-6
