"""Conditional refits against a second sampler, and against reweighting where both hold."""

from functools import partial

import arviz as az
import jax.numpy as jnp
import numpy as np
import pytest

from bayeslat.inference.samplers import SAMPLERS, SamplerSettings
from bayeslat.online.belief import Belief, discounted_likelihood
from bayeslat.online.changes import prior_of_change
from bayeslat.online.refit import refit
from bayeslat.online.rowwise import log_densities, row_data
from bayeslat.online.vectors import from_vectors, to_vectors


def refitted(one, prior, rows, used=None, **options):
    settings = {"n_seen": len(rows), "decay": 1.0, "n_draws": 1000, "seed": 4} | options
    used = np.ones(len(rows), dtype=bool) if used is None else used
    return refit(prior, one.layout, one.draws, rows, used, **settings)


@pytest.fixture(scope="module")
def by_nuts(one):
    """Prior, rows, and draws of their posterior by numpyro, shape (chain, draw, dim)."""
    changes = prior_of_change(one.layout, ("speed",), discrepancy_variance=0.0025)
    prior, rows = one.base.widened(changes), one.rows[:60]
    data, root = row_data(rows, one.draws), np.linalg.cholesky(prior.covariance)

    def log_density(y):
        x = prior.mean + root @ y
        return log_densities(one.layout, x, data).sum() - 0.5 * jnp.sum(y * y)

    settings = SamplerSettings(draws=400, tune=300, chains=4, seed=1)
    chains = SAMPLERS["numpyro"](log_density, one.layout.dim, settings).position
    return prior, rows, prior.mean + chains @ root.T


@pytest.mark.parametrize("way", ["importance sampling", "chains"])
def test_draws_are_those_of_nuts(one, by_nuts, way, monkeypatch):
    """Means and spreads agree within their Monte Carlo error."""
    prior, rows, theirs = by_nuts
    unused = "_walk" if way == "importance sampling" else "_resampled"
    monkeypatch.setattr(
        f"bayeslat.online.refit.{unused}", lambda *_: (np.empty((0, one.layout.dim)), 0.0)
    )
    ours = to_vectors(refitted(one, prior, rows).belief.draws, one.layout)
    assert len(ours) == 1000
    ess = np.array([float(az.ess(theirs[..., i])) for i in range(one.layout.dim)])
    assert ess.min() > 400
    flat = theirs.reshape(-1, one.layout.dim)
    n_ours = 300  # the least effective share that a refit lets pass
    error = flat.std(axis=0) * np.sqrt(1.0 / ess + 1.0 / n_ours)
    assert (np.abs(ours.mean(axis=0) - flat.mean(axis=0)) < 4.5 * error).all()
    log_ratio = np.log(ours.std(axis=0) / flat.std(axis=0))
    assert (np.abs(log_ratio) < 4.5 * np.sqrt(0.5 / ess + 0.5 / n_ours)).all()


def test_weights_that_tell_nothing_leave_it_to_the_chains(one, by_nuts, monkeypatch):
    """Proposals far from the posterior are given up, and the draws are those of the chains."""
    prior, rows, _ = by_nuts
    calls = []

    def walk(posterior, mode, root, n_draws, rng):
        calls.append(n_draws)
        return mode + rng.standard_normal((n_draws, mode.size)) @ root.T, float(n_draws)

    monkeypatch.setattr("bayeslat.online.refit._walk", walk)
    refitted(one, prior, rows)
    assert not calls
    monkeypatch.setattr("bayeslat.online.refit.linalg.solve_triangular", lambda _, unit: 3.0 * unit)
    refitted(one, prior, rows)
    assert calls == [1000]


def test_with_neutral_settings_a_refit_is_the_plain_posterior(one):
    """Under the base itself, forgetting nothing, draws taken anew and reweighted ones agree."""
    rows = one.rows[:12]
    start = from_vectors(
        np.random.default_rng(2).multivariate_normal(one.base.mean, one.base.covariance, 4000),
        one.layout,
        one.draws,
    )
    weighted = Belief.of(start).updated(
        discounted_likelihood(start, rows, n_seen=12, decay=1.0), n_seen=12
    )
    assert weighted.trusted
    x, weights = to_vectors(start, one.layout), np.exp(weighted.log_weights)
    ours = to_vectors(refitted(one, one.base, rows).belief.draws, one.layout)
    error = ours.std(axis=0) * np.sqrt(1.0 / weighted.effective_draws + 1.0 / 300)
    assert (np.abs(ours.mean(axis=0) - weights @ x) < 4.5 * error).all()


def test_rows_that_are_not_used_move_the_weights_alone(one):
    rows = one.rows[:40]
    used = np.arange(40) % 5 != 0
    found = refitted(one, one.base, rows, used)
    assert found.n_rows == 32
    taken = discounted_likelihood(found.belief.draws, rows[used], n_seen=40, decay=1.0)
    all_rows = discounted_likelihood(found.belief.draws, rows, n_seen=40, decay=1.0)
    np.testing.assert_allclose(found.belief.log_taken, taken, rtol=1e-12)
    np.testing.assert_allclose(found.belief.log_likelihood, all_rows, rtol=1e-12)


def test_forgotten_rows_have_no_weight(one):
    """With a strong decay old rows, slower by half, leave no trace."""
    rows = one.rows[:80]
    broken = rows[:40]
    slower = type(rows)(**{**vars(broken), "latency_ms": 1.5 * broken.latency_ms})
    mixed = slower.joined(rows[40:])
    changes = prior_of_change(one.layout, ("speed",), discrepancy_variance=0.0025)
    location = partial(_typical_log_ms, one)
    plain = location(refitted(one, one.base.widened(changes), rows[40:], n_seen=80))
    forgets = location(refitted(one, one.base.widened(changes), mixed, decay=0.8))
    keeps = location(refitted(one, one.base.widened(changes), mixed))
    assert abs(forgets - plain) < 0.05 < 0.1 < keeps - plain


def _typical_log_ms(one, found):
    draws, rows = found.belief.draws, one.rows[100:150]
    return float(np.log(draws.location(rows.points)).mean())


def test_the_same_seed_gives_the_same_draws(one):
    rows = one.rows[:40]
    first, again = (refitted(one, one.base, rows).belief.draws.sigma for _ in range(2))
    np.testing.assert_array_equal(first, again)
    other = refitted(one, one.base, rows, seed=5).belief.draws.sigma
    assert (first != other).any()


@pytest.mark.parametrize("factor", [0.7, 1.15, 1.9])
def test_a_change_of_speed_is_followed(one, factor):
    changes = prior_of_change(one.layout, ("speed",), discrepancy_variance=0.0025)
    rows, later = one.rows[:60], one.rows[300:600]
    slower = type(rows)(**{**vars(rows), "latency_ms": factor * rows.latency_ms})
    draws = refitted(one, one.base.widened(changes), slower).belief.draws
    measured = np.log(factor * later.latency_ms)
    error = measured - np.log(draws.location(later.points)).mean(axis=0)
    # The base's own errors have a median of a few per cent of their own.
    own = np.log(later.latency_ms) - np.log(one.draws.location(later.points)).mean(axis=0)
    assert abs(np.median(error) - np.median(own)) < 0.03
