import numpy as np
import pytest

from bayeslat.errors import InputError
from bayeslat.queueing import (
    check_fallback_bound,
    fallback_quantile_bound,
    fallback_tail_bound,
    largest_cut,
    poisson_arrivals,
    simulate_servers,
)

# Worked values: 200 requests overflow in a second, the fallback finishes 500, times in seconds.
RATES = {"arrival_rate": 200.0, "service_rate": 500.0}


def overflow(arrivals, services, fallback_services, cut, service_rate):
    """Times of the requests that overflowed, and the claim about them."""
    events = simulate_servers(arrivals, services, cut=cut, fallback_services=fallback_services)
    rate = events.overflowed.sum() / arrivals[-1]
    times = (events.finish - arrivals)[events.overflowed]
    claim = {"cut": cut, "arrival_rate": rate, "service_rate": service_rate}
    return times, claim


# The bound


def test_p99_beyond_the_cut_is_15_ms():
    assert 1e3 * fallback_quantile_bound(0.99, 0.0, **RATES) == pytest.approx(15.35, abs=0.005)
    assert 1e3 * largest_cut(0.02, 0.99, **RATES) == pytest.approx(4.65, abs=0.005)


def test_the_largest_cut_keeps_the_sla_exactly():
    for overflowing in (0.02, 0.3, 1.0):
        cut = largest_cut(0.02, 0.99, **RATES, overflow=overflowing)
        bound = fallback_quantile_bound(0.99, cut, **RATES, overflow=overflowing)
        assert bound == pytest.approx(0.02)


def test_tail_and_quantile_agree():
    levels = np.array([0.1, 0.9, 0.999])
    beyond = fallback_quantile_bound(levels, 0.0, **RATES)
    np.testing.assert_allclose(fallback_tail_bound(beyond, **RATES), 1.0 - levels)
    assert fallback_tail_bound(0.0, **RATES) == 1.0


def test_among_all_requests_only_the_share_that_overflows_counts():
    bound = fallback_quantile_bound(0.99, 0.005, **RATES, overflow=[0.001, 0.01, 0.1, 1.0])
    np.testing.assert_allclose(bound[:2], 0.005)
    np.testing.assert_allclose(bound[2:], 0.005 + np.log([10.0, 100.0]) / 300.0)
    # With one in a hundred or fewer the whole SLA can be spent on waiting.
    assert largest_cut(0.02, 0.99, **RATES, overflow=0.01) == 0.02


def test_arguments_broadcast_and_scalars_stay_scalars():
    rate = np.array([100.0, 200.0, 300.0])
    cut = largest_cut(np.array([[0.02], [0.05]]), 0.9, rate, 500.0)
    assert cut.shape == (2, 3)
    assert np.all(np.diff(cut, axis=1) < 0.0)
    assert type(fallback_tail_bound(0.1, 1.0, 2.0)) is float
    assert type(fallback_quantile_bound(0.9, 0.1, 1.0, 2.0)) is float
    assert type(largest_cut(9.0, 0.9, 1.0, 2.0)) is float


# Its check


def test_the_bound_is_exact_where_its_assumption_is_true():
    # Cut at nothing behind a station that never serves: overflow is the Poisson stream itself.
    rng = np.random.default_rng(11)
    arrivals = np.r_[0.0, poisson_arrivals(0.6, 1_000_000, rng)]
    services = np.full(arrivals.size, 1e9)
    slow = rng.exponential(1.0, arrivals.size)
    times, claim = overflow(arrivals, services, slow, 0.0, 1.0)
    check = check_fallback_bound(times, **claim)
    assert times.size == arrivals.size - 1
    assert check.holds and check.quantile_holds and not check.fails.any()
    assert np.all(np.abs(check.empirical - check.bound) <= 4.0 * check.standard_error + 1e-12)
    assert check.quantile == pytest.approx(check.quantile_bound, rel=0.05)
    # The same times against a fallback said to be a tenth faster.
    boast = check_fallback_bound(times, **{**claim, "service_rate": 1.1})
    assert not boast.holds and not boast.quantile_holds


@pytest.mark.parametrize("service_rate", [0.3, 0.5, 2.0])
def test_bursts_of_overflow_break_the_bound_and_are_flagged(service_rate):
    # The station keeps up on average; it overflows while it is behind, one burst at a time.
    rng = np.random.default_rng(12)
    n, cut = 1_000_000, 5.0
    arrivals, services = poisson_arrivals(0.95, n, rng), rng.exponential(1.0, n)
    slow = rng.exponential(1.0 / service_rate, n)
    times, claim = overflow(arrivals, services, slow, cut, service_rate)
    assert claim["arrival_rate"] < 0.5 * service_rate
    check = check_fallback_bound(times, **claim)
    assert not check.holds and not check.quantile_holds
    assert check.quantile > 1.05 * check.quantile_bound
    # It fails in the tail, where an SLA asks, and by more than the errors that are allowed for.
    worst = check.bound < 0.05
    assert check.fails[worst].all()
    assert np.all((check.empirical - check.bound)[worst] > 4.0 * check.standard_error[worst])


def test_a_paced_overload_keeps_the_bound():
    # Constant gaps and services: every second request overflows, more regular than Poisson.
    rng = np.random.default_rng(13)
    n = 400_000
    arrivals, services = 0.5 * np.arange(1, n + 1), np.ones(n)
    times, claim = overflow(arrivals, services, rng.exponential(0.5, n), 5.0, 2.0)
    check = check_fallback_bound(times, **claim)
    assert check.holds and check.quantile_holds
    assert check.quantile < 0.9 * check.quantile_bound


def test_constant_service_breaks_the_bound_early_and_can_keep_its_quantile():
    rng = np.random.default_rng(14)
    n = 1_000_000
    arrivals, services = poisson_arrivals(0.95, n, rng), rng.exponential(1.0, n)
    times, claim = overflow(arrivals, services, np.full(n, 0.5), 5.0, 2.0)
    check = check_fallback_bound(times, **claim)
    assert check.quantile_holds and not check.holds
    # No request can be done before one whole service.
    assert np.all(check.time[check.fails] < 5.0 + 3.0 * 0.5)


# Arguments


@pytest.mark.parametrize(
    ("question", "match"),
    [
        (lambda: fallback_tail_bound(1.0, 2.0, 2.0), "grows for ever"),
        (lambda: fallback_tail_bound(1.0, [1.0, 3.0], 2.0), "service_rate - arrival_rate=-1"),
        (lambda: fallback_tail_bound(-1.0, 1.0, 2.0), "t=-1"),
        (lambda: fallback_tail_bound(1.0, 0.0, 2.0), "arrival_rate=0"),
        (lambda: fallback_quantile_bound(1.0, 1.0, 1.0, 2.0), "level=1"),
        (lambda: fallback_quantile_bound(0.9, -1.0, 1.0, 2.0), "cut=-1"),
        (lambda: fallback_quantile_bound(0.9, 1.0, 1.0, 2.0, overflow=1.5), "overflow=1.5"),
        (lambda: fallback_quantile_bound(0.9, 1.0, 1.0, 2.0, overflow=0.0), "overflow=0"),
        (lambda: largest_cut(0.015, 0.99, **RATES), "sla=0.015.*relax the SLA"),
        (lambda: largest_cut([0.02, 0.0], 0.99, **RATES), "sla=0"),
        (
            lambda: check_fallback_bound(np.ones(10), cut=0.5, arrival_rate=1.0, service_rate=2.0),
            "simulate longer",
        ),
        (
            lambda: check_fallback_bound(np.ones(99), cut=1.5, arrival_rate=1.0, service_rate=2.0),
            "at least the cut 1.5",
        ),
        (
            lambda: check_fallback_bound(np.ones(99), cut=0.5, arrival_rate=3.0, service_rate=2.0),
            "grows for ever",
        ),
    ],
)
def test_impossible_arguments_are_refused(question, match):
    with pytest.raises(InputError, match=match) as refusal:
        question()
    assert "\n" not in str(refusal.value)
