import numpy as np
import pytest
from scipy import optimize

from bayeslat.errors import InputError
from bayeslat.queueing import (
    affine_service,
    batch_means_error,
    bulk_queue,
    bulk_queue_decay,
    bulk_wait_decay,
    mg1_mean_wait,
    poisson_arrivals,
    simulate_bulk,
)

POINTS, POINT_WEIGHTS = np.polynomial.legendre.leggauss(10)
NODES = (0.5 * (POINTS + 1.0) + np.arange(40)[:, None]).ravel()
NODE_WEIGHTS = np.tile(POINT_WEIGHTS, 40) * np.exp(-NODES)
"""Atoms and weights with which an exponential service of mean one is integrated up to 40."""

AFFINE = affine_service(0.2, 0.01, 8)


def general_bulk_exponential(arrival, service, batch):
    """Closed form of M/M[1,b]/1: a geometric queue while the server is busy (Bailey, 1954)."""
    root = optimize.brentq(
        lambda r: service * r ** (batch + 1) - (arrival + service) * r + arrival, 1e-12, 1 - 1e-9
    )
    empty = 1.0 / (service / arrival + 1.0 / (1.0 - root))
    return root, empty / (1.0 - root), empty * root / (1.0 - root) ** 2


# Closed forms


@pytest.mark.parametrize("rho", [0.05, 0.6, 0.95])
def test_batches_of_one_are_m_g_1(rho):
    atoms, weights = np.array([[0.2, 1.0, 2.0]]), np.array([0.5, 0.3, 0.2])
    mean, second = atoms[0] @ weights, atoms[0] ** 2 @ weights
    queue = bulk_queue(rho / mean, atoms, weights=weights)
    assert queue.mean_wait == pytest.approx(mg1_mean_wait(rho / mean, mean, second), rel=1e-9)
    assert queue.mean_sojourn == pytest.approx(queue.mean_wait + mean)
    assert queue.utilisation == pytest.approx(rho)
    assert queue.mean_batch == pytest.approx(1.0)
    # In M/G/1 departures leave behind what arrivals find: an empty system has probability 1 - rho.
    assert queue.left_behind[0] == pytest.approx(1.0 - rho)


@pytest.mark.parametrize(("arrival", "batch"), [(0.5, 1), (3.0, 4), (3.6, 4), (15.0, 16)])
def test_exponential_batches_have_their_closed_form(arrival, batch):
    root, busy, waiting = general_bulk_exponential(arrival, 1.0, batch)
    question = arrival, np.tile(NODES, (batch, 1))
    queue = bulk_queue(*question, weights=NODE_WEIGHTS)
    assert queue.utilisation == pytest.approx(busy, rel=1e-8)
    assert queue.mean_queue == pytest.approx(waiting, rel=1e-8)
    assert queue.mean_wait == pytest.approx(waiting / arrival, rel=1e-8)
    assert bulk_queue_decay(*question, weights=NODE_WEIGHTS) == pytest.approx(1.0 / root, rel=1e-6)


@pytest.mark.parametrize("arrival", [0.1, 3.0, 30.0])
def test_waiting_for_full_batches_of_two_of_a_light_load(arrival):
    # Service that takes no time leaves the forming of pairs: every second request waits one gap.
    queue = bulk_queue(arrival, np.full(2, 1e-9), min_batch=2)
    assert queue.mean_wait == pytest.approx(0.5 / arrival, rel=1e-6)
    assert queue.mean_queue == pytest.approx(0.5, rel=1e-6)
    np.testing.assert_allclose(queue.batch_sizes, [0.0, 1.0])


def test_a_timer_of_a_light_load():
    # The first request starts the timer; it is joined with the probability of an arrival in time.
    arrival, patience = 0.7, 1.5
    queue = bulk_queue(arrival, np.full(2, 1e-9), min_batch=2, max_wait=patience)
    joined = 1.0 - np.exp(-arrival * patience)
    np.testing.assert_allclose(queue.batch_sizes, [1.0 - joined, joined], rtol=1e-6)
    assert queue.mean_wait == pytest.approx(joined / arrival / (1.0 + joined), rel=1e-6)


def test_decay_solves_its_equation():
    arrival = 20.0
    z = bulk_queue_decay(arrival, AFFINE)
    assert z > 1.0
    assert z**8 == pytest.approx(np.exp(arrival * (z - 1.0) * AFFINE[-1]))
    assert bulk_wait_decay(arrival, AFFINE) == pytest.approx(arrival * (z - 1.0))


# What must hold for every queue


@pytest.mark.parametrize("min_batch", [1, 3, 8])
@pytest.mark.parametrize("max_wait", [0.0, 0.1, np.inf])
@pytest.mark.parametrize("arrival", [1.0, 15.0, 26.0])
def test_what_comes_in_goes_out(arrival, min_batch, max_wait):
    queue = bulk_queue(arrival, AFFINE, min_batch=min_batch, max_wait=max_wait)
    assert queue.left_behind.sum() == pytest.approx(1.0)
    assert queue.batch_sizes.sum() == pytest.approx(1.0)
    # Batches in a unit of time, once from the requests and once from the time they take.
    batches = arrival / queue.mean_batch
    assert batches * (queue.batch_sizes @ AFFINE) == pytest.approx(queue.utilisation, rel=1e-9)
    assert queue.mean_queue == pytest.approx(arrival * queue.mean_wait)
    assert queue.left_behind[-1] < 1e-12


@pytest.mark.parametrize("arrival", [15.0, 26.0])
def test_the_tail_of_the_chain_falls_at_the_decay(arrival):
    left = bulk_queue(arrival, AFFINE, min_batch=4).left_behind
    ratios = left[1:-1] / left[2:]
    settled = slice(24, 40)
    decay = bulk_queue_decay(arrival, AFFINE)
    np.testing.assert_allclose(ratios[settled], decay, rtol=1e-3)


def test_a_timer_of_no_time_and_a_batch_of_one_are_the_same():
    waited = bulk_queue(15.0, AFFINE, min_batch=8, max_wait=0.0)
    at_once = bulk_queue(15.0, AFFINE)
    assert waited.mean_wait == pytest.approx(at_once.mean_wait)
    np.testing.assert_allclose(waited.batch_sizes, at_once.batch_sizes, atol=1e-12)


def test_a_long_timer_becomes_an_infinite_one():
    patient = bulk_queue(5.0, AFFINE, min_batch=8, max_wait=100.0)
    for_ever = bulk_queue(5.0, AFFINE, min_batch=8)
    assert patient.mean_wait == pytest.approx(for_ever.mean_wait)
    assert for_ever.batch_sizes[-1] == pytest.approx(1.0)


def test_many_atoms_of_the_same_time_are_one():
    spread = bulk_queue(20.0, np.tile(AFFINE[:, None], (1, 5)), weights=[1.0, 2.0, 3.0, 0.0, 4.0])
    assert spread.mean_wait == pytest.approx(bulk_queue(20.0, AFFINE).mean_wait)


def test_a_large_batch_near_saturation():
    service = affine_service(2.0, 0.02, 64)
    arrival = 0.995 * 64.0 / service[-1]
    queue = bulk_queue(arrival, service)
    assert queue.utilisation == pytest.approx(1.0, abs=1e-6)
    assert 60.0 < queue.mean_batch < 64.0
    assert queue.left_behind[-1] < 1e-10


# Simulation


@pytest.mark.parametrize(
    ("arrival", "min_batch", "max_wait"),
    [(20.0, 1, np.inf), (20.0, 4, np.inf), (8.0, 4, 0.05), (15.0, 8, 0.1), (26.0, 8, 0.3)],
)
def test_means_are_those_of_a_simulation(arrival, min_batch, max_wait, assert_mean):
    policy = {"min_batch": min_batch, "max_wait": max_wait}
    queue = bulk_queue(arrival, AFFINE, **policy)
    arrivals = poisson_arrivals(arrival, 1_000_000, np.random.default_rng(8))
    events = simulate_bulk(arrivals, AFFINE, **policy)
    served = np.isfinite(events.start)
    assert served.sum() > served.size - min_batch
    assert_mean(events.wait[served], queue.mean_wait)
    assert_mean((events.finish - arrivals)[served], queue.mean_sojourn)
    # A request sees its own batch, so that batches are counted by one over their size.
    assert_mean(1.0 / events.batch_size[served], 1.0 / queue.mean_batch)
    shares = np.arange(1, 9) * queue.batch_sizes / queue.mean_batch
    for size in 1 + np.flatnonzero(shares > 0.02):
        assert_mean(events.batch_size[served] == size, shares[size - 1], precision=0.05)


def test_random_service_times_are_those_of_a_simulation(assert_mean):
    rng = np.random.default_rng(9)
    table = AFFINE[:, None] * rng.lognormal(0.0, 0.5, 50)
    arrival = 0.8 * 8.0 / table[-1].mean()
    queue = bulk_queue(arrival, table, min_batch=2)
    arrivals = poisson_arrivals(arrival, 1_000_000, rng)
    events = simulate_bulk(arrivals, table, min_batch=2, rng=rng)
    served = np.isfinite(events.start)
    assert_mean(events.wait[served], queue.mean_wait)


def test_the_tail_of_simulated_waits_falls_at_the_decay():
    arrival, rng = 26.0, np.random.default_rng(10)
    wait = simulate_bulk(poisson_arrivals(arrival, 4_000_000, rng), AFFINE).wait
    early, late = wait > 0.4, wait > 0.8
    found = np.log(early.mean() / late.mean()) / 0.4
    error = np.hypot(*(batch_means_error(x) / x.mean() for x in (early, late))) / 0.4
    expected = bulk_wait_decay(arrival, AFFINE)
    assert error < 0.05 * expected
    assert abs(found - expected) < 4.0 * error


# Arguments


@pytest.mark.parametrize("arrival", [8.0 / AFFINE[-1], 100.0])
def test_an_unstable_queue_is_infinite_and_full(arrival):
    queue = bulk_queue(arrival, AFFINE)
    assert not queue.stable and queue.utilisation == 1.0 and queue.mean_batch == 8.0
    assert queue.mean_queue == queue.mean_wait == queue.mean_sojourn == np.inf
    np.testing.assert_array_equal(queue.batch_sizes, np.eye(8)[-1])
    assert bulk_queue_decay(arrival, AFFINE) == 1.0
    assert bulk_wait_decay(arrival, AFFINE) == 0.0


def test_affine_service_takes_draws():
    service = affine_service([1.0, 2.0], 0.5, 3)
    np.testing.assert_allclose(service, [[1.5, 2.5], [2.0, 3.0], [2.5, 3.5]])
    assert affine_service(1.0, 0.5, 3).shape == (3,)


@pytest.mark.parametrize(
    ("question", "match"),
    [
        (lambda: bulk_queue(0.0, AFFINE), "arrival_rate=0"),
        (lambda: bulk_queue(1.0, [1.0, -1.0]), "service_times=-1"),
        (lambda: bulk_queue(1.0, 1.0), "one row for each batch size"),
        (lambda: bulk_queue(1.0, AFFINE, min_batch=9), "min_batch=9"),
        (lambda: bulk_queue(1.0, AFFINE, min_batch=0), "min_batch=0"),
        (lambda: bulk_queue(1.0, AFFINE, max_wait=-1.0), "max_wait=-1"),
        (lambda: bulk_queue(1.0, AFFINE, weights=[1.0, 2.0]), "one weight for each atom"),
        (lambda: bulk_queue(1.0, AFFINE, weights=-1.0), "weights=-1"),
        (lambda: bulk_queue(1.0, AFFINE, weights=0.0), "sum of weights=0"),
        (lambda: bulk_queue((1.0 - 1e-8) * 8.0 / AFFINE[-1], AFFINE), "lower the arrival rate"),
        (lambda: affine_service(-1.0, 1.0, 4), "launch=-1"),
        (lambda: affine_service(1.0, 1.0, 0), "max_batch=0"),
    ],
)
def test_impossible_arguments_are_refused(question, match):
    with pytest.raises(InputError, match=match) as refusal:
        question()
    assert "\n" not in str(refusal.value)
