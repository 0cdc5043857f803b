"""A fallback server that takes every request which has waited for `cut`: bounds and their check.

The station's queue is cut off: a request that still waits `cut` after its arrival goes to one
slower server, first come first served, which finishes `service_rate` and receives `arrival_rate`
requests in a unit of time. If those arrivals were Poisson and its service exponential it would be
an M/M/1, whose sojourn beyond `cut` is exponential with rate service_rate - arrival_rate. All
bounds here rest on that assumption, and it is NOT what overflow is: requests overflow in bursts,
while the station is behind, and then more of them find the fallback busy. For exponential service
the tail is above the bound if the overflow is burstier than Poisson, the more so the busier the
fallback. A service that varies less than the exponential has a shorter tail and can keep the
quantile, though never the bound at times below its own. So simulate, by `simulate_servers` or
`simulate_bulk`, and ask `check_fallback_bound`.

"Time" here is from arrival until the fallback has FINISHED the request; the wait until the fallback
begins is shorter, so that the bounds cover it too. A request that does not overflow has waited at
most `cut` when its service starts.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bayeslat.errors import InputError
from bayeslat.queueing.arguments import (
    batch_means_error,
    nonnegative,
    plain,
    positive,
    probability,
    refuse_where,
)

__all__ = [
    "FallbackCheck",
    "check_fallback_bound",
    "fallback_quantile_bound",
    "fallback_tail_bound",
    "largest_cut",
]

type Array = NDArray[np.float64]

STANDARD_ERRORS = 4.0
"""By so many Monte Carlo errors an empirical tail must exceed the bound to count against it."""

CHECKED_LEVELS = 40
"""Points at which a bound is checked, evenly spaced in the logarithm of the bound."""

FEWEST_BEYOND = 20
"""Requests that the bound must leave beyond a point for the point to be checked."""


@dataclass(frozen=True, eq=False)
class FallbackCheck:
    """A claimed bound against simulated times.

    Parameters
    ----------
    holds : bool
        Whether the empirical tail exceeds the bound nowhere by more than 4 standard errors.
    time : array, shape (point,)
        Times from arrival at which it was checked.
    bound, empirical, standard_error : array, shape (point,)
        Claimed bound on P(time > t), the share of requests, and its error by batch means.
    fails : array of bool, shape (point,)
        Where the bound fails.
    level : float
        Level of the quantiles.
    quantile, quantile_bound : float
        Empirical quantile, and what the bound says it is at most.
    quantile_holds : bool
        Whether no more than ``1 - level`` of the requests take longer than `quantile_bound`, to
        the same 4 standard errors. It can hold where the bound fails at shorter times.
    """

    holds: bool
    time: Array
    bound: Array
    empirical: Array
    standard_error: Array
    fails: NDArray[np.bool_]
    level: float
    quantile: float
    quantile_bound: float
    quantile_holds: bool


def _drain_rate(arrival_rate: ArrayLike, service_rate: ArrayLike) -> Array:
    arrival = positive("arrival_rate", arrival_rate)
    rate = positive("service_rate", service_rate) - arrival
    expected = "a positive number"
    advice = "overflow less or give the fallback more capacity, since its queue grows for ever"
    refuse_where(~(rate > 0.0), "service_rate - arrival_rate", rate, expected, advice)
    return rate


def _overflow(overflow: ArrayLike) -> Array:
    share = positive("overflow", overflow)
    advice = "give the share of requests that overflow"
    refuse_where(share > 1.0, "overflow", share, "at most 1", advice)
    return share


def _excess(level: ArrayLike, rate: Array, overflow: ArrayLike) -> Array:
    """ln(p / (1 - level)) / rate, or zero if fewer than 1 - level overflow."""
    share = _overflow(overflow)
    ratio = share / (1.0 - probability("level", level))
    return np.log(np.maximum(ratio, 1.0)) / rate


def fallback_tail_bound(t: ArrayLike, arrival_rate: ArrayLike, service_rate: ArrayLike) -> Any:
    """P(time > cut + t) <= exp(-(service_rate - arrival_rate) t) for a request that overflows.

    Parameters
    ----------
    t : array
        Times beyond the cut, from zero on.
    arrival_rate, service_rate : array
        Requests that overflow, and that the fallback can finish, in a unit of time.

    Returns
    -------
    float or array
        Of the broadcast shape. A bound under the assumption of the module's text.

    Raises
    ------
    InputError
        If a time is negative, a rate is not positive, or arrival_rate >= service_rate.
    """
    return plain(np.exp(-_drain_rate(arrival_rate, service_rate) * nonnegative("t", t)))


def fallback_quantile_bound(
    level: ArrayLike,
    cut: ArrayLike,
    arrival_rate: ArrayLike,
    service_rate: ArrayLike,
    *,
    overflow: ArrayLike = 1.0,
) -> Any:
    """Bound on a quantile of the time.

    cut + ln(p / (1 - level)) / (service_rate - arrival_rate) if p > 1 - level, else `cut`: then
    enough requests start before it.

    Parameters
    ----------
    level : array
        Strictly between zero and one.
    cut : array
        Wait after which a request overflows.
    arrival_rate, service_rate : array
        As in `fallback_tail_bound`.
    overflow : array
        Share p of all requests that overflow, in (0, 1]. One, the default, asks about requests
        that overflow; their share asks about all.

    Returns
    -------
    float or array
        Of the broadcast shape. A bound under the assumption of the module's text.

    Raises
    ------
    InputError
        If an argument is out of its range, or as in `fallback_tail_bound`.
    """
    rate = _drain_rate(arrival_rate, service_rate)
    return plain(nonnegative("cut", cut) + _excess(level, rate, overflow))


def largest_cut(
    sla: ArrayLike,
    level: ArrayLike,
    arrival_rate: ArrayLike,
    service_rate: ArrayLike,
    *,
    overflow: ArrayLike = 1.0,
) -> Any:
    """The largest `cut` whose `fallback_quantile_bound` keeps the SLA.

    The share that overflows, and with it `arrival_rate`, depend on the cut: a smaller cut lets more
    requests overflow. Check the answer with the share and rate that it leads to.

    Parameters
    ----------
    sla : array
        Limit of the quantile, in the unit of time.
    level, arrival_rate, service_rate, overflow : array
        As in `fallback_quantile_bound`; all broadcast.

    Returns
    -------
    float or array
        Of the broadcast shape.

    Raises
    ------
    InputError
        If even requests that overflow at once would break the SLA, an argument is out of its
        range, or as in `fallback_tail_bound`.
    """
    limit = positive("sla", sla)
    excess = _excess(level, _drain_rate(arrival_rate, service_rate), overflow)
    advice = "relax the SLA, overflow less or give the fallback more capacity"
    limit, excess = np.broadcast_arrays(limit, excess)
    least = f"at least the {excess.max():g} that the fallback alone takes at this level"
    refuse_where(limit < excess, "sla", limit, least, advice)
    return plain(limit - excess)


def check_fallback_bound(
    times: ArrayLike,
    *,
    cut: float,
    arrival_rate: float,
    service_rate: float,
    level: float = 0.99,
) -> FallbackCheck:
    """Whether simulated times of requests that overflowed keep the bound claimed for them.

    The tail is checked from `cut` on to where the bound leaves about 20 of the requests. Standard
    errors are those of 32 batch means, since times in a queue depend on each other.

    Parameters
    ----------
    times : array, shape (n,)
        From arrival to the end of service, of requests that overflowed, in the order of arrival
        and without a warm-up.
    cut, arrival_rate, service_rate : float
        As in `fallback_quantile_bound`.
    level : float
        Level of the quantile that is reported.

    Raises
    ------
    InputError
        If there are too few times for a check, one is shorter than the cut, or as in
        `fallback_tail_bound`.
    """
    rate, start = float(_drain_rate(arrival_rate, service_rate)), float(nonnegative("cut", cut))
    values = nonnegative("times", times)
    refuse_where(values < start, "times", values, f"at least the cut {start:g}", "drop the others")
    if values.ndim != 1 or values.size < 2 * FEWEST_BEYOND:
        raise InputError(
            f"got times of shape {values.shape}, expected (n,) with n >= {2 * FEWEST_BEYOND};"
            " simulate longer"
        )
    excess = np.linspace(0.0, np.log(values.size / FEWEST_BEYOND), CHECKED_LEVELS) / rate
    beyond = values[:, None] > start + excess
    empirical, bound = beyond.mean(axis=0), np.exp(-rate * excess)
    error = batch_means_error(beyond)
    fails = empirical - STANDARD_ERRORS * error > bound
    claimed = fallback_quantile_bound(level, cut, arrival_rate, service_rate)
    late = values > claimed
    least = late.mean() - STANDARD_ERRORS * batch_means_error(late)
    return FallbackCheck(
        holds=bool(not fails.any()),
        time=start + excess,
        bound=bound,
        empirical=empirical,
        standard_error=error,
        fails=fails,
        level=level,
        quantile=float(np.quantile(values, level)),
        quantile_bound=claimed,
        quantile_holds=bool(least <= 1.0 - level),
    )
