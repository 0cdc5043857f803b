import math
from dataclasses import replace

import numpy as np
import pytest

from bayeslat import queueing
from bayeslat.decisions.policies import (
    Fallback,
    Policy,
    compare_policies,
    standard_policies,
)
from bayeslat.decisions.services import BatchService
from bayeslat.engine import Workload
from bayeslat.errors import InputError

LONG = 1_000_000


def constant_service(*rows):
    """Constant services: a row for each draw, one time for each batch size."""
    times = np.array(rows, dtype=float)
    return BatchService(times[:, :, None], times, times**2, 20.0 * np.median(times, axis=0), 0.0)


def random_service(samples):
    """Services that are picked from samples, shape (draw, batch, replicate)."""
    mean, square = samples.mean(axis=2), np.square(samples).mean(axis=2)
    return BatchService(samples, mean, square, 20.0 * np.median(samples, axis=(0, 2)), 0.0)


def simulated_times(service, policy, rate, *, n=LONG, seed=0, draw=0):
    """Times to the answer as the comparison sees them, of an independent stream, and events."""
    rng = np.random.default_rng([seed, 99])
    arrivals = queueing.poisson_arrivals(rate / 1e3, n, rng)
    events = queueing.simulate_bulk(
        arrivals,
        service.samples[draw, : policy.max_batch],
        min_batch=policy.min_batch,
        max_wait=policy.max_wait_ms,
        timer="oldest",
        rng=rng,
        cut=np.inf if policy.fallback is None else policy.fallback.cut_ms,
        fallback_services=None
        if policy.fallback is None
        else rng.exponential(policy.fallback.service_ms, n),
    )
    return (events.finish - arrivals)[n // 10 :], events


def assert_quantile(found, sf, q, times):
    """`found` is a quantile: P(time > found) = 1 - q within the Monte Carlo error of `times`."""
    error = queueing.batch_means_error(times > found)
    assert 0.0 < error < 0.15 * (1.0 - q), "simulate longer"
    assert abs(sf - (1.0 - q)) < 4.0 * error


def assert_same_quantile(found, q, times):
    """`found` is a quantile of other simulated times within the Monte Carlo error of both."""
    error = math.sqrt(2.0) * queueing.batch_means_error(times > found)
    assert 0.0 < error < 0.2 * (1.0 - q), "simulate longer"
    assert abs((times > found).mean() - (1.0 - q)) < 4.0 * error


def md1_wait_sf(t, rate, service):
    """P(W > t) of M/D/1 (Erlang, 1909)."""
    u = rate * (t - service * np.arange(int(t / service) + 1))
    terms = [(-x) ** k / math.factorial(k) * math.exp(x) for k, x in enumerate(u)]
    return 1.0 - (1.0 - rate * service) * math.fsum(terms)


# Against closed forms


@pytest.mark.parametrize("load", [60.0, 85.0])
def test_one_at_a_time_with_constant_services_is_md1(load):
    service, policy = constant_service([10.0]), Policy("one at a time")
    found = compare_policies(service, [policy], arrivals_per_s=[load], n_requests=LONG)
    times, _ = simulated_times(service, policy, load)
    for name, q in (("p50", 0.5), ("p99", 0.99)):
        own = found.percentile(0, 0, name).value
        assert_quantile(own, md1_wait_sf(own - 10.0, load / 1e3, 10.0), q, times)
    assert found.mean_batch[0, 0, 0] == 1.0 and found.overflow[0, 0, 0] == 0.0
    assert np.isnan(found.fallback_bound_holds).all()


def test_one_at_a_time_with_exponential_services_is_mm1():
    """Sojourns of M/M/1 are exponential; services are its quantiles, so that nothing is cut."""
    levels = (np.arange(20_000) + 0.5) / 20_000
    service = random_service((-10.0 * np.log1p(-levels))[None, None])
    policy = Policy("one at a time")
    found = compare_policies(service, [policy], arrivals_per_s=[60.0], n_requests=LONG)
    times, _ = simulated_times(service, policy, 60.0)
    for name, q in (("p50", 0.5), ("p99", 0.99)):
        own = found.percentile(0, 0, name).value
        assert_quantile(own, queueing.mmc_sojourn_tail(own, 0.06, 0.1), q, times)


@pytest.mark.parametrize(("least", "longest"), [(1, np.inf), (4, np.inf)])
def test_batches_have_the_sizes_of_the_bulk_queue(least, longest):
    table = queueing.affine_service(10.0, 2.0, 8)
    policy = Policy("batches", 8, least, longest)
    rate = 250.0
    exact = queueing.bulk_queue(rate / 1e3, table, min_batch=least, max_wait=longest)
    found = compare_policies(
        constant_service(table), [policy], arrivals_per_s=[rate], n_requests=LONG
    )
    sizes = np.arange(1, 9)
    # A request is in a batch of b with a probability in proportion to b P(b).
    of_requests = (sizes**2 * exact.batch_sizes).sum() / (sizes * exact.batch_sizes).sum()
    times, events = simulated_times(constant_service(table), policy, rate)
    error = queueing.batch_means_error(events.batch_size)
    assert abs(found.mean_batch[0, 0, 0] - of_requests) < 4.0 * error < 0.05
    # Percentiles are those of other arrivals within the errors of both; the mean of these is exact.
    assert abs(times.mean() - exact.mean_sojourn) < 4.0 * queueing.batch_means_error(times)
    for name, q in (("p50", 0.5), ("p99", 0.99)):
        assert_same_quantile(found.percentile(0, 0, name).value, q, times)


def test_a_dynamic_batch_waits_no_longer_than_its_timer():
    """At a low load batches start when the oldest request has waited for the timer."""
    table = queueing.affine_service(2.0, 0.5, 8)
    policies = standard_policies(8, max_wait_ms=20.0)
    found = compare_policies(
        constant_service(table), policies, arrivals_per_s=[1.0], n_requests=LONG
    )
    alone, fixed, dynamic = (found.percentile(p, 0, "p50").value for p in range(3))
    assert alone == pytest.approx(2.5)
    assert dynamic == pytest.approx(22.5)
    assert fixed > 1_000.0  # seven more requests at one a second


def test_the_timer_counts_from_the_arrival_of_the_oldest():
    """Two come together and a third 1 ms later, which waits 15 ms, 9 of them while it is busy."""
    arrivals = np.add.outer(100.0 * np.arange(100), [0.0, 0.0, 1.0]).ravel()
    load = 1e3 * 299 / arrivals[-1]
    found = compare_policies(
        constant_service([10.0, 10.0]),
        [Policy("pairs", 2, 2, max_wait_ms=15.0)],
        arrivals_per_s=[load],
        arrivals=Workload(arrivals, np.ones(300), np.ones(300)),
    )
    np.testing.assert_allclose(found.percentiles[0, 0, 0], [10.0, 25.0])


# Instability


def test_unstable_draws_are_infinite_and_counted():
    service = constant_service([8.0, 10.0], [9.0, 16.0], [10.0, 20.0], [12.0, 24.0])
    policies = [Policy("one at a time"), Policy("pairs", 2, 2)]
    loads = [50.0, 100.0, 150.0]
    found = compare_policies(service, policies, arrivals_per_s=loads, n_requests=2_000)
    # Capacities of 125, 111, 100, 83 requests/s one at a time, and of 200, 125, 100, 83 in pairs.
    alone = [[0, 0, 0, 0], [0, 0, 1, 1], [1, 1, 1, 1]]
    pairs = [[0, 0, 0, 0], [0, 0, 1, 1], [0, 1, 1, 1]]
    np.testing.assert_array_equal(found.unstable, np.array([alone, pairs], dtype=bool))
    np.testing.assert_array_equal(np.isinf(found.percentiles).all(axis=-1), found.unstable)
    np.testing.assert_array_equal(np.isinf(found.percentiles).any(axis=-1), found.unstable)
    table = found.table()
    expected = found.unstable.mean(axis=2).ravel()
    np.testing.assert_allclose(table["p_unstable"], expected)
    np.testing.assert_array_equal(np.isinf(table["p99_ms"]), expected > 0.5)
    np.testing.assert_array_equal(np.isinf(table["p99_ms_upper"]), expected > 0.0)
    np.testing.assert_array_equal(np.isinf(table["p99_ms_lower"]), expected == 1.0)


# The fallback


def test_a_fallback_takes_what_a_station_cannot():
    service = constant_service([10.0])
    policies = [
        Policy("soon", fallback=Fallback(cut_ms=30.0, service_ms=5.0)),
        Policy("late", fallback=Fallback(cut_ms=500.0, service_ms=5.0)),
        Policy("without"),
    ]
    loads = [80.0, 150.0]
    found = compare_policies(service, policies, arrivals_per_s=loads, n_requests=LONG)
    # Who waits for half a second always finds a busy station, which serves 100 a second of 150.
    error = math.sqrt(2.0 / 3.0 / LONG)
    assert abs(found.overflow[1, 1, 0] - 1.0 / 3.0) < 4.0 * error
    _, events = simulated_times(service, policies[0], 80.0)
    error = math.sqrt(2.0) * queueing.batch_means_error(events.overflowed)
    assert abs(found.overflow[0, 0, 0] - events.overflowed.mean()) < 4.0 * error < 0.01
    assert np.isfinite(found.percentiles[:2]).all() and not found.unstable[:2].any()
    np.testing.assert_array_equal(found.unstable[2, :, 0], [False, True])
    assert found.overflow[2].max() == 0.0


def test_percentiles_with_a_fallback_are_those_of_the_simulation():
    samples = np.random.default_rng(0).gamma(4.0, 3.0, (1, 1, 400))
    policy = Policy("with fallback", fallback=Fallback(40.0, 15.0))
    found = compare_policies(
        random_service(samples), [policy], arrivals_per_s=[75.0], n_requests=LONG, seed=5
    )
    times, _ = simulated_times(random_service(samples), policy, 75.0)
    for name, q in (("p50", 0.5), ("p99", 0.99)):
        assert_same_quantile(found.percentile(0, 0, name).value, q, times)


def test_all_requests_may_overflow():
    """A station that is never free again after its first request."""
    policy = Policy("hopeless", fallback=Fallback(1.0, 2.0))
    found = compare_policies(
        constant_service([1e9]), [policy], arrivals_per_s=[100.0], n_requests=LONG
    )
    assert found.overflow[0, 0, 0] == 1.0 and found.mean_batch[0, 0, 0] == 1.0
    assert not found.unstable.any()
    own = found.percentile(0, 0, "p50").value
    # The fallback is then an M/M/1 of its own: sojourns are exponential at 0.5 - 0.1 per ms.
    assert own == pytest.approx(1.0 + math.log(2.0) / 0.4, rel=0.03)
    assert found.fallback_bound_holds[0, 0, 0] == 1.0
    assert found.table()["bound_holds"].iloc[0] == 1.0


def test_the_bound_on_the_fallback_fails_where_overflow_comes_in_bursts():
    """A station that stalls: whole trains of requests overflow together."""
    rng = np.random.default_rng(1)
    stalls = np.where(rng.random(400) < 0.01, 2_000.0, 1.0)
    service = random_service(stalls[None, None])
    policy = Policy("stalls", fallback=Fallback(10.0, 10.0))
    found = compare_policies(service, [policy], arrivals_per_s=[100.0], n_requests=LONG)
    assert found.overflow[0, 0, 0] * 0.1 * 10.0 < 0.9  # the fallback is stable
    assert not found.unstable.any()
    assert found.fallback_bound_holds[0, 0, 0] == 0.0
    table = found.table()
    assert table["bound_holds"].iloc[0] == 0.0
    assert 0.0 < table["overflow"].iloc[0] < 1.0


def test_little_overflow_says_nothing_of_the_bound():
    policy = Policy("hardly any", fallback=Fallback(60.0, 5.0))
    found = compare_policies(
        constant_service([10.0], [10.0]), [policy], arrivals_per_s=[70.0], n_requests=5_000
    )
    assert np.isnan(found.fallback_bound_holds).all()
    assert np.isnan(found.table()["bound_holds"].iloc[0])


def test_a_fallback_that_is_overrun_is_unstable():
    policy = Policy("slow fallback", fallback=Fallback(10.0, 30.0))
    found = compare_policies(
        constant_service([10.0]), [policy], arrivals_per_s=[150.0], n_requests=20_000
    )
    assert found.unstable.all() and np.isinf(found.percentiles).all()
    assert np.isnan(found.fallback_bound_holds).all()


# Common numbers, arrivals


def test_policies_see_the_same_arrivals_and_the_same_noise():
    """A fallback that nobody needs changes nothing, and equal policies tie."""
    samples = np.random.default_rng(0).gamma(4.0, 2.0, (3, 2, 50))
    policies = [
        Policy("plain", 2),
        Policy("again", 2),
        Policy("with fallback", 2, fallback=Fallback(1e6, 1.0)),
    ]
    question = {"arrivals_per_s": [90.0], "n_requests": 5_000}
    found = compare_policies(random_service(samples), policies, **question)
    np.testing.assert_array_equal(found.percentiles[1], found.percentiles[0])
    np.testing.assert_array_equal(found.percentiles[2], found.percentiles[0])
    again = compare_policies(random_service(samples), policies[:1], **question)
    np.testing.assert_array_equal(again.percentiles[0], found.percentiles[0])
    other = compare_policies(random_service(samples), policies[:1], **question, seed=1)
    assert (other.percentiles[0] != found.percentiles[0]).all()


def test_recorded_arrivals_are_stretched_to_each_load():
    """A clock: with constant services of 10 ms nobody waits below 100 a second."""
    n = 1_000
    clock = Workload(7.0 + 50.0 * np.arange(n), np.ones(n), np.ones(n))
    found = compare_policies(
        constant_service([10.0]), [Policy("one")], arrivals_per_s=[20.0, 99.0], arrivals=clock
    )
    np.testing.assert_allclose(found.percentiles, 10.0)
    poisson = compare_policies(
        constant_service([10.0]), [Policy("one")], arrivals_per_s=[99.0], n_requests=n
    )
    assert poisson.percentile(0, 0, "p99").value > 50.0


def test_the_last_requests_of_a_batch_that_never_fills_do_not_count():
    """Four arrive together at a time, and two at the end, for batches of four."""
    arrivals = np.append(np.repeat(np.arange(50) * 100.0, 4), [1e4, 1e4])
    found = compare_policies(
        constant_service([1.0, 2.0, 3.0, 4.0]),
        [Policy("fixed", 4, 4)],
        arrivals_per_s=[1e3 * 201 / 1e4],
        arrivals=Workload(arrivals, np.ones(202), np.ones(202)),
    )
    np.testing.assert_allclose(found.percentiles, 4.0)
    assert found.mean_batch[0, 0, 0] == 4.0


# What a comparison answers


def compared(p99_ms, unstable):
    """Policies and loads with these p99s, shape (policy, load, draw), and these unstable draws."""
    p99_ms = np.array(p99_ms, dtype=float)
    policies = [Policy(f"policy {i}") for i in range(p99_ms.shape[0])]
    service = constant_service(*[[1.0]] * p99_ms.shape[2])
    rates = 10.0 * (1 + np.arange(p99_ms.shape[1]))
    found = compare_policies(service, policies, arrivals_per_s=list(rates), n_requests=100)
    percentiles = np.stack([p99_ms / 2.0, p99_ms], axis=-1)
    assert percentiles.shape == found.percentiles.shape
    return replace(found, percentiles=percentiles, unstable=np.array(unstable, dtype=bool))


def test_a_load_is_sustained_up_to_the_first_that_is_not():
    never, at_last, at_once = [[0, 0]] * 3, [[0, 0], [0, 0], [1, 0]], [[1, 1]] * 3
    back = [[0, 0], [1, 1], [0, 0]]
    found = compared(np.ones((4, 3, 2)), [never, at_last, at_once, back])
    assert found.sustained() == {
        "policy 0": 30.0,
        "policy 1": 20.0,
        "policy 2": None,
        "policy 3": 10.0,
    }
    assert found.sustained(unstable=0.5)["policy 1"] == 30.0


def test_loads_that_keep_a_limit_likely_and_surely():
    quick, mixed, slow = [1.0, 1.0, 1.0], [1.0, 2.0, 9.0], [9.0, 9.0, np.inf]
    found = compared([[quick, mixed, slow], [mixed, slow, slow]], np.zeros((2, 3, 3)))
    assert found.keeping(5.0) == {
        "policy 0": {"likely": [10.0, 20.0], "surely": [10.0]},
        "policy 1": {"likely": [10.0], "surely": []},
    }


# Tables and wrong questions


def test_standard_policies():
    policies = standard_policies(16, max_wait_ms=50.0, fallback=Fallback(100.0, 20.0))
    limits = [(p.max_batch, p.min_batch, p.max_wait_ms) for p in policies]
    assert limits == [(1, 1, np.inf), (16, 16, np.inf), (16, 16, 50.0), (16, 16, 50.0)]
    assert [p.fallback is not None for p in policies] == [False, False, False, True]
    assert len({p.name for p in policies}) == 4
    assert len(standard_policies(16, max_wait_ms=50.0)) == 3


def test_the_table_has_a_row_for_each_policy_and_load():
    service = constant_service([5.0, 6.0], [6.0, 7.0], [7.0, 8.0])
    policies = standard_policies(2, max_wait_ms=5.0)
    found = compare_policies(service, policies, arrivals_per_s=[10.0, 60.0], n_requests=3_000)
    table = found.table(credible=0.5)
    percentiles = [
        f"{name}_ms{side}" for name in ("p50", "p99") for side in ("", "_lower", "_upper")
    ]
    assert list(table.columns) == [
        "policy", "arrivals_per_s", *percentiles, "p_unstable", "mean_batch", "overflow",
        "bound_holds",
    ]  # fmt: skip
    assert list(table["policy"]) == [p.name for p in policies for _ in range(2)]
    assert list(table["arrivals_per_s"]) == [10.0, 60.0] * 3
    row = table.iloc[1]
    own = found.percentiles[0, 1, :, 1]
    assert (row["p99_ms_lower"], row["p99_ms"], row["p99_ms_upper"]) == tuple(np.sort(own))
    assert found.percentile(0, 1, "p99", credible=0.5).value == row["p99_ms"]
    assert row["mean_batch"] == 1.0
    assert (table["p50_ms"] <= table["p99_ms"]).all()


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"policies": []}, "no policies"),
        ({"policies": [Policy("large", 3)]}, "max_batch"),
        ({"arrivals_per_s": []}, "loads"),
        ({"arrivals_per_s": [1.0, -1.0]}, "loads"),
        ({"arrivals_per_s": [np.nan]}, "loads"),
        ({"n_requests": 3}, "at least 4"),
        ({"n_requests": 0}, "n=0"),
    ],
)
def test_wrong_questions_are_refused_in_one_line(change, match):
    question = {"policies": [Policy("pairs", 2)], "arrivals_per_s": [1.0], **change}
    policies = question.pop("policies")
    with pytest.raises(InputError, match=match) as fault:
        compare_policies(constant_service([1.0, 2.0]), policies, **question)
    assert "\n" not in str(fault.value)


def test_a_few_requests_are_enough_for_an_answer():
    found = compare_policies(
        constant_service([1.0, 2.0]), [Policy("pairs", 2, 2)], arrivals_per_s=[1.0], n_requests=4
    )
    assert np.isfinite(found.percentiles).all()


@pytest.mark.parametrize(
    "make",
    [
        lambda: Policy("none", 0),
        lambda: Policy("half", 1.5),
        lambda: Policy("least", 2, 3),
        lambda: Policy("least", 2, 0),
        lambda: Policy("never", 2, 2, np.nan),
        lambda: Policy("before", 2, 2, -1.0),
        lambda: Fallback(-1.0, 1.0),
        lambda: Fallback(np.inf, 1.0),
        lambda: Fallback(1.0, 0.0),
    ],
)
def test_wrong_policies_are_refused(make):
    with pytest.raises(InputError, match="expected"):
        make()


def test_wrong_percentiles_are_refused():
    found = compare_policies(
        constant_service([1.0]), [Policy("one")], arrivals_per_s=[1.0], n_requests=10
    )
    with pytest.raises(InputError, match="p50, p99"):
        found.percentile(0, 0, "p95")
    with pytest.raises(InputError, match="credible"):
        found.percentile(0, 0, "p99", credible=1.0)
