import ciw
import numpy as np
import pytest

from bayeslat.errors import InputError
from bayeslat.queueing import (
    mg1_mean_wait,
    mmc_mean_sojourn,
    nonpreemptive_mean_waits,
    preemptive_mean_sojourns,
)

ARRIVALS = np.array([0.2, 0.3, 0.25])
MEANS = np.array([1.0, 0.8, 1.2])
SECONDS = np.array([2.0, 0.64, 5.0])


def simulate_classes(arrivals, services, preempt, time, seed):
    """Times to the end and to the first start of service of two classes, by another simulator."""
    names = ["first", "second"]
    network = ciw.create_network(
        arrival_distributions={
            name: [ciw.dists.Exponential(rate)] for name, rate in zip(names, arrivals, strict=True)
        },
        service_distributions={
            name: [service] for name, service in zip(names, services, strict=True)
        },
        number_of_servers=[1],
        priority_classes=({"first": 0, "second": 1}, [preempt]),
    )
    ciw.seed(seed)
    simulation = ciw.Simulation(network)
    simulation.simulate_until_max_time(time)
    records = sorted(simulation.get_all_records(only=["service"]), key=lambda r: r.arrival_date)
    waits, sojourns = [], []
    for name in names:
        own = [r for r in records if r.customer_class == name]
        waits.append(np.array([r.waiting_time for r in own]))
        sojourns.append(np.array([r.exit_date - r.arrival_date for r in own]))
    return waits, sojourns


# One class, and sums over classes


def test_one_class_is_m_g_1():
    wait = nonpreemptive_mean_waits([0.7], [1.0], [3.0])
    assert wait[0] == pytest.approx(mg1_mean_wait(0.7, 1.0, 3.0))
    sojourn = preemptive_mean_sojourns([0.7], [1.0], [3.0])
    assert sojourn[0] == pytest.approx(mg1_mean_wait(0.7, 1.0, 3.0) + 1.0)


def test_work_is_conserved_whatever_the_order():
    rho = ARRIVALS * MEANS
    mean, second = (np.average(m, weights=ARRIVALS) for m in (MEANS, SECONDS))
    total = rho.sum() * mg1_mean_wait(ARRIVALS.sum(), mean, second)
    for order in ([0, 1, 2], [2, 1, 0], [1, 0, 2]):
        waits = nonpreemptive_mean_waits(ARRIVALS[order], MEANS[order], SECONDS[order])
        assert rho[order] @ waits == pytest.approx(total)
        assert np.all(np.diff(waits) > 0.0)


def test_preemption_of_exponential_services_leaves_the_number_in_the_system():
    sojourns = preemptive_mean_sojourns(ARRIVALS, 1.0, 2.0)
    number = ARRIVALS.sum() * mmc_mean_sojourn(ARRIVALS.sum(), 1.0)
    assert ARRIVALS @ sojourns == pytest.approx(number)


def test_the_first_class_sees_nobody_else_under_preemption():
    sojourn = preemptive_mean_sojourns(ARRIVALS, MEANS, SECONDS)[0]
    assert sojourn == pytest.approx(mg1_mean_wait(0.2, 1.0, 2.0) + 1.0)
    busier = preemptive_mean_sojourns(ARRIVALS * [1.0, 9.0, 9.0], MEANS, SECONDS)
    assert busier[0] == sojourn
    assert np.all(np.isinf(busier[1:]))


# Another simulator


def test_two_classes_without_preemption(assert_mean):
    services = [ciw.dists.Exponential(1.0), ciw.dists.Deterministic(0.8)]
    waits, _ = simulate_classes([0.3, 0.5], services, False, 80_000.0, seed=4)
    expected = nonpreemptive_mean_waits([0.3, 0.5], [1.0, 0.8], [2.0, 0.64])
    for wait, mean in zip(waits, expected, strict=True):
        assert_mean(wait, mean, precision=0.05)


def test_two_classes_with_preemption(assert_mean):
    services = [ciw.dists.Exponential(1.0), ciw.dists.Deterministic(0.8)]
    _, sojourns = simulate_classes([0.3, 0.5], services, "resume", 60_000.0, seed=5)
    expected = preemptive_mean_sojourns([0.3, 0.5], [1.0, 0.8], [2.0, 0.64])
    for sojourn, mean in zip(sojourns, expected, strict=True):
        assert_mean(sojourn, mean, precision=0.05)


def test_an_overloaded_class_fills_the_server_for_the_one_above(assert_mean):
    services = [ciw.dists.Exponential(1.0), ciw.dists.Deterministic(2.0)]
    waits, _ = simulate_classes([0.4, 0.35], services, False, 40_000.0, seed=6)
    expected = nonpreemptive_mean_waits([0.4, 0.35], [1.0, 2.0], [2.0, 4.0])
    # The second class takes the 0.6 of the server that the first one leaves, not 0.7.
    assert expected[0] == pytest.approx((0.4 * 2.0 / 2.0 + 0.6 * 4.0 / 2.0 / 2.0) / 0.6)
    assert np.isinf(expected[1])
    assert_mean(waits[0], expected[0])


def test_classes_below_an_overloaded_one_change_nothing():
    three = nonpreemptive_mean_waits([0.4, 0.9, 0.1], [1.0, 2.0, 1.0], [2.0, 4.0, np.inf])
    two = nonpreemptive_mean_waits([0.4, 0.9], [1.0, 2.0], [2.0, 4.0])
    np.testing.assert_array_equal(three, [*two, np.inf])


# Arrays


def test_classes_lie_along_the_last_axis():
    arrivals = ARRIVALS * np.array([[0.5], [1.0], [5.0]])
    for function in (nonpreemptive_mean_waits, preemptive_mean_sojourns):
        answers = function(arrivals, MEANS, SECONDS)
        assert answers.shape == (3, 3)
        for row, rates in zip(answers, arrivals, strict=True):
            np.testing.assert_allclose(row, function(rates, MEANS, SECONDS))


@pytest.mark.parametrize("function", [nonpreemptive_mean_waits, preemptive_mean_sojourns])
@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (([0.1, 0.0], 1.0, 2.0), "arrival_rates=0"),
        (([0.1, 0.2], -1.0, 2.0), "mean_services=-1"),
        (([0.1, 0.2], 1.0, [2.0, 0.5]), "second_moment=0.5"),
    ],
)
def test_impossible_arguments_are_refused(function, arguments, match):
    with pytest.raises(InputError, match=match):
        function(*arguments)
