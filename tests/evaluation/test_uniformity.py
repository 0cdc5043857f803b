"""Bands of uniform samples hold them as often as they say, and are those of a second library."""

import numpy as np
import pytest
from arviz_stats.ecdf_utils import ecdf_pit

from bayeslat.evaluation.findings import LEVEL
from bayeslat.evaluation.uniformity import uniform_band


@pytest.mark.parametrize("n", [30, 400])
def test_a_band_holds_whole_curves_with_its_probability(n):
    rng, n_samples = np.random.default_rng(33), 1500
    band = uniform_band(n)
    samples = np.sort(rng.uniform(size=(n_samples, n)), axis=1)
    shares = np.stack([np.searchsorted(own, band.at, side="right") for own in samples]) / n
    inside = ((band.lower <= shares) & (shares <= band.upper)).all(axis=1).mean()
    # A discrete band may be a little wider than asked for.
    assert 0.95 - 4.0 * np.sqrt(0.0475 / n_samples) < inside < 0.985
    p = np.array([band.p_value(own) for own in samples[:500]])
    assert abs(np.mean(p < 0.1) - 0.1) < 4.0 * np.sqrt(0.09 / 500)


def test_bands_are_as_wide_as_those_of_arviz():
    n = 100
    at, _, lower, upper = ecdf_pit(np.linspace(0.005, 0.995, n), 0.95, 2000)
    band = uniform_band(n)
    inner = slice(1, -1)
    assert at[inner] == pytest.approx(band.at)
    # One count at most between two simulations of a discrete band, on the way to its ends.
    assert np.abs(lower[inner] - band.lower).max() <= 0.02 + 1e-12
    assert np.abs(upper[inner] - band.upper).max() <= 0.02 + 1e-12


def test_gross_errors_survive_a_correction_over_many_deployments():
    """No number of simulated bands gives a p-value as small as sixty-three deployments ask for."""
    pit, band = np.random.default_rng(3).beta(8.0, 2.0, size=500), uniform_band(500)
    assert 63 * band.p_value(pit) < LEVEL
    rng = np.random.default_rng(4)
    p = np.array([band.p_value(rng.uniform(size=500)) for _ in range(400)])
    for level in (0.01, 0.1, 0.5):
        assert (p <= level).mean() < level + 4 * np.sqrt(level * (1 - level) / p.size)
