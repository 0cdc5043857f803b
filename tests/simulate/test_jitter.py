import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm

from bayeslat.simulate.jitter import StepJitter

JITTER = StepJitter(body_sd=0.04, stall_share=0.02)
HEAVY = StepJitter(body_sd=0.3, stall_share=0.2, stall_factor=1.5, stall_index=3.0)


@pytest.mark.parametrize("jitter", [JITTER, HEAVY])
def test_sf_matches_a_million_draws(jitter):
    draws = np.sort(jitter.rvs(np.random.default_rng(11), (1_000_000,)))
    ratios = jitter.ppf(np.array([0.001, 0.1, 0.5, 0.9, 0.97, 0.985, 0.99, 0.999, 0.9999]))
    expected = jitter.sf(ratios)
    observed = 1 - np.searchsorted(draws, ratios, side="right") / draws.size
    standard_error = np.sqrt(expected * (1 - expected) / draws.size)
    # Nine correlated checks of two distributions: 4 standard errors fail once in a thousand suites.
    assert np.all(np.abs(observed - expected) < 4 * standard_error)


@pytest.mark.parametrize("ratio", [0.9, 1.0, 1.1, 1.4, 3.0, 20.0])
def test_sf_matches_integration_over_the_stall(ratio):
    def body_sf(t):
        return norm.sf((np.log(t) + JITTER.body_sd**2 / 2) / JITTER.body_sd)

    def beyond(log_stall):
        density = JITTER.stall_index * np.exp(-JITTER.stall_index * log_stall)
        return density * body_sf(ratio / JITTER.stall_factor / np.exp(log_stall))

    edge = max(np.log(ratio / JITTER.stall_factor), 0.0)
    stalled, _ = quad(beyond, 0, edge + 8, points=[edge], limit=200)
    share = JITTER.stall_share
    assert JITTER.sf(ratio) == pytest.approx(
        (1 - share) * body_sf(ratio) + share * stalled, rel=1e-7
    )


def test_ppf_inverts_sf_far_into_both_tails():
    q = np.array([1e-9, 1e-3, 0.5, 0.99, 1 - 1e-6, 1 - 1e-9])
    np.testing.assert_allclose(JITTER.sf(JITTER.ppf(q)), 1 - q, rtol=1e-6)


def test_sf_goes_from_one_to_zero_without_overflow():
    ratios = np.array([-1.0, 0.0, 1e-300, 1e-3, 1.0, 1e3, 1e300, np.inf])
    values = JITTER.sf(ratios)
    np.testing.assert_array_equal(values[:4], 1.0)
    assert np.all(np.diff(values) <= 0)
    assert values[-1] == 0.0


def test_mean_is_the_integral_of_sf():
    integral, _ = quad(JITTER.sf, 0, 50, points=[0.9, 1.0, 1.1, 1.2, 1.5, 3.0], limit=500)
    tail = 50 * float(JITTER.sf(50.0)) / (JITTER.stall_index - 1)
    assert integral + tail == pytest.approx(JITTER.mean, rel=1e-6)


def test_tail_beyond_the_body_is_pareto():
    assert JITTER.sf(40.0) / JITTER.sf(20.0) == pytest.approx(2.0**-JITTER.stall_index, rel=1e-6)
