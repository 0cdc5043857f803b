"""Bulk service: Poisson arrivals, one server that serves waiting requests in batches.

The policy has three numbers. A server that is free with q requests waiting

* starts at once with min(q, max_batch) of them if q >= min_batch;
* otherwise waits until `min_batch` are there or its timer runs out, and starts with what is there.

The timer runs for `max_wait` from the moment at which the server is free AND a request is waiting:
from the departure if some were left behind, else from the next arrival. It differs from a timer
that starts with the oldest request's arrival, as serving engines have it, in that time which a
request waited while the server was busy does not count: a request that was left behind can be
made to wait `max_wait` more. After an idle server the two are the same. Only this one makes the
number left at departures a Markov chain by itself; `simulate_bulk` has both. With ``min_batch=1``
there is no timer at all.

Means are those of the chain at departures and of the time between them (Neuts, "A general class of
bulk queues with Poisson input", Annals of Mathematical Statistics 38, 1967): exact up to the
truncation of the chain at a probability near 1e-13. One queue at a time: loop over draws.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from bayeslat.errors import InputError
from bayeslat.queueing.arguments import nonnegative, plain, whole
from bayeslat.queueing.bulk_chain import arrival_probabilities, stationary
from bayeslat.queueing.bulk_service import Service, decay_of, read_service

__all__ = [
    "BulkQueue",
    "bulk_queue",
]

type Array = NDArray[np.float64]

NEGLIGIBLE = 32.0
"""The chain is cut where its tail has fallen by e^-32."""

MAX_CELLS = 100_000_000
"""States times width of a row that the chain may take, 800 MB."""


class BulkQueue(NamedTuple):
    """The steady state of a bulk-service queue.

    Where it is unstable the queue and the times are infinite, the server never rests, every batch
    is full, and `left_behind` is empty.
    """

    stable: bool
    """Whether arrival_rate * E[S(max_batch)] < max_batch."""

    utilisation: float
    """Share of time in which the server serves."""

    mean_batch: float
    """Mean number of requests of a batch."""

    mean_queue: float
    """Mean number of waiting requests, those in service not among them, over time."""

    mean_wait: float
    """Mean time from a request's arrival to the start of its batch, by Little's law."""

    mean_sojourn: float
    """Mean time from a request's arrival to the end of its batch."""

    batch_sizes: Array
    """Probability of a batch of 1, 2, ..., max_batch; shape (max_batch,)."""

    left_behind: Array
    """Probability that 0, 1, ... requests wait when a batch ends; shape (state,)."""


class Policy(NamedTuple):
    """When a batch starts, and with how many."""

    min_batch: int
    max_batch: int
    max_wait: float


def bulk_queue(
    arrival_rate: float,
    service_times: ArrayLike,
    *,
    weights: ArrayLike | None = None,
    min_batch: int = 1,
    max_wait: float = np.inf,
) -> BulkQueue:
    """The steady state of the queue under the policy of the module's text.

    Parameters
    ----------
    arrival_rate : float
        Requests in a unit of time.
    service_times : array, shape (max_batch,) or (max_batch, atom)
        Service time of a batch of 1, 2, ..., max_batch: a constant each, as `affine_service` gives
        it, or values that it takes, such as draws of a predictive distribution.
    weights : array, shape (atom,) or (max_batch, atom), optional
        Probabilities of the atoms, equal if not given.
    min_batch : int
        Requests that a free server waits for.
    max_wait : float
        The longest that a free server lets requests wait for others; may be infinite.

    Raises
    ------
    InputError
        If an argument is out of its range, or the queue is so close to saturation that its chain
        does not fit in memory.
    """
    rate, service = read_service(arrival_rate, service_times, weights)
    policy = _check_policy(min_batch, len(service.times), max_wait)
    if rate * service.mean[-1] >= policy.max_batch:
        full = np.eye(policy.max_batch)[-1]
        inf = np.inf
        return BulkQueue(False, 1.0, float(policy.max_batch), inf, inf, inf, full, np.empty(0))
    n_counts, n_states = _extent(rate, service)
    arrivals = arrival_probabilities(rate * service.times, service.weights, n_counts)
    sizes = _sizes_at_start(rate, policy)
    left = stationary(sizes @ arrivals, arrivals[-1], n_states)
    return _steady_state(rate, service, policy, sizes, left)


def _check_policy(min_batch: int, max_batch: int, max_wait: float) -> Policy:
    least = int(whole("min_batch", min_batch))
    if least > max_batch:
        raise InputError(
            f"got min_batch={least} with service times of batches up to {max_batch}, expected no"
            " more than these; give the service of larger batches or wait for fewer requests"
        )
    return Policy(least, max_batch, float(nonnegative("max_wait", max_wait, infinite=True)))


def _extent(rate: float, service: Service) -> tuple[int, int]:
    """How many arrivals in a service are told apart, and how many states are kept."""
    most = rate * service.times[service.weights > 0.0].max()
    n_counts = int(most + 10.0 * np.sqrt(most)) + 40
    batch = len(service.times)
    fall = max(np.log(decay_of(rate, service)), np.finfo(float).eps)
    n_states = 2 * batch + n_counts + int(NEGLIGIBLE / fall)
    if n_states * (n_counts + batch) > MAX_CELLS:
        utilisation = rate * service.mean[-1] / batch
        raise InputError(
            f"got a queue with rho={utilisation:.6g} and {most:.3g} arrivals in the longest"
            f" service, expected a chain of at most {MAX_CELLS:,} cells; lower the arrival rate or"
            " the longest service, or simulate"
        )
    return n_counts, n_states


def _more_than(rate: float, policy: Policy) -> Array:
    """P(more than j arrivals in max_wait) for j = 0, ..., min_batch - 1."""
    counts = np.arange(policy.min_batch)
    if np.isinf(policy.max_wait):
        return np.ones(policy.min_batch)
    return special.pdtrc(counts, rate * policy.max_wait)


def _sizes_at_start(rate: float, policy: Policy) -> Array:
    """Probability of each batch size, given what was left behind; shape (left < b, size)."""
    out = np.eye(policy.max_batch)[np.maximum(np.arange(policy.max_batch), 1) - 1]
    more = _more_than(rate, policy)
    exactly = -np.diff(more, prepend=1.0)
    for left in range(policy.min_batch):
        first = max(left, 1)
        missing = policy.min_batch - first
        out[left] = 0.0
        out[left, first - 1 : policy.min_batch - 1] = exactly[:missing]
        out[left, policy.min_batch - 1] = more[missing - 1] if missing else 1.0
    return out


def _forming(rate: float, policy: Policy) -> tuple[Array, Array]:
    """Mean time until the start, and mean area under the queue meanwhile, by what was left."""
    more = _more_than(rate, policy) / rate
    duration, area = np.zeros(policy.min_batch), np.zeros(policy.min_batch)
    for left in range(policy.min_batch):
        first = max(left, 1)
        spent = more[: policy.min_batch - first]
        duration[left] = spent.sum() + (1.0 / rate if left == 0 else 0.0)
        area[left] = (spent * (first + np.arange(spent.size))).sum()
    return duration, area


def _steady_state(
    rate: float, service: Service, policy: Policy, sizes: Array, left: Array
) -> BulkQueue:
    """Averages over a cycle, the time from one departure to the next."""
    batch = policy.max_batch
    batch_sizes = left[:batch] @ sizes
    batch_sizes[-1] += left[batch:].sum()
    duration, area = _forming(rate, policy)
    busy = batch_sizes @ service.mean
    cycle = left[: policy.min_batch] @ duration + busy
    over = left[batch:] @ np.arange(left.size - batch)
    queued = left[: policy.min_batch] @ area + over * service.mean[-1]
    queue = (queued + 0.5 * rate * batch_sizes @ service.second_moment) / cycle
    mean_batch = batch_sizes @ np.arange(1.0, batch + 1.0)
    in_service = (batch_sizes * np.arange(1.0, batch + 1.0)) @ service.mean / mean_batch
    return BulkQueue(
        True,
        plain(busy / cycle),
        plain(mean_batch),
        plain(queue),
        plain(queue / rate),
        plain(queue / rate + in_service),
        batch_sizes,
        left,
    )
