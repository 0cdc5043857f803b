"""M/G/1 with classes of priority: mean times of each class, exact.

Classes lie along the last axis, the first one first; within a class first come first served.
Arrivals of each class are Poisson and independent.

An overloaded class does not take the classes above it with it. Where the load of the classes up to
k reaches one, class k and those below wait infinitely, element by element; the classes above k
have finite means, in which class k takes what the others leave of the server and those below k
take nothing.
"""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bayeslat.queueing.arguments import check_moments, plain, positive

__all__ = ["nonpreemptive_mean_waits", "preemptive_mean_sojourns"]

type Array = NDArray[np.float64]


def _classes(
    arrival_rates: ArrayLike, mean_services: ArrayLike, second_moments: ArrayLike
) -> tuple[Array, Array, Array]:
    """Broadcast arrays whose last axis is the class."""
    arrival = np.atleast_1d(positive("arrival_rates", arrival_rates))
    mean = np.atleast_1d(positive("mean_services", mean_services))
    second = np.atleast_1d(positive("second_moments", second_moments, infinite=True))
    check_moments(mean, second)
    arrival, mean, second = np.broadcast_arrays(arrival, mean, second)
    return arrival, mean, second


def _loads(arrival: Array, mean: Array) -> tuple[Array, Array]:
    """Load of the classes above each class, and of these with the class itself."""
    upto = np.cumsum(arrival * mean, axis=-1)
    above = np.concatenate([np.zeros_like(upto[..., :1]), upto[..., :-1]], axis=-1)
    return above, upto


def _residual(served: Array, second: Array) -> Array:
    """Half of rate times E[S^2], zero for classes that are never served."""
    return np.where(served > 0.0, 0.5 * served * np.where(served > 0.0, second, 0.0), 0.0)


def _over_slacks(value: Array, above: Array, upto: Array) -> Array:
    """The value over both slacks where they are positive, infinity elsewhere."""
    stable = upto < 1.0
    slack = np.where(stable, (1.0 - above) * (1.0 - upto), 1.0)
    return np.where(stable, value / slack, np.inf)


def nonpreemptive_mean_waits(
    arrival_rates: ArrayLike, mean_services: ArrayLike, second_moments: ArrayLike
) -> Any:
    """E[W] of each class where a service that has begun is finished (Cobham, 1954).

    Parameters
    ----------
    arrival_rates : array, shape (..., class)
        Requests in a unit of time, the class of highest priority first.
    mean_services, second_moments : array, shape (..., class)
        E[S] and E[S^2] of each class; all broadcast.

    Returns
    -------
    array, shape (..., class)
        Mean time from arrival to the start of service; infinite for the classes that the server
        cannot keep up with.

    Raises
    ------
    InputError
        If an argument is not positive, or E[S^2] < E[S]^2.
    """
    arrival, mean, second = _classes(arrival_rates, mean_services, second_moments)
    above, upto = _loads(arrival, mean)
    served = np.minimum(arrival, np.maximum(1.0 - above, 0.0) / mean)
    found_in_service = _residual(served, second).sum(axis=-1, keepdims=True)
    return plain(_over_slacks(found_in_service, above, upto))


def preemptive_mean_sojourns(
    arrival_rates: ArrayLike, mean_services: ArrayLike, second_moments: ArrayLike
) -> Any:
    """E[W + S] of each class where a higher class interrupts at once and work is resumed.

    Classes below do not matter to those above. White and Christie (1958).

    Parameters
    ----------
    arrival_rates, mean_services, second_moments : array, shape (..., class)
        As in `nonpreemptive_mean_waits`.

    Returns
    -------
    array, shape (..., class)
        Mean time from arrival to the end of service, interruptions included; infinite for the
        classes that the server cannot keep up with.

    Raises
    ------
    InputError
        As in `nonpreemptive_mean_waits`.
    """
    arrival, mean, second = _classes(arrival_rates, mean_services, second_moments)
    above, upto = _loads(arrival, mean)
    backlog = np.cumsum(0.5 * arrival * second, axis=-1)
    stretched = mean / np.where(above < 1.0, 1.0 - above, 1.0)
    return plain(stretched + _over_slacks(backlog, above, upto))
