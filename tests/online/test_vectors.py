"""Draws as vectors and back, and normal distributions of them."""

import numpy as np
import pytest
from scipy import stats

from bayeslat.online.vectors import Gaussian, from_vectors, moments, to_vectors


def test_vectors_and_back_give_the_same_densities(one):
    back = from_vectors(one.vectors, one.layout, one.draws)
    np.testing.assert_allclose(to_vectors(back, one.layout), one.vectors, rtol=1e-10, atol=1e-12)
    rows = one.rows[:40]
    # Where features reach everything the scale of the discrepancy, one for all, does not enter.
    reached = (
        one.draws.discrepancy.missing(
            one.draws.discrepancy.features(rows.batch_size, rows.total_tokens)
        )
        < 1e-3
    )
    assert reached.any()
    before = one.draws.log_density(rows.latency_ms, rows.points)[:, reached]
    after = back.log_density(rows.latency_ms, rows.points)[:, reached]
    np.testing.assert_allclose(after, before, atol=1e-2)


def test_a_vector_has_a_place_for_everything(one):
    layout = one.layout
    places = [
        *range(len(layout.quantities)),
        layout.log_sigma,
        *range(layout.slopes.start, layout.slopes.stop),
        layout.slopes.stop,
        *range(layout.loadings.start, layout.loadings.stop),
    ]
    assert places == list(range(layout.dim))


def test_a_power_of_a_gaussian_is_the_gaussian_of_the_powered_density():
    rng = np.random.default_rng(0)
    root = rng.standard_normal((4, 4))
    gaussian = Gaussian(rng.standard_normal(4), root @ root.T + np.eye(4))
    x = rng.standard_normal((6, 4))

    def log_density(one):
        return stats.multivariate_normal.logpdf(x, one.mean, one.covariance)

    whole, half = log_density(gaussian), log_density(gaussian.tempered(0.5))
    np.testing.assert_allclose(half - half[0], 0.5 * (whole - whole[0]), rtol=1e-10)
    wide = gaussian.widened(np.eye(4))
    np.testing.assert_allclose(wide.covariance - gaussian.covariance, np.eye(4), atol=1e-12)


def test_moments_are_those_of_the_draws(one):
    found = moments(one.vectors)
    assert found.mean == pytest.approx(one.vectors.mean(axis=0))
    assert np.diag(found.covariance) == pytest.approx(one.vectors.var(axis=0, ddof=1), rel=1e-6)
