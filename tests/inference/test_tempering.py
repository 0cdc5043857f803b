"""Populations: against closed forms, with the weights of two modes among them."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from bayeslat.inference.density import FlatDensity
from bayeslat.inference.samplers import SamplerSettings
from bayeslat.inference.tempering import (
    KEPT_SHARE,
    SETS,
    _rise,
    _systematic,
    _weights,
    temper,
)

CHAINS, SIZE = 4, 500
SETTINGS = SamplerSettings(chains=CHAINS, draws=SETS * SIZE, seed=1)


def density(dim, log_likelihood) -> FlatDensity:
    return FlatDensity(
        names=("x",),
        shapes={"x": (dim,)},
        prior=lambda x: -0.5 * jnp.square(x).sum(),
        likelihood=log_likelihood,
        initial=np.zeros(dim),
    )


def standard_normal(dim) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((CHAINS, SIZE, dim))


def populations_apart(values: np.ndarray) -> tuple[float, float]:
    """Mean over populations, and its standard error from what lies between them."""
    means = values.mean(axis=1)
    return float(means.mean()), float(means.std(ddof=1) / np.sqrt(len(means)))


def test_a_conjugate_posterior():
    """Precise data on two sums of five coordinates: mean and covariance of the normal equations."""
    design = np.array([[1.0, 2.0, 0.0, 0.0, 1.0], [0.0, 1.0, -1.0, 0.0, 0.5]])
    seen, sigma = np.array([2.0, -1.0]), 0.02
    found = temper(
        density(5, lambda x: -0.5 * jnp.square((seen - design @ x) / sigma).sum()),
        standard_normal(5),
        SETTINGS,
        lambda line: None,
    )
    covariance = np.linalg.inv(np.eye(5) + design.T @ design / sigma**2)
    mean = covariance @ design.T @ seen / sigma**2
    draws = found.position.reshape(-1, 5)
    n_distinct = CHAINS * SIZE
    error = np.sqrt(np.diag(covariance) / n_distinct)
    np.testing.assert_array_less(np.abs(draws.mean(axis=0) - mean), 4.0 * error)
    white = np.linalg.solve(np.linalg.cholesky(covariance), (draws - mean).T)
    # The entries of a sample covariance of standard normals have variance 2 / n or 1 / n.
    np.testing.assert_allclose(np.cov(white), np.eye(5), atol=4.0 * np.sqrt(2.0 / n_distinct))
    assert not found.diverging.any()
    assert found.position.shape == (CHAINS, SETS * SIZE, 5)
    assert found.n_steps.shape == found.energy.shape == found.diverging.shape


@pytest.mark.parametrize("weight", [0.5, 0.15])
def test_two_modes_keep_their_weights(weight):
    """Two narrow modes between which no move goes: their weights are integrals."""
    places, width, dim = np.array([-1.0, 1.5]), 0.03, 4

    def log_likelihood(x):
        heights = jnp.log(jnp.array([weight, 1.0 - weight])) - 0.5 * jnp.square(
            (x[0] - places) / width
        )
        return jnp.logaddexp(*heights)

    found = temper(density(dim, log_likelihood), standard_normal(dim), SETTINGS, lambda line: None)
    evidence = np.array([weight, 1.0 - weight]) * stats.norm.pdf(places, scale=np.hypot(1.0, width))
    share, error = populations_apart(found.position[..., 0] < 0.25)
    # Four populations tell their own error by a Student-t of three degrees of freedom.
    bound = stats.t.ppf(0.995, CHAINS - 1) * max(error, 0.01)
    assert abs(share - evidence[0] / evidence.sum()) < bound


def test_a_rise_leaves_the_share_that_it_should():
    log_likelihood = -np.square(np.random.default_rng(0).standard_normal((3, 400))) * 50.0
    weights = _weights(log_likelihood, _rise(log_likelihood, 1.0))
    effective = 1.0 / np.square(weights).sum(axis=1) / 400
    assert effective.min() == pytest.approx(KEPT_SHARE, rel=1e-6)
    assert _rise(log_likelihood * 1e-3, 0.25) == 0.25


def test_resampling_is_as_even_as_it_can_be():
    rng = np.random.default_rng(2)
    weights = rng.dirichlet(np.full(50, 0.3))
    counts = np.bincount(_systematic(weights, rng), minlength=50)
    assert (np.abs(counts - 50 * weights) < 1.0).all()


def test_the_same_seed_repeats_the_draws():
    target = density(2, lambda x: -0.5 * jnp.square((x[0] - 1.0) / 0.1))
    first, second = (
        temper(target, standard_normal(2), SETTINGS, lambda line: None).position for _ in range(2)
    )
    np.testing.assert_array_equal(first, second)
