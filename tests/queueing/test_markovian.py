from itertools import product

import ciw
import numpy as np
import pytest
from scipy import integrate

from bayeslat.errors import InputError
from bayeslat.queueing import (
    mmc_mean_sojourn,
    mmc_mean_wait,
    mmc_sojourn_quantile,
    mmc_sojourn_tail,
    mmc_utilisation,
    mmc_wait_probability,
    mmc_wait_quantile,
    mmc_wait_tail,
)

TAILS = (mmc_wait_tail, mmc_sojourn_tail)
QUANTILES = (mmc_wait_quantile, mmc_sojourn_quantile)
MEANS = (mmc_mean_wait, mmc_mean_sojourn)


def erlang_c(load, servers):
    """By the recursion of Erlang B over the number of servers."""
    blocked = 1.0
    for c in range(1, servers + 1):
        blocked = load * blocked / (c + load * blocked)
    return blocked / (1.0 - load / servers * (1.0 - blocked))


# One server


@pytest.mark.parametrize("rho", [0.01, 0.5, 0.99])
def test_one_server_is_the_textbook(rho):
    arrival, service, t = rho * 4.0, 4.0, np.linspace(0.0, 5.0, 7)
    assert mmc_utilisation(arrival, service) == pytest.approx(rho)
    assert mmc_mean_wait(arrival, service) == pytest.approx(rho / (service - arrival))
    assert mmc_mean_sojourn(arrival, service) == pytest.approx(1.0 / (service - arrival))
    decay = np.exp(-(service - arrival) * t)
    np.testing.assert_allclose(mmc_wait_tail(t, arrival, service), rho * decay)
    np.testing.assert_allclose(mmc_sojourn_tail(t, arrival, service), decay)
    p99 = np.log(100.0) / (service - arrival)
    assert mmc_sojourn_quantile(0.99, arrival, service) == pytest.approx(p99)


# Several servers


def test_two_servers_wait_with_the_closed_form():
    rho = np.array([0.1, 0.5, 0.9])
    waits = mmc_wait_probability(2.0 * rho, 1.0, servers=2)
    np.testing.assert_allclose(waits, 2.0 * rho**2 / (1.0 + rho))


@pytest.mark.parametrize(
    ("servers", "rho"), list(product([1, 3, 40, 1_000, 20_000], [0.3, 0.9, 0.999]))
)
def test_wait_probability_is_the_recursion(servers, rho):
    expected = erlang_c(rho * servers, servers)
    waits = mmc_wait_probability(rho * servers, 1.0, servers=servers)
    assert waits == pytest.approx(expected, rel=1e-9, abs=1e-300)


@pytest.mark.parametrize("arrival", [0.5, 2.0, 2.0 + 1e-9, 2.0 - 1e-6, 2.9])
def test_tails_integrate_to_the_means(arrival):
    # With three servers of rate one the two rates of the sojourn are equal at arrival rate two.
    for tail, mean in zip(TAILS, MEANS, strict=True):
        area, _ = integrate.quad(
            lambda t, f=tail: f(t, arrival, 1.0, servers=3), 0.0, 400.0, limit=500, epsabs=1e-10
        )
        assert area == pytest.approx(mean(arrival, 1.0, servers=3), rel=1e-7)


def test_equal_rates_are_no_special_case():
    t = np.linspace(0.0, 10.0, 21)
    waits = mmc_wait_probability(2.0, 1.0, servers=3)
    exact = np.exp(-t) * (1.0 + waits * t)
    np.testing.assert_allclose(mmc_sojourn_tail(t, 2.0, 1.0, servers=3), exact, rtol=1e-13)
    near = mmc_sojourn_tail(t, 2.0 + 1e-7, 1.0, servers=3)
    np.testing.assert_allclose(near, exact, rtol=1e-5)


def test_sojourn_of_many_servers_does_not_overflow():
    t = np.array([0.0, 1.0, 1e3, 1e6])
    tail = mmc_sojourn_tail(t, 10.0, 1.0, servers=100_000)
    np.testing.assert_allclose(tail, np.exp(-t), atol=1e-300)


@pytest.mark.parametrize(
    ("level", "arrival", "servers"), list(product([0.01, 0.5, 0.999], [0.3, 2.0, 2.99], [3, 50]))
)
def test_quantiles_invert_the_tails(level, arrival, servers):
    sojourn = mmc_sojourn_quantile(level, arrival, 1.0, servers=servers)
    tail = mmc_sojourn_tail(sojourn, arrival, 1.0, servers=servers)
    assert tail == pytest.approx(1.0 - level, rel=1e-9)
    wait = mmc_wait_quantile(level, arrival, 1.0, servers=servers)
    if mmc_wait_probability(arrival, 1.0, servers=servers) <= 1.0 - level:
        assert wait == 0.0
    else:
        tail = mmc_wait_tail(wait, arrival, 1.0, servers=servers)
        assert tail == pytest.approx(1.0 - level, rel=1e-9)


def test_three_servers_against_another_simulator(assert_mean):
    network = ciw.create_network(
        arrival_distributions=[ciw.dists.Exponential(2.4)],
        service_distributions=[ciw.dists.Exponential(1.0)],
        number_of_servers=[3],
    )
    ciw.seed(3)
    simulation = ciw.Simulation(network)
    simulation.simulate_until_max_time(60_000.0)
    records = sorted(simulation.get_all_records(), key=lambda record: record.arrival_date)
    wait = np.array([record.waiting_time for record in records])
    sojourn = wait + [record.service_time for record in records]
    assert_mean(wait, mmc_mean_wait(2.4, 1.0, servers=3), precision=0.05)
    assert_mean(wait > 0.0, mmc_wait_probability(2.4, 1.0, servers=3))
    late = mmc_sojourn_tail(4.0, 2.4, 1.0, servers=3)
    assert_mean(sojourn > 4.0, late, precision=0.05)


# Arrays


def test_unstable_elements_are_infinite_and_the_others_are_not():
    arrival = np.array([0.5, 2.0, 3.0])
    for mean in MEANS:
        np.testing.assert_array_equal(np.isinf(mean(arrival, 1.0, servers=2)), [False, True, True])
    for tail in TAILS:
        values = tail(30.0, arrival, 1.0, servers=2)
        assert values[0] < 1e-8
        np.testing.assert_array_equal(values[1:], 1.0)
    for quantile in QUANTILES:
        values = quantile(0.99, arrival, 1.0, servers=2)
        np.testing.assert_array_equal(np.isinf(values), [False, True, True])
    np.testing.assert_allclose(mmc_utilisation(arrival, 1.0, servers=2), arrival / 2.0)


def test_arguments_broadcast_and_scalars_stay_scalars():
    t, arrival, servers = np.ones((4, 1, 1)), np.ones((3, 1)), np.array([2, 5])
    for tail in TAILS:
        assert tail(t, arrival, 1.0, servers=servers).shape == (4, 3, 2)
        assert type(tail(1.0, 1.0, 2.0)) is float
    for quantile in QUANTILES:
        assert quantile(0.5 * t, arrival, 1.0, servers=servers).shape == (4, 3, 2)
        assert type(quantile(0.5, 1.0, 2.0)) is float
    for mean in (*MEANS, mmc_utilisation, mmc_wait_probability):
        assert mean(arrival, 1.0, servers=servers).shape == (3, 2)
        assert type(mean(1.0, 2.0)) is float


@pytest.mark.parametrize(
    ("question", "match"),
    [
        (lambda: mmc_mean_wait(0.0, 1.0), "got arrival_rate=0, expected a positive number; check"),
        (lambda: mmc_mean_wait([1.0, np.nan], 1.0), "arrival_rate=nan"),
        (lambda: mmc_mean_wait(1.0, -2.0), "service_rate=-2"),
        (lambda: mmc_mean_wait(1.0, np.inf), "service_rate=inf"),
        (lambda: mmc_mean_wait(1.0, 2.0, servers=0), "servers=0"),
        (lambda: mmc_mean_wait(1.0, 2.0, servers=1.5), "servers=1.5"),
        (lambda: mmc_wait_tail(-1.0, 1.0, 2.0), "t=-1"),
        (lambda: mmc_sojourn_quantile(1.0, 1.0, 2.0), "level=1"),
        (lambda: mmc_wait_quantile(0.0, 1.0, 2.0), "level=0"),
    ],
)
def test_impossible_arguments_are_refused(question, match):
    with pytest.raises(InputError, match=match) as refusal:
        question()
    assert "\n" not in str(refusal.value)
