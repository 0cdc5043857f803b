"""M/G/1, G/G/1 and M/G/c from a few moments of the service time.

M/G/1 is exact; the others say in their names whether they are a bound or an approximation. Where
``arrival_rate * mean_service >= servers`` there is no steady state and the answer is infinite,
element by element; so it is where a moment that the answer needs is infinite.

Moments are raw: ``mean_service`` E[S], ``second_moment`` E[S^2], ``third_moment`` E[S^3]. A squared
coefficient of variation (``_scv``) is the variance over the squared mean: 1 for the exponential
distribution, 0 for a constant.
"""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bayeslat.queueing.arguments import check_moments, nonnegative, plain, positive
from bayeslat.queueing.markovian import mmc_mean_wait

__all__ = [
    "gg1_mean_wait_approximation",
    "gg1_mean_wait_bound",
    "mg1_mean_wait",
    "mg1_wait_variance",
    "mgc_mean_wait_approximation",
]

type Array = NDArray[np.float64]


def _moments(
    arrival_rate: ArrayLike, mean_service: ArrayLike, second_moment: ArrayLike
) -> tuple[Array, Array, Array]:
    arrival = positive("arrival_rate", arrival_rate)
    mean = positive("mean_service", mean_service)
    second = positive("second_moment", second_moment, infinite=True)
    check_moments(mean, second)
    return arrival, mean, second


def _over_slack(value: Array, utilisation: Array) -> Array:
    """The value over 1 - rho where that is positive, infinity elsewhere."""
    stable = utilisation < 1.0
    return np.where(stable, value / np.where(stable, 1.0 - utilisation, 1.0), np.inf)


def mg1_mean_wait(
    arrival_rate: ArrayLike, mean_service: ArrayLike, second_moment: ArrayLike
) -> Any:
    """E[W] of M/G/1: lambda E[S^2] / (2 (1 - rho)) (Pollaczek, 1930; Khinchine, 1932).

    Parameters
    ----------
    arrival_rate : array
        Requests in a unit of time.
    mean_service, second_moment : array
        E[S] and E[S^2], in the unit of time and its square; all broadcast.

    Returns
    -------
    float or array
        Of the broadcast shape; infinite where rho >= 1 or E[S^2] is infinite.

    Raises
    ------
    InputError
        If an argument is not positive, or E[S^2] < E[S]^2.
    """
    arrival, mean, second = _moments(arrival_rate, mean_service, second_moment)
    return plain(_over_slack(0.5 * arrival * second, arrival * mean))


def mg1_wait_variance(
    arrival_rate: ArrayLike,
    mean_service: ArrayLike,
    second_moment: ArrayLike,
    third_moment: ArrayLike,
) -> Any:
    """Var[W] of M/G/1, first come first served: E[W]^2 + lambda E[S^3] / (3 (1 - rho)).

    The second moment of the wait is this plus E[W]^2. Takács, *Introduction to the theory of
    queues* (1962).

    Parameters
    ----------
    arrival_rate, mean_service, second_moment : array
        As in `mg1_mean_wait`.
    third_moment : array
        E[S^3].

    Returns
    -------
    float or array
        Of the broadcast shape; infinite where rho >= 1 or E[S^3] is infinite.

    Raises
    ------
    InputError
        As in `mg1_mean_wait`, and if E[S] E[S^3] < E[S^2]^2.
    """
    arrival, mean, second = _moments(arrival_rate, mean_service, second_moment)
    third = positive("third_moment", third_moment, infinite=True)
    check_moments(mean, second, third)
    wait = _over_slack(0.5 * arrival * second, arrival * mean)
    return plain(wait**2 + _over_slack(arrival * third / 3.0, arrival * mean))


def gg1_mean_wait_bound(
    arrival_rate: ArrayLike,
    mean_service: ArrayLike,
    *,
    arrival_scv: ArrayLike,
    service_scv: ArrayLike,
) -> Any:
    """Upper bound on E[W] of G/G/1 with independent gaps (Kingman, 1962).

    (c_a^2 + rho^2 c_s^2) / (2 lambda (1 - rho)); exact in the limit of heavy traffic. Gaps that
    depend on each other, as those of bursts do, are not covered.

    Parameters
    ----------
    arrival_rate, mean_service : array
        As in `mg1_mean_wait`.
    arrival_scv, service_scv : array
        Squared coefficients of variation of the gaps between arrivals and of the service.

    Returns
    -------
    float or array
        Of the broadcast shape; infinite where rho >= 1.

    Raises
    ------
    InputError
        If a rate or mean is not positive, or a squared coefficient of variation is negative.
    """
    arrival = positive("arrival_rate", arrival_rate)
    utilisation = arrival * positive("mean_service", mean_service)
    gaps = nonnegative("arrival_scv", arrival_scv, infinite=True)
    work = nonnegative("service_scv", service_scv, infinite=True)
    return plain(_over_slack(0.5 * (gaps + utilisation**2 * work) / arrival, utilisation))


def _regular_arrivals(gaps: Array, work: Array, utilisation: Array) -> Array:
    """Correction of Kraemer and Langenbach-Belz to the formula of heavy traffic."""
    rho, spread = np.minimum(utilisation, 1.0), gaps + work
    spread = np.where(spread > 0.0, spread, 1.0)
    below = -2.0 * (1.0 - rho) * (1.0 - gaps) ** 2 / (3.0 * rho * spread)
    above = -(1.0 - rho) * (gaps - 1.0) / (gaps + 4.0 * work + (gaps == 0.0))
    return np.exp(np.where(gaps < 1.0, below, above))


def gg1_mean_wait_approximation(
    arrival_rate: ArrayLike,
    mean_service: ArrayLike,
    *,
    arrival_scv: ArrayLike,
    service_scv: ArrayLike,
) -> Any:
    """Approximate E[W] of G/G/1 with independent gaps (Kraemer and Langenbach-Belz, 1976).

    Exact for Poisson arrivals. Neither an upper nor a lower bound.

    Parameters
    ----------
    arrival_rate, mean_service, arrival_scv, service_scv : array
        As in `gg1_mean_wait_bound`; the squared coefficients of variation finite.

    Returns
    -------
    float or array
        Of the broadcast shape; infinite where rho >= 1.

    Raises
    ------
    InputError
        As in `gg1_mean_wait_bound`.
    """
    arrival = positive("arrival_rate", arrival_rate)
    mean = positive("mean_service", mean_service)
    gaps = nonnegative("arrival_scv", arrival_scv)
    work = nonnegative("service_scv", service_scv)
    utilisation = arrival * mean
    heavy = 0.5 * utilisation * mean * (gaps + work)
    return plain(_over_slack(heavy * _regular_arrivals(gaps, work, utilisation), utilisation))


def mgc_mean_wait_approximation(
    arrival_rate: ArrayLike,
    mean_service: ArrayLike,
    second_moment: ArrayLike,
    *,
    servers: ArrayLike,
) -> Any:
    """Approximate E[W] of M/G/c: E[W] of M/M/c times (1 + c_s^2) / 2 (Lee and Longton, 1959).

    Exact for one server and for exponential service; two moments do not determine the mean of
    others. Neither an upper nor a lower bound.

    Parameters
    ----------
    arrival_rate, mean_service, second_moment : array
        As in `mg1_mean_wait`.
    servers : array of int
        Servers c.

    Returns
    -------
    float or array
        Of the broadcast shape; infinite where rho >= 1 or E[S^2] is infinite.

    Raises
    ------
    InputError
        As in `mg1_mean_wait`, and if `servers` is not a whole number from one on.
    """
    arrival, mean, second = _moments(arrival_rate, mean_service, second_moment)
    exponential = mmc_mean_wait(arrival, 1.0 / mean, servers=servers)
    return plain(exponential * 0.5 * (second / mean**2))
