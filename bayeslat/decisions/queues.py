"""A queue before one deployment: waits and p99 that carry what is not known about its steps.

Each posterior draw has its own service and so its own queue. Where it is unstable (rho >= 1) waits
grow for ever: such draws count as infinite, and their share is the probability of instability.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bayeslat import queueing
from bayeslat.decisions.services import BatchService
from bayeslat.errors import InputError
from bayeslat.predictive import Estimate
from bayeslat.predictive.estimate import check_probability

__all__ = ["PosteriorQueue", "posterior_queue"]

type Array = NDArray[np.float64]

CELLS_OF_CAP: Final = 1024
"""Grid points up to the cap of a service; the bounds on a tail are that fine."""

HORIZON: Final = 8
"""Caps up to which the tail of a time is known."""


@dataclass(frozen=True, eq=False)
class PosteriorQueue:
    """Requests served one at a time (M/G/1), in every posterior draw.

    Parameters
    ----------
    arrivals_per_s : array, shape (draw,)
        Rate of the Poisson stream, the same in all draws or one for each.
    utilisation : array, shape (draw,)
        rho.
    mean_wait : array, shape (draw,)
        E[W] in milliseconds, infinite in unstable draws or where E[S^2] is.
    wait, sojourn : TailBounds
        Bounds on P(W > t) and on that of the time until the answer, for each draw: those of its
        sampled services, cut at their cap.
    service : BatchService
        The services.
    """

    arrivals_per_s: Array
    utilisation: Array
    mean_wait: Array
    wait: queueing.TailBounds
    sojourn: queueing.TailBounds
    service: BatchService

    @property
    def probability_unstable(self) -> float:
        """Posterior probability that rho >= 1."""
        return float((self.utilisation >= 1.0).mean())

    def load(self, *, credible: float = 0.9) -> Estimate:
        """The utilisation rho."""
        return _summary(
            float(self.utilisation.mean()), self.utilisation, self.utilisation, credible
        )

    def mean_wait_ms(self, *, credible: float = 0.9) -> Estimate:
        """E[W] in milliseconds; its value is the median over draws, since some may be infinite."""
        value = float(np.quantile(self.mean_wait, 0.5, method="inverted_cdf"))
        return _summary(value, self.mean_wait, self.mean_wait, credible)

    def wait_sf(self, t_ms: float, *, credible: float = 0.9) -> Estimate:
        """P(W > t): waiting alone."""
        return _tail(self.wait, t_ms, credible)

    def sojourn_sf(self, t_ms: float, *, credible: float = 0.9) -> Estimate:
        """P(time from arrival to answer > t)."""
        return _tail(self.sojourn, t_ms, credible)

    def sojourn_ppf(self, q: float, *, credible: float = 0.9) -> Estimate:
        """Quantile of the time from arrival to answer, in milliseconds.

        The value is the quantile of the mixture over draws; it is infinite where that lies beyond
        `HORIZON` caps of a service, or more draws are unstable than 1 - q. The interval spans draws
        and the bounds within each.
        """
        check_probability("q", q)
        middle = 0.5 * (self.sojourn.lower + self.sojourn.upper).mean(axis=0)
        below = np.flatnonzero(middle <= 1.0 - q)
        value = float(self.sojourn.time[below[0]]) if below.size else np.inf
        lower, upper = self.sojourn.quantile(q)
        return _summary(value, lower, upper, credible)


def posterior_queue(service: BatchService, *, arrivals_per_s: ArrayLike) -> PosteriorQueue:
    """The queue of requests that are served one at a time.

    Parameters
    ----------
    service : BatchService
        Services; those of batches of one are used.
    arrivals_per_s : float or array, shape (draw,)
        Rate of the Poisson arrivals: known, or draws of what is known about it.

    Raises
    ------
    InputError
        A rate that is not positive, rates that are not one for each draw, or a load of one or more
        in every draw.
    """
    rate = np.asarray(arrivals_per_s, dtype=float)
    if rate.shape not in ((), (service.n_draws,)):
        raise InputError(
            f"got arrivals_per_s of shape {rate.shape}, expected one rate, or one for each of"
            f" {service.n_draws} draws of the service; correct the load"
        )
    if not (np.isfinite(rate) & (rate > 0.0)).all():
        raise InputError(
            f"got arrivals_per_s from {rate.min():g} to {rate.max():g}, expected positive finite"
            " rates; correct the load"
        )
    per_ms = np.broadcast_to(rate, service.n_draws) / 1e3
    mean, square = service.mean[:, 0], service.second_moment[:, 0]
    utilisation = per_ms * mean
    if (utilisation >= 1.0).all():
        raise InputError(
            f"got {rate.max():g} requests/s, a load of {utilisation.min():.2f} or more in every"
            f" draw, expected less than {service.capacity_per_draw(1).max():.3g}/s; lower the load"
            " or serve batches"
        )
    cap = float(service.cap_ms[0])
    grid = queueing.service_grid_from_samples(
        service.samples[:, 0], cap / CELLS_OF_CAP, CELLS_OF_CAP + 1
    )
    n_grid = HORIZON * CELLS_OF_CAP
    return PosteriorQueue(
        1e3 * per_ms,
        utilisation,
        np.asarray(queueing.mg1_mean_wait(per_ms, mean, square)),
        queueing.mg1_wait_tail(per_ms, grid, n_grid=n_grid),
        queueing.mg1_sojourn_tail(per_ms, grid, n_grid=n_grid),
        service,
    )


def _tail(bounds: queueing.TailBounds, t_ms: float, credible: float) -> Estimate:
    lower, upper = (np.atleast_1d(side) for side in bounds.at(t_ms))
    return _summary(float(0.5 * (lower + upper).mean()), lower, upper, credible)


def _summary(value: float, lower: Array, upper: Array, credible: float) -> Estimate:
    """A value with the spread over draws of bounds, which may be infinite."""
    check_probability("credible", credible)
    tail = 0.5 * (1.0 - credible)
    low = np.quantile(lower, tail, method="inverted_cdf")
    high = np.quantile(upper, 1.0 - tail, method="inverted_cdf")
    return Estimate(value, float(low), float(high))
