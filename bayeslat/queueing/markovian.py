"""M/M/1 and M/M/c: Poisson arrivals, exponential service, first come first served.

Every function takes ``servers=1``, so that M/M/1 is the default. All of it is exact. Where
``arrival_rate >= servers * service_rate`` there is no steady state: means and quantiles are
infinite there and tail probabilities one, element by element.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from bayeslat.queueing.arguments import bisect, nonnegative, plain, positive, probability, whole

__all__ = [
    "mmc_mean_sojourn",
    "mmc_mean_wait",
    "mmc_sojourn_quantile",
    "mmc_sojourn_tail",
    "mmc_utilisation",
    "mmc_wait_probability",
    "mmc_wait_quantile",
    "mmc_wait_tail",
]

type Array = NDArray[np.float64]


class Station(NamedTuple):
    """What all answers are made of; `slack` is the rate c mu - lambda at which a queue drains.

    Where the queue is unstable `slack` is one, a stand-in that no answer keeps.
    """

    arrival_rate: Array
    service_rate: Array
    servers: Array
    slack: Array
    stable: NDArray[np.bool_]


def _station(arrival_rate: ArrayLike, service_rate: ArrayLike, servers: ArrayLike) -> Station:
    arrival = positive("arrival_rate", arrival_rate)
    service = positive("service_rate", service_rate)
    count = whole("servers", servers)
    slack = count * service - arrival
    stable = slack > 0.0
    return Station(arrival, service, count, np.where(stable, slack, 1.0), stable)


def _wait_probability(station: Station) -> Array:
    """Erlang C, from Erlang B as a Poisson probability over its distribution function.

    Unlike the recursion in c it takes arrays of servers; the relative error is near 1e-16 c log c.
    """
    servers = station.servers
    load = np.where(station.stable, station.arrival_rate / station.service_rate, 0.5 * servers)
    log_mass = servers * np.log(load) - load - special.gammaln(servers + 1.0)
    blocked = np.exp(log_mass) / special.gammaincc(servers + 1.0, load)
    utilisation = load / servers
    waits = blocked / ((1.0 - utilisation) + utilisation * blocked)
    return np.where(station.stable, waits, 1.0)


def _sojourn_tail(t: Array, station: Station, waits: Array) -> Array:
    """P(W + S > t) where W is 0 or exponential with rate `slack`, S exponential.

    The convolution is written with (e^x - 1) / x, so that equal rates are no special case, and
    with the smaller of the two rates outside, so that nothing overflows.
    """
    mu, slack = station.service_rate, station.slack
    slower, apart = np.minimum(mu, slack), np.abs(mu - slack)
    waited = mu * t * np.exp(-slower * t) * special.exprel(-apart * t)
    return np.exp(-mu * t) + waits * waited


def mmc_utilisation(
    arrival_rate: ArrayLike, service_rate: ArrayLike, *, servers: ArrayLike = 1
) -> Any:
    """Offered load of each server, rho = lambda / (c mu); from one on the queue is unstable.

    Parameters
    ----------
    arrival_rate : array
        Requests in a unit of time.
    service_rate : array
        Requests that one server finishes in a unit of time.
    servers : array of int
        Servers c; all three broadcast.

    Returns
    -------
    float or array
        Of the broadcast shape; greater than one where arrivals exceed what can be served.

    Raises
    ------
    InputError
        If a rate is not positive and finite, or `servers` is not a whole number from one on.
    """
    station = _station(arrival_rate, service_rate, servers)
    return plain(station.arrival_rate / (station.servers * station.service_rate))


def mmc_wait_probability(
    arrival_rate: ArrayLike, service_rate: ArrayLike, *, servers: ArrayLike = 1
) -> Any:
    """P(W > 0), the Erlang C formula (Erlang, 1917).

    Parameters and errors as in `mmc_utilisation`.
    """
    return plain(_wait_probability(_station(arrival_rate, service_rate, servers)))


def mmc_mean_wait(
    arrival_rate: ArrayLike, service_rate: ArrayLike, *, servers: ArrayLike = 1
) -> Any:
    """E[W], the mean time from arrival to the start of service.

    Parameters and errors as in `mmc_utilisation`; infinite where unstable.
    """
    station = _station(arrival_rate, service_rate, servers)
    mean = _wait_probability(station) / station.slack
    return plain(np.where(station.stable, mean, np.inf))


def mmc_mean_sojourn(
    arrival_rate: ArrayLike, service_rate: ArrayLike, *, servers: ArrayLike = 1
) -> Any:
    """E[W + S], the mean time from arrival to the end of service.

    Parameters and errors as in `mmc_utilisation`; infinite where unstable.
    """
    wait = mmc_mean_wait(arrival_rate, service_rate, servers=servers)
    return plain(wait + 1.0 / np.asarray(service_rate, dtype=float))


def mmc_wait_tail(
    t: ArrayLike, arrival_rate: ArrayLike, service_rate: ArrayLike, *, servers: ArrayLike = 1
) -> Any:
    """P(W > t).

    Parameters
    ----------
    t : array
        Times from zero on, finite.
    arrival_rate, service_rate, servers : array
        As in `mmc_utilisation`; all broadcast.

    Returns
    -------
    float or array
        Of the broadcast shape; one where unstable.

    Raises
    ------
    InputError
        If a time is negative, or as in `mmc_utilisation`.
    """
    time = nonnegative("t", t)
    station = _station(arrival_rate, service_rate, servers)
    tail = _wait_probability(station) * np.exp(-station.slack * time)
    return plain(np.where(station.stable, tail, 1.0))


def mmc_sojourn_tail(
    t: ArrayLike, arrival_rate: ArrayLike, service_rate: ArrayLike, *, servers: ArrayLike = 1
) -> Any:
    """P(W + S > t); for one server exp(-(mu - lambda) t).

    Parameters and errors as in `mmc_wait_tail`; one where unstable.
    """
    time = nonnegative("t", t)
    station = _station(arrival_rate, service_rate, servers)
    tail = _sojourn_tail(time, station, _wait_probability(station))
    return plain(np.where(station.stable, tail, 1.0))


def mmc_wait_quantile(
    level: ArrayLike, arrival_rate: ArrayLike, service_rate: ArrayLike, *, servers: ArrayLike = 1
) -> Any:
    """The smallest t with P(W <= t) >= level; zero where enough requests do not wait.

    Parameters
    ----------
    level : array
        Strictly between zero and one.
    arrival_rate, service_rate, servers : array
        As in `mmc_utilisation`; all broadcast.

    Returns
    -------
    float or array
        Of the broadcast shape; infinite where unstable.

    Raises
    ------
    InputError
        If a level is not strictly between zero and one, or as in `mmc_utilisation`.
    """
    beyond = 1.0 - probability("level", level)
    station = _station(arrival_rate, service_rate, servers)
    ratio = np.maximum(_wait_probability(station) / beyond, 1.0)
    return plain(np.where(station.stable, np.log(ratio) / station.slack, np.inf))


def mmc_sojourn_quantile(
    level: ArrayLike, arrival_rate: ArrayLike, service_rate: ArrayLike, *, servers: ArrayLike = 1
) -> Any:
    """The t with P(W + S <= t) = level, by bisection to the precision of a double.

    Parameters and errors as in `mmc_wait_quantile`; infinite where unstable.
    """
    beyond = 1.0 - probability("level", level)
    station = _station(arrival_rate, service_rate, servers)
    waits = _wait_probability(station)
    # The sojourn is at least the service; and it exceeds t1 + t2 only if W > t1 or S > t2.
    low = -np.log(beyond) / station.service_rate
    high = -np.log(0.5 * beyond) * (1.0 / station.service_rate + 1.0 / station.slack)
    low, high, beyond = np.broadcast_arrays(low, high, beyond)
    found = bisect(lambda t: _sojourn_tail(t, station, waits) - beyond, low, high)
    return plain(np.where(station.stable, found, np.inf))
