"""Service times of batches, and how fast the tail of a bulk-service queue falls under them."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, special

from bayeslat.errors import InputError
from bayeslat.queueing.arguments import nonnegative, positive, refuse_where, whole

__all__ = [
    "Service",
    "affine_service",
    "bulk_queue_decay",
    "bulk_wait_decay",
    "decay_of",
    "read_service",
]

type Array = NDArray[np.float64]

NEAREST = 1e-9
"""A decay z - 1 below this cannot be told from saturation."""


class Service(NamedTuple):
    """Service times of each batch size: atoms and their weights, shape (batch, atom)."""

    times: Array
    weights: Array

    @property
    def mean(self) -> Array:
        """E[S] of each batch size."""
        return (self.weights * self.times).sum(axis=1)

    @property
    def second_moment(self) -> Array:
        """E[S^2] of each batch size."""
        return (self.weights * self.times**2).sum(axis=1)


def affine_service(launch: ArrayLike, per_item: ArrayLike, max_batch: int) -> Any:
    """Service times launch + per_item * b of batches of b = 1, ..., max_batch.

    Parameters
    ----------
    launch, per_item : array, shape (...)
        Times, not negative; broadcast against each other.
    max_batch : int
        Largest batch.

    Returns
    -------
    array, shape (max_batch, ...)

    Raises
    ------
    InputError
        If a time is negative or `max_batch` is not a whole number from one on.
    """
    start, each = np.broadcast_arrays(
        nonnegative("launch", launch), nonnegative("per_item", per_item)
    )
    sizes = np.arange(1.0, int(whole("max_batch", max_batch)) + 1.0)
    return start + each * sizes.reshape(-1, *[1] * start.ndim)


def bulk_queue_decay(
    arrival_rate: float, service_times: ArrayLike, *, weights: ArrayLike | None = None
) -> float:
    """The z > 1 with P(queue >= n) ~ constant * z^-n, for any `min_batch` and `max_wait`.

    The root of z^b = E[exp(lambda (z - 1) S(b))] with b = max_batch: far up in the queue every
    batch is full. A cap on the batch is what makes the tail exponential in this way.

    Parameters
    ----------
    arrival_rate, service_times, weights
        As in `bulk_queue`; only the service of a full batch matters.

    Returns
    -------
    float
        One, no decay, where the queue is unstable.

    Raises
    ------
    InputError
        If an argument is out of its range.
    """
    rate, service = read_service(arrival_rate, service_times, weights)
    return decay_of(rate, service)


def bulk_wait_decay(
    arrival_rate: float, service_times: ArrayLike, *, weights: ArrayLike | None = None
) -> float:
    """The rate theta with P(W > t) ~ constant * exp(-theta t): lambda (z - 1).

    z is that of `bulk_queue_decay`: what waits behind a request when its batch starts are the
    arrivals during its wait. Parameters and errors as there; zero where the queue is unstable.
    """
    return float(arrival_rate) * (
        bulk_queue_decay(arrival_rate, service_times, weights=weights) - 1.0
    )


def read_service(
    arrival_rate: float, service_times: ArrayLike, weights: ArrayLike | None
) -> tuple[float, Service]:
    """The arrival rate and the service of a caller, checked; weights are scaled to sum to one."""
    rate = float(positive("arrival_rate", arrival_rate))
    times = positive("service_times", service_times)
    if times.ndim not in (1, 2) or times.size == 0:
        raise InputError(
            f"got service_times of shape {times.shape}, expected (max_batch,) or (max_batch, atom);"
            " give one row for each batch size"
        )
    table = times.reshape(len(times), -1)
    mass = nonnegative("weights", 1.0 if weights is None else weights)
    try:
        mass = np.broadcast_to(mass, table.shape)
    except ValueError:
        raise InputError(
            f"got weights of shape {mass.shape}, expected ({table.shape[1]},) or {table.shape};"
            " give one weight for each atom"
        ) from None
    total = mass.sum(axis=1, keepdims=True)
    refuse_where(~(total > 0.0), "sum of weights", total, "a positive number", "give probabilities")
    return rate, Service(table, mass / total)


def decay_of(rate: float, service: Service) -> float:
    """The root z of `bulk_queue_decay`."""
    times, weights, batch = service.times[-1], service.weights[-1], len(service.times)
    if rate * service.mean[-1] >= batch:
        return 1.0

    def gap(x: float) -> float:
        """The logarithm of the equation at z = 1 + x, over x: rises through zero."""
        grown = special.logsumexp(rate * x * times, b=weights)
        return float(grown - batch * np.log1p(x)) / x

    high = NEAREST
    while gap(high) <= 0.0:
        high *= 2.0
    if high == NEAREST:
        return 1.0
    return 1.0 + float(optimize.brentq(gap, 0.5 * high, high, xtol=1e-15))
