"""The service time on a uniform grid, as `waiting_tail` needs it: what is known, and the bounds.

Grid point k stands for the time ``k * step``. The last one is the cap: the service is taken to be
min(S, cap), so that every moment of a heavy-tailed service, infinite ones included, is truncated
there. `ServiceGrid.truncated_mass` is P(S > cap), the share of requests that this shortens; answers
hold for the truncated service only.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bayeslat.errors import InputError
from bayeslat.queueing.arguments import ROUNDING, nonnegative, positive, whole

__all__ = ["ServiceGrid", "service_grid", "service_grid_from_samples"]

type Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ServiceGrid:
    """A service time on a grid, once or for each of many draws.

    Parameters
    ----------
    step : float
        Distance of grid points.
    survival : array, shape (..., grid)
        Bounds P(S > t) <= survival <= P(S >= t) at the grid points.
    excess_lower, excess_upper : array, shape (..., grid)
        Bounds on E[(min(S, cap) - t)+], the survival function integrated from t on. At t = 0 that
        is the mean service.
    truncated_mass : array, shape (...)
        P(S > cap).
    """

    step: float
    survival: Array
    excess_lower: Array
    excess_upper: Array
    truncated_mass: Array

    @property
    def cap(self) -> float:
        """Time at which the service is truncated."""
        return self.step * (self.survival.shape[-1] - 1)


def service_grid(
    service_sf: ArrayLike, step: float, *, mean_service: ArrayLike | None = None
) -> ServiceGrid:
    """The service from its survival function at 0, step, 2 step, ...

    Between two grid points nothing is assumed but that the function falls, so that without
    `mean_service` the mean is only known to one step and the bounds on a busy queue are wide: the
    utilisation has an uncertainty of ``arrival_rate * step``. Give the mean where it is known.

    Parameters
    ----------
    service_sf : array, shape (..., grid)
        P(S > k step), from k = 0 on.
    step : float
        Distance of grid points.
    mean_service : array, shape (...), optional
        E[min(S, cap)], the mean of the truncated service.

    Raises
    ------
    InputError
        If `step` is not positive, there are fewer than two grid points, the survival function is
        not within [0, 1] or rises, or the mean contradicts it.
    """
    width = float(positive("step", step))
    survival = _check_survival(service_sf)
    sums = width * np.cumsum(survival[..., ::-1], axis=-1)[..., ::-1]
    last = sums[..., -1:]
    upper = sums - last
    lower = np.concatenate([sums[..., 1:], np.zeros_like(last)], axis=-1)
    if mean_service is not None:
        mean = positive("mean_service", mean_service)[..., None]
        _check_mean(mean, lower[..., :1], upper[..., :1])
        below, above = mean - (lower[..., :1] - lower), mean - (upper[..., :1] - upper)
        lower, upper = np.maximum(lower, above), np.minimum(upper, below)
    return ServiceGrid(width, survival, lower, upper, survival[..., -1])


def service_grid_from_samples(samples: ArrayLike, step: float, n_grid: int) -> ServiceGrid:
    """The service from equally weighted values of it: the empirical distribution, exactly.

    Parameters
    ----------
    samples : array, shape (..., replicate)
        Service times.
    step : float
        Distance of grid points.
    n_grid : int
        Number of grid points; values above ``(n_grid - 1) * step`` are truncated there.

    Raises
    ------
    InputError
        If a value is negative or not finite, `step` is not positive or `n_grid` is below two.
    """
    values = np.atleast_1d(nonnegative("samples", samples))
    width, count = float(positive("step", step)), int(whole("n_grid", n_grid, at_least=2))
    truncated = (values > width * (count - 1)).mean(axis=-1)
    rows = np.minimum(values.reshape(-1, values.shape[-1]), width * (count - 1))
    cells = np.minimum((rows / width).astype(np.int64), count - 1)
    flat = (cells + count * np.arange(len(rows))[:, None]).ravel()
    shape = (*values.shape[:-1], count)
    reached, beyond = (
        np.bincount(flat, weights, minlength=len(rows) * count).reshape(shape)[..., ::-1]
        for weights in (np.ones(rows.size), (rows - width * cells).ravel())
    )
    survival = np.cumsum(reached, axis=-1)[..., ::-1] / rows.shape[-1]
    part = np.cumsum(beyond, axis=-1)[..., ::-1] / rows.shape[-1]
    whole_cells = width * (np.cumsum(survival[..., ::-1], axis=-1)[..., ::-1] - survival)
    excess = whole_cells + part
    return ServiceGrid(width, survival, excess, excess, truncated)


def _check_survival(service_sf: ArrayLike) -> Array:
    survival = np.atleast_1d(np.asarray(service_sf, dtype=float))
    if survival.shape[-1] < 2:
        raise InputError(
            f"got service_sf of shape {survival.shape}, expected two grid points or more along"
            " the last axis; refine the grid"
        )
    inside = (survival >= 0.0) & (survival <= 1.0)
    if not (inside.all() and (np.diff(survival, axis=-1) <= ROUNDING).all()):
        raise InputError(
            "got a service_sf that leaves [0, 1] or rises, expected P(S > t) on a grid of rising"
            " times along the last axis; give the survival function, not the distribution function"
        )
    return survival


def _check_mean(mean: Array, lower: Array, upper: Array) -> None:
    slack = ROUNDING * upper
    if not ((mean >= lower - slack) & (mean <= upper + slack)).all():
        raise InputError(
            f"got mean_service from {mean.min():g} to {mean.max():g}, expected it within the bounds"
            f" of the survival function, {lower.min():g} to {upper.max():g}; give the mean of the"
            " service truncated at the last grid point"
        )
