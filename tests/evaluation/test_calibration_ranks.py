"""Places of truths are uniform where they should be, and the statistics notice where not."""

import numpy as np
import pytest
from scipy import stats

from bayeslat.evaluation.calibration_ranks import (
    MAX_RANKS,
    chi_square,
    places,
    rank_band,
)

N = 200
LEVEL = 0.05


def conjugate_places(stretch: float = 1.0, shift: float = 0.0) -> np.ndarray:
    """Places in a conjugate normal model whose draws are stretched and shifted, (simulation,)."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(N):
        truth = rng.standard_normal()
        data = truth + rng.standard_normal()
        draws = 0.5 * data + shift + stretch * np.sqrt(0.5) * rng.standard_normal((2, 100, 1))
        found.append(places(draws, np.array([truth]), rng).place[0])
    return np.array(found)


def test_places_of_an_exact_posterior_are_uniform():
    place = conjugate_places()
    assert stats.kstest(place, "uniform").pvalue > 1e-3
    assert rank_band(N).p_value(place) > 1e-3 and chi_square(place) > 1e-3


@pytest.mark.parametrize("wrong", [{"stretch": 0.5}, {"stretch": 2.0}, {"shift": 0.4}])
def test_intervals_too_narrow_too_wide_or_beside_are_refused(wrong):
    place = conjugate_places(**wrong)
    assert rank_band(N).p_value(place) < 1e-3 and chi_square(place) < 1e-3


def test_slow_chains_are_thinned_to_their_effective_draws():
    rng = np.random.default_rng(1)
    slow = np.zeros((2, 400))
    for draw in range(1, 400):
        slow[:, draw] = 0.95 * slow[:, draw - 1] + rng.standard_normal(2)
    draws = np.stack([slow, rng.standard_normal((2, 400))], axis=-1)
    found = places(draws, np.zeros(2), rng)
    assert found.n_draws[0] < 60 and found.n_draws[1] == MAX_RANKS
    assert ((found.place > 0.0) & (found.place < 1.0)).all()


def test_a_truth_beyond_all_draws_lies_at_the_end():
    rng = np.random.default_rng(2)
    found = places(rng.standard_normal((2, 200, 2)), np.array([-9.0, 9.0]), rng)
    assert found.place[0] < 1.0 / MAX_RANKS and found.place[1] > 1.0 - 1.0 / MAX_RANKS


def test_the_band_is_left_as_often_as_it_says():
    """And where the distribution leaves it, and only there, the test says so."""
    band, rng = rank_band(N, mass=1.0 - LEVEL), np.random.default_rng(3)
    left, refused = [], []
    for _ in range(400):
        place = rng.random(N)
        share = band.shares(place)
        left.append(bool(((share < band.lower) | (share > band.upper)).any()))
        refused.append(band.p_value(place) <= LEVEL)
    error = np.sqrt(LEVEL * (1.0 - LEVEL) / 400)
    assert abs(np.mean(left) - LEVEL) < 4.0 * error
    assert np.mean(np.array(left) != np.array(refused)) < 0.02


def test_the_band_contains_the_uniform_distribution():
    band = rank_band(N, mass=1.0 - LEVEL)
    assert (band.lower < band.at).all() and (band.at < band.upper).all()
