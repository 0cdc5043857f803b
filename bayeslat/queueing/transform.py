"""M/G/1 from the Laplace-Stieltjes transform of the service, by numerical inversion.

The second route to the tails of `waiting_tail`, for services whose transform is known as a
formula; no grid and no bounds. The Euler method: the Fourier series of the inverse, summed with
binomial averages of its last partial sums.

Absolute error near 1e-8 where the tail is smooth. At a jump or kink, as at multiples of a constant
service, the averages converge slowly and the error nearby can reach 1e-2; use `waiting_tail`
there.

Source: Abate and Whitt, "Numerical inversion of Laplace transforms of probability distributions",
ORSA Journal on Computing 7 (1995).
"""

from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from bayeslat.queueing.arguments import nonnegative, plain, positive

__all__ = ["mg1_sojourn_tail_by_inversion", "mg1_wait_tail_by_inversion"]

type Array = NDArray[np.float64]
type Complex = NDArray[np.complex128]
type Transform = Callable[[Any], Any]
"""E[exp(-s S)] at complex s of shape (node, ...), of a shape that broadcasts against it."""

DISCRETISATION: Final = 18.4
"""The error of the Fourier series is exp(-18.4), one part in 10^8."""

TERMS: Final = 38
"""Terms of the series before the averages begin."""

AVERAGED: Final = 11
"""Order of the binomial average."""


def _weights() -> Array:
    """Weights of the nodes: signs, the halved first term, and the averages of the last sums."""
    late = special.binom(AVERAGED, np.arange(AVERAGED + 1)) / 2.0**AVERAGED
    kept = np.concatenate([np.ones(TERMS), np.cumsum(late[::-1])[::-1]])
    kept[0] = 0.5
    return kept * (-1.0) ** np.arange(kept.size)


WEIGHTS: Final = _weights()


def _invert(transform: Callable[[Complex], Complex], t: Array) -> Array:
    """The function at times t > 0 from its Laplace transform."""
    column: Any = (slice(None),) + (None,) * t.ndim
    nodes: Any = (DISCRETISATION + 2j * np.pi * np.arange(WEIGHTS.size))[column] / (2.0 * t)
    sums = (WEIGHTS[column] * transform(nodes).real).sum(axis=0)
    return np.exp(0.5 * DISCRETISATION) / t * sums


def _tail(
    t: ArrayLike,
    arrival_rate: ArrayLike,
    mean_service: ArrayLike,
    transform: Transform,
    sojourn: bool,
) -> Any:
    time, arrival = nonnegative("t", t), positive("arrival_rate", arrival_rate)
    load = arrival * positive("mean_service", mean_service)
    time, load = np.broadcast_arrays(time, load)
    stable = load < 1.0
    # Stand-ins keep the transform within its range where the answer is known without it.
    idle = np.where(stable, 1.0 - load, 1.0)

    def of_tail(s: Complex) -> Complex:
        service = transform(s)
        wait = idle * s / (s - arrival * (1.0 - service))
        return (1.0 - (wait * service if sojourn else wait)) / s

    tail = np.clip(_invert(of_tail, np.where(time > 0.0, time, 1.0)), 0.0, 1.0)
    at_zero = np.ones_like(load) if sojourn else load
    return plain(np.where(stable, np.where(time > 0.0, tail, at_zero), 1.0))


def mg1_wait_tail_by_inversion(
    t: ArrayLike, arrival_rate: ArrayLike, mean_service: ArrayLike, transform: Transform
) -> Any:
    """P(W > t) of M/G/1, from the transform of Pollaczek and Khinchine.

    Parameters
    ----------
    t : array
        Times from zero on, finite.
    arrival_rate, mean_service : array
        Rate of arrivals and E[S]; broadcast against `t`.
    transform : callable
        E[exp(-s S)] for a complex array s of shape (node, ...), where ... is the broadcast shape
        of the other arguments; parameters of the service of that shape broadcast by themselves.

    Returns
    -------
    float or array
        Of the broadcast shape; one where rho >= 1.

    Raises
    ------
    InputError
        If a time is negative, or a rate or mean is not positive.
    """
    return _tail(t, arrival_rate, mean_service, transform, sojourn=False)


def mg1_sojourn_tail_by_inversion(
    t: ArrayLike, arrival_rate: ArrayLike, mean_service: ArrayLike, transform: Transform
) -> Any:
    """P(W + S > t) of M/G/1.

    Parameters and errors as in `mg1_wait_tail_by_inversion`; the service must be without jumps
    near `t`.
    """
    return _tail(t, arrival_rate, mean_service, transform, sojourn=True)
