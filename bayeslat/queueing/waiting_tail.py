"""The whole distribution of the wait and the sojourn in M/G/1, between two stated bounds.

In the steady state the wait is the sum of a geometric number of residual services (Pollaczek and
Khinchine). With H(t) = lambda E[(S - t)+] on a lattice, its generating function H(z) and
rho = H(0), that is

    sum_k P(W > k) z^k = H(z) / (1 - rho + (1 - z) H(z)).

Rounding every residual down to the grid makes the sum smaller, rounding up makes it larger; each of
the two sums is computed exactly, so that the truth lies between them at every time. The width is
near ``step * rho / (1 - rho)`` in time: halve the step and it halves.

The generating function is evaluated by FFT on a circle of radius below one, which is exponential
tilting: what is aliased from beyond the transform is divided by e^22, and the transform is twice as
long as what is read from it, so that round-off is multiplied by no more than e^11. Both together
stay below `NUMERICAL_ERROR`, by which the bounds are widened.

Sources: Grübel and Hermesmeier, "Computation of compound distributions I: aliasing errors and
exponential tilting", ASTIN Bulletin 29 (1999); Embrechts and Frei, "Panjer recursion versus FFT for
compound distributions", Mathematical Methods of Operations Research 69 (2009).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import fft

from bayeslat.errors import InputError
from bayeslat.queueing.arguments import nonnegative, plain, positive, probability, whole
from bayeslat.queueing.service_grid import ServiceGrid

__all__ = ["NUMERICAL_ERROR", "TailBounds", "mg1_sojourn_tail", "mg1_wait_tail"]

type Array = NDArray[np.float64]

TILT = 22.0
"""Exponent of the tilt over the whole transform: aliasing and round-off are then about equal."""

NUMERICAL_ERROR = 2e-9
"""Absolute error of a tail probability that aliasing and round-off stay below."""

MAX_CELLS = 2**21
"""Draws times length of the transform held in memory at once."""


@dataclass(frozen=True, eq=False)
class TailBounds:
    """Bounds on P(X > t) of a time X, for each draw.

    The bounds are those of two variables on the grid that enclose X: between grid points they keep
    the value of the point before.

    Parameters
    ----------
    step : float
        Distance of grid points; point k stands for ``k * step``.
    lower, upper : array, shape (..., grid)
        P(X > t) lies between them; both are one where the queue is unstable.
    utilisation_lower, utilisation_upper : array, shape (...)
        Bounds on rho. They are equal where the mean service is known.
    truncated_mass : array, shape (...)
        P(S > cap): the share of services that the grid's end has shortened.
    """

    step: float
    lower: Array
    upper: Array
    utilisation_lower: Array
    utilisation_upper: Array
    truncated_mass: Array

    @property
    def time(self) -> Array:
        """Times of the grid points, shape (grid,)."""
        return self.step * np.arange(self.lower.shape[-1], dtype=np.float64)

    def at(self, t: float) -> tuple[Any, Any]:
        """Lower and upper bound on P(X > t), each of shape (...).

        Beyond the grid the upper bound is that of its end and the lower bound is zero, or one
        where the queue is unstable.

        Raises
        ------
        InputError
            If `t` is negative or not finite.
        """
        cells = float(nonnegative("t", t)) / self.step
        # A time on the grid must not fall into the cell before it by rounding.
        near = round(cells)
        index = near if abs(cells - near) < 1e-9 * (1.0 + near) else int(cells)
        last = self.lower.shape[-1] - 1
        beyond = np.where(self.utilisation_lower < 1.0, 0.0, 1.0)
        lower = self.lower[..., index] if index <= last else beyond
        return plain(lower), plain(self.upper[..., min(index, last)])

    def quantile(self, level: float) -> tuple[Any, Any]:
        """Lower and upper bound on the quantile of X, each of shape (...).

        Where the tail does not come down to ``1 - level`` on the grid, the upper bound is infinite
        and the lower bound is the end of the grid; both are infinite where the queue is unstable.

        Raises
        ------
        InputError
            If `level` is not strictly between zero and one.
        """
        beyond = 1.0 - float(probability("level", level))
        below, above = (self.step * (a > beyond).sum(axis=-1) for a in (self.lower, self.upper))
        lower = np.where(self.utilisation_lower < 1.0, below, np.inf)
        return plain(lower), plain(np.where(self.upper[..., -1] > beyond, np.inf, above))


def mg1_wait_tail(
    arrival_rate: ArrayLike, service: ServiceGrid, *, n_grid: int | None = None
) -> TailBounds:
    """Bounds on P(W > t), the time from arrival to the start of service.

    Parameters
    ----------
    arrival_rate : array, shape (...)
        Requests in a unit of time; broadcasts against the draws of `service`.
    service : ServiceGrid
        From `service_grid` or `service_grid_from_samples`.
    n_grid : int, optional
        Grid points of the answer, as many as those of the service if not given. A busy queue
        needs more: its waits are longer than any service.

    Raises
    ------
    InputError
        If an arrival rate is not positive, shapes do not broadcast, or `n_grid` is below one.
    """
    return _tail_bounds(arrival_rate, service, n_grid, sojourn=False)


def mg1_sojourn_tail(
    arrival_rate: ArrayLike, service: ServiceGrid, *, n_grid: int | None = None
) -> TailBounds:
    """Bounds on P(W + S > t), the time from arrival to the end of service.

    Parameters and errors as in `mg1_wait_tail`.
    """
    return _tail_bounds(arrival_rate, service, n_grid, sojourn=True)


def _tail_bounds(
    arrival_rate: ArrayLike, service: ServiceGrid, n_grid: int | None, *, sojourn: bool
) -> TailBounds:
    arrival = positive("arrival_rate", arrival_rate)
    shape = _common_shape(arrival, service)
    count = int(whole("n_grid", service.survival.shape[-1] if n_grid is None else n_grid))
    parts = []
    for excess, down in ((service.excess_lower, True), (service.excess_upper, False)):
        load = np.broadcast_to(arrival * excess[..., 0], shape)
        # Rounding down moves a tail by one point; the truncated service has none at the cap.
        ladder = arrival[..., None] * (_moved(excess) if down else excess)
        tail = _moved(service.survival) if down else _ended(service.survival)
        parts += [_compound_tail(load, ladder, tail if sojourn else None, count), load]
    low, load_low, high, load_high = parts
    low = np.where(load_low[..., None] < 1.0, np.maximum(low - NUMERICAL_ERROR, 0.0), 1.0)
    high = np.minimum(high + NUMERICAL_ERROR, 1.0)
    return TailBounds(
        service.step,
        np.maximum.accumulate(low[..., ::-1], axis=-1)[..., ::-1],
        np.minimum.accumulate(high, axis=-1),
        load_low,
        load_high,
        np.broadcast_to(service.truncated_mass, shape),
    )


def _common_shape(arrival: Array, service: ServiceGrid) -> tuple[int, ...]:
    draws = service.survival.shape[:-1]
    try:
        return np.broadcast_shapes(arrival.shape, draws)
    except ValueError:
        raise InputError(
            f"got arrival_rate of shape {arrival.shape} and a service of shape {draws}, expected"
            " shapes that broadcast; give one rate, or one for each draw of the service"
        ) from None


def _moved(tail: Array) -> Array:
    """The tail read one grid point later, zero beyond its end."""
    return np.concatenate([tail[..., 1:], np.zeros_like(tail[..., :1])], axis=-1)


def _ended(tail: Array) -> Array:
    """The tail with zero at its last point."""
    return np.concatenate([tail[..., :-1], np.zeros_like(tail[..., :1])], axis=-1)


def _compound_tail(load: Array, ladder: Array, service: Array | None, count: int) -> Array:
    """P(X > k) of the geometric sum on the lattice, shape (..., count); one where load >= 1.

    With `service`, P(S > k) on the lattice, X is the sum and one service more.
    """
    points = ladder.shape[-1]
    full = (*load.shape, points)
    loads, ladders = load.reshape(-1), np.broadcast_to(ladder, full).reshape(-1, points)
    services = None if service is None else np.broadcast_to(service, full).reshape(-1, points)
    length = fft.next_fast_len(max(2 * count, points), real=True)
    out = np.empty((loads.size, count))
    held = max(1, MAX_CELLS // length)
    for first in range(0, loads.size, held):
        part = slice(first, first + held)
        extra = None if services is None else services[part]
        out[part] = _inverted(loads[part], ladders[part], extra, count, length)
    return np.where(load[..., None] < 1.0, out.reshape(*load.shape, count), 1.0)


def _inverted(load: Array, ladder: Array, service: Array | None, count: int, length: int) -> Array:
    """The generating functions on the tilted circle, put together and inverted."""
    radius = np.exp(-TILT / length * np.arange(length))
    angles = 2j * np.pi * np.arange(length // 2 + 1) / length
    back = 1.0 - np.exp(-TILT / length - angles)
    idle = np.where(load < 1.0, 1.0 - load, 1.0)[:, None]
    heights = fft.rfft(ladder * radius[: ladder.shape[-1]], length)
    total = heights / (idle + back * heights)
    if service is not None:
        tail = fft.rfft(service * radius[: service.shape[-1]], length)
        total = tail + (1.0 - back * tail) * total
    return fft.irfft(total, length)[:, :count] / radius[:count]
