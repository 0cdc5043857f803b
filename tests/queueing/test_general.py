import numpy as np
import pytest
from scipy import optimize

from bayeslat.errors import InputError
from bayeslat.queueing import (
    gg1_mean_wait_approximation,
    gg1_mean_wait_bound,
    mg1_mean_wait,
    mg1_wait_variance,
    mgc_mean_wait_approximation,
    mmc_mean_wait,
    poisson_arrivals,
    simulate_servers,
)

RHO = np.array([0.1, 0.5, 0.9, 0.99])


def wait_of_d_m_1(rho):
    """Exact mean wait with constant gaps and exponential service of rate one."""
    root = optimize.brentq(lambda x: x - np.exp(-(1.0 - x) / rho), 0.0, 1.0 - 1e-9)
    return root / (1.0 - root)


# M/G/1


def test_exponential_service_is_m_m_1():
    wait = mg1_mean_wait(RHO, 1.0, 2.0)
    np.testing.assert_allclose(wait, mmc_mean_wait(RHO, 1.0))
    # P(W > t) = rho exp(-(1 - rho) t) has this variance.
    variance = RHO * (2.0 - RHO) / (1.0 - RHO) ** 2
    np.testing.assert_allclose(mg1_wait_variance(RHO, 1.0, 2.0, 6.0), variance)


def test_constant_service_waits_half_as_long():
    np.testing.assert_allclose(mg1_mean_wait(RHO, 1.0, 1.0), 0.5 * mmc_mean_wait(RHO, 1.0))


def test_moments_of_the_wait_are_those_of_a_simulation(assert_mean):
    rng = np.random.default_rng(5)
    n, arrival, mean = 1_000_000, 0.6, 1.0
    service = rng.gamma(0.5, 2.0, n)
    second, third = 0.5 * 1.5 * 4.0, 0.5 * 1.5 * 2.5 * 8.0
    wait = simulate_servers(poisson_arrivals(arrival, n, rng), service).wait
    expected = mg1_mean_wait(arrival, mean, second)
    assert_mean(wait, expected)
    variance = mg1_wait_variance(arrival, mean, second, third)
    assert_mean(wait**2, variance + expected**2, precision=0.1)


def test_the_unit_of_time_does_not_matter():
    seconds = mg1_mean_wait(40.0, 0.02, 6e-4)
    assert 1e3 * seconds == pytest.approx(mg1_mean_wait(0.04, 20.0, 600.0))


def test_unstable_or_infinite_moments_give_infinite_waits_there_only():
    wait = mg1_mean_wait([0.5, 1.0, 2.0, 0.5], 1.0, [2.0, 2.0, 2.0, np.inf])
    np.testing.assert_array_equal(wait, [1.0, np.inf, np.inf, np.inf])
    variance = mg1_wait_variance([0.5, 0.5, 1.0], 1.0, 2.0, [6.0, np.inf, 6.0])
    np.testing.assert_array_equal(variance, [3.0, np.inf, np.inf])


# G/G/1


def test_poisson_arrivals_make_the_approximation_exact():
    for scv in (0.0, 0.3, 1.0, 4.0):
        close = gg1_mean_wait_approximation(RHO, 1.0, arrival_scv=1.0, service_scv=scv)
        np.testing.assert_allclose(close, mg1_mean_wait(RHO, 1.0, 1.0 + scv))


def test_bound_is_above_and_touches_in_heavy_traffic():
    bound = gg1_mean_wait_bound(RHO, 1.0, arrival_scv=1.0, service_scv=0.5)
    exact = mg1_mean_wait(RHO, 1.0, 1.5)
    assert np.all(bound > exact)
    assert np.all(np.diff(bound / exact) < 0.0)
    assert bound[-1] / exact[-1] < 1.02


@pytest.mark.parametrize("rho", [0.3, 0.5, 0.7, 0.9, 0.98])
def test_constant_gaps_and_exponential_service(rho):
    # D/M/1 is solved exactly by one root; nothing of this is in the formulas.
    exact = wait_of_d_m_1(rho)
    question = {"arrival_scv": 0.0, "service_scv": 1.0}
    assert gg1_mean_wait_bound(rho, 1.0, **question) > exact
    assert gg1_mean_wait_approximation(rho, 1.0, **question) == pytest.approx(exact, rel=0.12)


def test_bursty_arrivals_are_approximated(assert_mean):
    rng = np.random.default_rng(6)
    n, rho = 2_000_000, 0.7
    # Balanced hyperexponential gaps of squared coefficient of variation 2.
    p = 0.5 * (1.0 + np.sqrt(1.0 / 3.0))
    short = rng.random(n) < p
    gaps = rng.exponential(1.0, n) / np.where(short, 2.0 * p * rho, 2.0 * (1.0 - p) * rho)
    wait = simulate_servers(np.cumsum(gaps), rng.exponential(1.0, n)).wait
    scv = gaps.var() / gaps.mean() ** 2
    assert scv == pytest.approx(2.0, rel=0.02)
    close = gg1_mean_wait_approximation(rho, 1.0, arrival_scv=2.0, service_scv=1.0)
    assert wait.mean() == pytest.approx(close, rel=0.1)
    assert wait.mean() < gg1_mean_wait_bound(rho, 1.0, arrival_scv=2.0, service_scv=1.0)
    with pytest.raises(AssertionError):
        assert_mean(wait, mg1_mean_wait(rho, 1.0, 2.0))


def test_nothing_random_never_waits():
    assert gg1_mean_wait_approximation(0.9, 1.0, arrival_scv=0.0, service_scv=0.0) == 0.0


# M/G/c


def test_one_server_or_exponential_service_are_exact():
    np.testing.assert_allclose(
        mgc_mean_wait_approximation(RHO, 1.0, 3.0, servers=1), mg1_mean_wait(RHO, 1.0, 3.0)
    )
    np.testing.assert_allclose(
        mgc_mean_wait_approximation(4.0 * RHO, 1.0, 2.0, servers=4),
        mmc_mean_wait(4.0 * RHO, 1.0, servers=4),
    )


@pytest.mark.parametrize(("servers", "rho"), [(2, 0.7), (4, 0.85)])
def test_constant_service_of_several_servers_is_approximated(servers, rho):
    rng = np.random.default_rng(7)
    arrivals = poisson_arrivals(servers * rho, 1_000_000, rng)
    wait = simulate_servers(arrivals, np.ones(arrivals.size), servers=servers).wait
    close = mgc_mean_wait_approximation(servers * rho, 1.0, 1.0, servers=servers)
    assert wait.mean() == pytest.approx(close, rel=0.1)


def test_overloaded_servers_wait_for_ever():
    wait = mgc_mean_wait_approximation([1.0, 2.0, 1.0], 1.0, [2.0, 2.0, np.inf], servers=2)
    np.testing.assert_array_equal(np.isinf(wait), [False, True, True])


# Arguments


@pytest.mark.parametrize(
    ("question", "match"),
    [
        (lambda: mg1_mean_wait(-1.0, 1.0, 2.0), "arrival_rate=-1"),
        (lambda: mg1_mean_wait(0.5, -1.0, 2.0), "mean_service=-1"),
        (lambda: mg1_mean_wait(0.5, 1.0, -2.0), "second_moment=-2"),
        (lambda: mg1_mean_wait(0.5, 1.0, [2.0, 0.9]), "second_moment=0.9.*not the variance"),
        (lambda: mg1_wait_variance(0.5, 1.0, 2.0, 3.0), "third_moment=3"),
        (lambda: gg1_mean_wait_bound(0.5, 1.0, arrival_scv=-1.0, service_scv=1.0), "arrival_scv"),
        (
            lambda: gg1_mean_wait_approximation(0.5, 1.0, arrival_scv=1.0, service_scv=np.inf),
            "service_scv=inf",
        ),
        (lambda: mgc_mean_wait_approximation(0.5, 1.0, 2.0, servers=0), "servers=0"),
    ],
)
def test_impossible_arguments_are_refused(question, match):
    with pytest.raises(InputError, match=match) as refusal:
        question()
    assert "\n" not in str(refusal.value)
