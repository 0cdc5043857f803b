"""Reweighting against Bayes' rule over a discrete support."""

import numpy as np
import pytest
from scipy import special

from bayeslat.online.belief import (
    Belief,
    discounted_likelihood,
    largest_pareto_k,
    picked,
)


def densities(one, rows):
    return one.draws.log_density(rows.latency_ms, rows.points).sum(axis=1)


def test_weights_are_bayes_rule_over_the_draws(one):
    rows = one.rows[:8]
    belief = Belief.of(one.draws).updated(densities(one, rows), n_seen=len(rows))
    assert belief.trusted
    exact = special.softmax(densities(one, rows))
    found = np.exp(belief.log_weights)
    assert found.sum() == pytest.approx(1.0)
    # Smoothing moves the largest weights a little, and the mean of anything by less.
    assert 0.5 * np.abs(found - exact).sum() < 0.05
    slope = one.vectors[:, 0]
    spread = np.sqrt(exact @ np.square(slope - exact @ slope))
    assert abs((found - exact) @ slope) < 0.1 * spread


def test_rows_one_by_one_and_all_at_once_are_the_same(one):
    rows = one.rows[:12]
    at_once = Belief.of(one.draws).updated(densities(one, rows), n_seen=len(rows))
    stepwise = Belief.of(one.draws)
    for i in range(12):
        stepwise = stepwise.updated(densities(one, rows[i : i + 1]), n_seen=i + 1)
    np.testing.assert_allclose(stepwise.log_likelihood, at_once.log_likelihood, rtol=1e-12)
    np.testing.assert_allclose(stepwise.log_weights, at_once.log_weights, atol=1e-9)


@pytest.mark.parametrize("decay", [1.0, 0.97])
def test_forgetting_is_the_likelihood_of_the_rows_that_are_left(one, decay):
    rows = one.rows[:30]
    belief = Belief.of(one.draws)
    for start in range(0, 30, 10):
        gone = rows[max(start - 10, 0) : start] if start else rows[:0]
        forgotten = discounted_likelihood(one.draws, gone, n_seen=start + 10, decay=decay)
        block = rows[start : start + 10]
        new = discounted_likelihood(one.draws, block, n_seen=start + 10, decay=decay)
        belief = belief.updated(new - forgotten, n_seen=start + 10, aged=decay**10)
    left = discounted_likelihood(one.draws, rows[20:], n_seen=30, decay=decay)
    np.testing.assert_allclose(belief.log_likelihood, left, atol=1e-8)


def test_a_decay_of_one_forgets_nothing(one):
    rows = one.rows[:30]
    plain = densities(one, rows)
    found = discounted_likelihood(one.draws, rows, n_seen=30, decay=1.0)
    np.testing.assert_allclose(found, plain, rtol=1e-12)


def test_exhausted_draws_keep_the_last_weights_and_learn_no_more(one):
    belief = Belief.of(one.draws).updated(densities(one, one.rows[:8]), n_seen=8)
    slower = one.rows[8:80]
    log_density = one.draws.log_density(1.4 * slower.latency_ms, slower.points)
    exhausted = belief.updated(log_density.sum(axis=1), n_seen=80)
    assert belief.trusted and not exhausted.trusted
    np.testing.assert_array_equal(exhausted.log_weights, belief.log_weights)
    np.testing.assert_array_equal(exhausted.log_likelihood, belief.log_likelihood)
    assert exhausted.n_seen == 8
    assert exhausted.updated(densities(one, one.rows[80:90]), n_seen=90) is exhausted


def test_rows_that_draws_were_taken_with_count_once(one):
    taken = densities(one, one.rows[:50])
    belief = Belief.of(one.draws, log_taken=taken)
    assert np.ptp(belief.log_weights) == 0.0
    assert belief.even is one.draws


def test_resampling_gives_every_draw_its_share(one):
    belief = Belief.of(one.draws).updated(densities(one, one.rows[:8]), n_seen=8)
    counts = np.bincount(picked(belief.log_weights, 5000), minlength=one.draws.n_draws)
    # Systematic resampling is off by less than one copy.
    assert np.abs(counts - 5000 * np.exp(belief.log_weights)).max() < 1.0 + 1e-6


def test_the_bound_on_the_tail_is_that_of_the_number_of_draws():
    assert largest_pareto_k(1000) == pytest.approx(2.0 / 3.0)
    assert largest_pareto_k(10**6) == 0.7
