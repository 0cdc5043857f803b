import numpy as np
import pytest

from bayeslat.errors import InputError
from bayeslat.queueing import (
    affine_service,
    mg1_mean_wait,
    mmc_mean_wait,
    mmc_wait_probability,
    mmc_wait_tail,
    poisson_arrivals,
    simulate_bulk,
    simulate_servers,
)

AFFINE = affine_service(1.0, 0.1, 4)


def naive_servers(arrivals, services, servers, cut, slow):
    """Start, finish and overflow of each request, from the free time of every server."""
    free, fallback, out = [0.0] * servers, 0.0, []
    for arrival, service, slower in zip(arrivals, services, slow, strict=True):
        k = int(np.argmin(free))
        start = max(arrival, free[k])
        if start <= arrival + cut:
            free[k] = start + service
            out.append((start, free[k], False))
        else:
            start = max(arrival + cut, fallback)
            fallback = start + slower
            out.append((start, fallback, True))
    return (np.array(column) for column in zip(*out, strict=True))


def naive_bulk(arrivals, table, min_batch, max_wait, oldest, cut, tick=2.0**-10):
    """Start, size and overflow, by a clock that ticks; arrivals and times lie on its ticks."""
    n, max_batch = arrivals.size, len(table)
    start, sizes, overflowed = np.full(n, np.inf), np.zeros(n, int), np.zeros(n, bool)
    waiting, head, free, since = [], 0, 0.0, None
    for now in np.arange(0.0, arrivals[-1] + 50.0, tick):
        while head < n and arrivals[head] <= now:
            waiting.append(head)
            head += 1
        if now >= free:
            since = None if not waiting else now if since is None else since
            reference = None if not waiting else arrivals[waiting[0]] if oldest else since
            if waiting and (len(waiting) >= min_batch or now >= reference + max_wait):
                batch, waiting, since = waiting[:max_batch], waiting[max_batch:], None
                start[batch], sizes[batch] = now, len(batch)
                free = now + table[len(batch) - 1]
        gone = [i for i in waiting if now >= arrivals[i] + cut]
        overflowed[gone] = True
        waiting = [i for i in waiting if i not in gone]
        since = since if waiting else None
    return start, sizes, overflowed


# Several servers


@pytest.mark.parametrize(("servers", "cut"), [(1, np.inf), (1, 2.0), (3, 1.0), (7, 0.0)])
def test_servers_do_what_a_plain_loop_does(servers, cut):
    rng = np.random.default_rng(servers)
    arrivals = poisson_arrivals(servers * 1.1, 3_000, rng)
    services, slow = rng.exponential(1.0, 3_000), rng.exponential(2.0, 3_000)
    events = simulate_servers(arrivals, services, servers=servers, cut=cut, fallback_services=slow)
    start, finish, overflowed = naive_servers(arrivals, services, servers, cut, slow)
    np.testing.assert_allclose(events.start, start)
    np.testing.assert_allclose(events.finish, finish)
    np.testing.assert_array_equal(events.overflowed, overflowed)
    np.testing.assert_allclose(events.wait, start - arrivals)
    np.testing.assert_array_equal(events.batch_size, 1)
    assert overflowed.any() == np.isfinite(cut)
    assert np.all(events.wait[overflowed] >= cut) and np.all(events.wait[~overflowed] <= cut)


@pytest.mark.parametrize(("servers", "rho"), [(1, 0.5), (1, 0.8), (4, 0.8), (30, 0.9)])
def test_exponential_service_is_m_m_c(servers, rho, assert_mean):
    rng = np.random.default_rng(20)
    arrival, n = servers * rho, 1_000_000
    arrivals = poisson_arrivals(arrival, n, rng)
    wait = simulate_servers(arrivals, rng.exponential(1.0, n), servers=servers).wait
    assert_mean(wait, mmc_mean_wait(arrival, 1.0, servers=servers), precision=0.04)
    waits = mmc_wait_probability(arrival, 1.0, servers=servers)
    assert_mean(wait > 0.0, waits)
    t = 1.0 / servers
    assert_mean(wait > t, mmc_wait_tail(t, arrival, 1.0, servers=servers))


@pytest.mark.parametrize("rho", [0.3, 0.8])
def test_constant_service_is_m_d_1(rho, assert_mean):
    arrivals = poisson_arrivals(rho, 1_000_000, np.random.default_rng(21))
    wait = simulate_servers(arrivals, np.ones(arrivals.size)).wait
    assert_mean(wait, mg1_mean_wait(rho, 1.0, 1.0))
    # Arrivals find the server busy with the share of time in which it is.
    assert_mean(wait > 0.0, rho)
    with pytest.raises(AssertionError):
        assert_mean(wait, mmc_mean_wait(rho, 1.0))


def test_no_patience_at_all_is_the_loss_formula(assert_mean):
    rng = np.random.default_rng(22)
    n, load, servers = 400_000, 5.0, 6
    arrivals = poisson_arrivals(load, n, rng)
    services, slow = rng.exponential(1.0, n), np.zeros(n)
    events = simulate_servers(arrivals, services, servers=servers, cut=0.0, fallback_services=slow)
    terms = np.cumprod(np.r_[1.0, load / np.arange(1.0, servers + 1.0)])
    assert_mean(events.overflowed, terms[-1] / terms.sum())


# Batches


@pytest.mark.parametrize("timer", ["free", "oldest"])
@pytest.mark.parametrize("cut", [np.inf, 1.5, 0.25])
@pytest.mark.parametrize(("min_batch", "max_wait"), [(1, np.inf), (3, 0.5), (4, 2.0), (2, 0.0)])
def test_batches_do_what_a_ticking_clock_does(timer, cut, min_batch, max_wait):
    # Times are odd multiples of ticks where they could coincide with the times of others.
    rng = np.random.default_rng(23)
    ticks = np.cumsum(rng.integers(1, 900, size=120))
    arrivals, table = ticks * 2.0**-10, np.array([1024, 1127, 1230, 1333]) * 2.0**-10
    policy = {"min_batch": min_batch, "max_wait": max_wait, "timer": timer, "cut": cut}
    events = simulate_bulk(arrivals, table, fallback_services=np.ones(120), **policy)
    start, sizes, overflowed = naive_bulk(
        arrivals, table, min_batch, max_wait, timer == "oldest", cut
    )
    np.testing.assert_array_equal(events.overflowed, overflowed)
    served = ~overflowed
    np.testing.assert_allclose(events.start[served], start[served])
    np.testing.assert_array_equal(events.batch_size[served], sizes[served])


def test_batches_of_one_are_single_servers():
    rng = np.random.default_rng(24)
    arrivals = poisson_arrivals(0.8, 5_000, rng)
    slow = rng.exponential(3.0, 5_000)
    bulk = simulate_bulk(arrivals, [1.0], cut=2.0, fallback_services=slow)
    single = simulate_servers(arrivals, np.ones(5_000), cut=2.0, fallback_services=slow)
    for found, expected in zip(bulk, single, strict=True):
        np.testing.assert_array_equal(found, expected)


def test_the_two_timers_by_hand():
    # The batch of the first runs from 1 to 2.1; the second request arrives while it does.
    arrivals = np.array([0.0, 1.5, 9.0])
    policy = {"min_batch": 2, "max_wait": 1.0}
    free = simulate_bulk(arrivals, AFFINE, timer="free", **policy)
    oldest = simulate_bulk(arrivals, AFFINE, timer="oldest", **policy)
    np.testing.assert_allclose(free.start, [1.0, 3.1, 10.0])
    np.testing.assert_allclose(oldest.start, [1.0, 2.5, 10.0])
    np.testing.assert_allclose(oldest.finish, [2.1, 3.6, 11.1])


def test_requests_that_nobody_joins_wait_for_ever():
    events = simulate_bulk([0.0, 1.0, 2.0], AFFINE, min_batch=2)
    np.testing.assert_allclose(events.start, [1.0, 1.0, np.inf])
    np.testing.assert_array_equal(events.batch_size, [2, 2, 0])
    assert np.isinf(events.wait[-1]) and not events.overflowed.any()


def test_overflow_leaves_a_forming_batch():
    events = simulate_bulk(
        [0.0, 1.0, 1.2], AFFINE, min_batch=2, cut=0.5, fallback_services=[2.0, 2.0, 2.0]
    )
    np.testing.assert_array_equal(events.overflowed, [True, False, False])
    np.testing.assert_allclose(events.start, [0.5, 1.2, 1.2])
    np.testing.assert_allclose(events.finish, [2.5, 2.4, 2.4])


def test_atoms_are_picked_for_batches_and_reproducibly():
    table = np.array([[1.0, 3.0], [2.0, 4.0]])
    arrivals = poisson_arrivals(0.7, 20_000, np.random.default_rng(25))
    runs = [simulate_bulk(arrivals, table, rng=np.random.default_rng(s)) for s in (1, 1, 2)]
    np.testing.assert_array_equal(runs[0].finish, runs[1].finish)
    assert not np.array_equal(runs[0].finish, runs[2].finish)
    service = np.round(runs[0].finish - runs[0].start, 6)
    assert set(service[runs[0].batch_size == 1]) == {1.0, 3.0}
    assert set(service[runs[0].batch_size == 2]) == {2.0, 4.0}
    shares = (service == 1.0)[runs[0].batch_size == 1]
    assert abs(shares.mean() - 0.5) < 4.0 * 0.5 / np.sqrt(shares.size)


# Arguments


def test_arrivals_are_poisson():
    gaps = np.diff(poisson_arrivals(4.0, 100_000, np.random.default_rng(26)), prepend=0.0)
    assert abs(gaps.mean() - 0.25) < 4.0 * 0.25 / np.sqrt(gaps.size)
    assert gaps.std() == pytest.approx(0.25, rel=0.02)


@pytest.mark.parametrize(
    ("question", "match"),
    [
        (lambda: simulate_servers([1.0, 0.5], [1.0, 1.0]), "sort them"),
        (lambda: simulate_servers([], []), "n >= 1"),
        (lambda: simulate_servers([0.0, np.nan], [1.0, 1.0]), "finite times"),
        (lambda: simulate_servers([0.0, 1.0], [1.0]), "services of shape"),
        (lambda: simulate_servers([0.0], [-1.0]), "services=-1"),
        (lambda: simulate_servers([0.0], [1.0], servers=0), "servers=0"),
        (lambda: simulate_servers([0.0], [1.0], cut=1.0), "without fallback_services"),
        (lambda: simulate_servers([0.0], [1.0], cut=-1.0, fallback_services=[1.0]), "cut=-1"),
        (lambda: simulate_bulk([0.0], AFFINE, min_batch=5), "min_batch=5"),
        (lambda: simulate_bulk([0.0], np.ones((2, 2, 2))), "a row for each"),
        (lambda: simulate_bulk([0.0], np.ones((2, 2))), "no rng"),
        (lambda: simulate_bulk([0.0], [0.0]), "service_times=0"),
        (lambda: simulate_bulk([0.0], AFFINE, max_wait=np.nan), "max_wait=nan"),
        (lambda: simulate_bulk([0.0], AFFINE, timer="newest"), "timer='newest'"),
        (lambda: poisson_arrivals(0.0, 5, np.random.default_rng(0)), "rate=0"),
        (lambda: poisson_arrivals(1.0, 0, np.random.default_rng(0)), "n=0"),
    ],
)
def test_impossible_arguments_are_refused(question, match):
    with pytest.raises(InputError, match=match) as refusal:
        question()
    assert "\n" not in str(refusal.value)
