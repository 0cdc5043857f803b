import numpy as np
import pytest
from scipy import stats

from bayeslat.queueing.bulk_chain import arrival_probabilities, stationary


def test_arrivals_are_a_mixture_of_poisson_distributions():
    means = np.array([[0.01, 3.0], [40.0, 900.0]])
    weights = np.array([[0.3, 0.7], [0.5, 0.5]])
    found = arrival_probabilities(means, weights, 2_000)
    counts = np.arange(2_000)
    for row, mean, weight in zip(found, means, weights, strict=True):
        expected = stats.poisson.pmf(counts[:, None], mean) @ weight
        np.testing.assert_allclose(row, expected, rtol=1e-9, atol=1e-15)


def test_arrivals_sum_to_one_and_keep_their_tail():
    found = arrival_probabilities(np.array([[5.0]]), np.ones((1, 1)), 60)
    assert found.sum() == pytest.approx(1.0, abs=1e-15)
    assert found[0, -1] == pytest.approx(stats.poisson.pmf(59, 5.0))


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_elimination_solves_the_chain(batch):
    rng = np.random.default_rng(batch)
    boundary = rng.dirichlet(np.ones(7), size=batch)
    interior = rng.dirichlet(np.linspace(3.0, 0.3, 7))
    size = 30
    chain = np.zeros((size, size))
    for i in range(size):
        first, row = (0, boundary[i]) if i < batch else (i - batch, interior)
        np.add.at(chain[i], np.minimum(first + np.arange(7), size - 1), row)
    found = stationary(boundary, interior, size)
    np.testing.assert_allclose(found @ chain, found, rtol=1e-12)
    assert found.sum() == pytest.approx(1.0)
    assert np.all(found > 0.0)


def test_states_that_are_never_reached_have_no_probability():
    # From two on the chain never comes below two again.
    boundary = np.array([[0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.5, 0.5]])
    found = stationary(boundary, np.array([0.0, 0.0, 0.9, 0.1]), 6)
    np.testing.assert_array_equal(found[:2], 0.0)
    assert found.sum() == pytest.approx(1.0)
