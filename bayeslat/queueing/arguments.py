"""Checks of arguments, and small numerics that the queues share."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bayeslat.errors import InputError

__all__ = [
    "batch_means_error",
    "bisect",
    "check_moments",
    "nonnegative",
    "plain",
    "positive",
    "probability",
    "refuse_where",
    "whole",
]

type Array = NDArray[np.float64]

BISECTIONS = 64
"""Halvings of a bracket: more than the bits of a double."""

ROUNDING = 1e-9
"""Relative slack of inequalities between moments, which hold with equality for a constant."""


def refuse_where(
    bad: NDArray[np.bool_], name: str, array: Array, expected: str, advice: str
) -> None:
    """Raise `InputError` that shows the first of the bad elements, if there is one."""
    if bad.any():
        first = np.broadcast_to(array, bad.shape)[bad].flat[0]
        raise InputError(f"got {name}={first:g}, expected {expected}; {advice}")


def positive(name: str, value: ArrayLike, *, infinite: bool = False) -> Array:
    """The value as an array of positive numbers, infinity among them only where allowed."""
    array = np.asarray(value, dtype=float)
    bad = ~(array > 0.0) | (np.isinf(array) & (not infinite))
    refuse_where(bad, name, array, "a positive number", "check its sign and the unit of time")
    return array


def nonnegative(name: str, value: ArrayLike, *, infinite: bool = False) -> Array:
    """The value as an array of numbers from zero on, infinity among them only where allowed."""
    array = np.asarray(value, dtype=float)
    bad = ~(array >= 0.0) | (np.isinf(array) & (not infinite))
    refuse_where(bad, name, array, "a number of at least 0", "check its sign")
    return array


def probability(name: str, value: ArrayLike) -> Array:
    """The value as an array of numbers strictly between zero and one."""
    array = np.asarray(value, dtype=float)
    bad = ~((array > 0.0) & (array < 1.0))
    refuse_where(bad, name, array, "a number strictly between 0 and 1", "0.99 is a p99")
    return array


def whole(name: str, value: ArrayLike, *, at_least: int = 1) -> Array:
    """The value as an array of whole numbers, in floating point."""
    array = np.asarray(value, dtype=float)
    bad = ~((array >= at_least) & np.isfinite(array) & (array == np.floor(array)))
    expected = f"a whole number of at least {at_least}"
    refuse_where(bad, name, array, expected, "count whole servers and requests")
    return array


def check_moments(first: Array, second: Array, third: Array | None = None) -> None:
    """Raise `InputError` unless moments of one nonnegative variable can be these."""
    bad = ~(second >= first**2 * (1.0 - ROUNDING))
    expected = "at least the square of mean_service"
    advice = "give E[S^2] and not the variance, in the same unit of time"
    refuse_where(bad, "second_moment", second, expected, advice)
    if third is None:
        return
    bad = first * third < second**2 * (1.0 - ROUNDING)
    expected = "at least second_moment^2 / mean_service"
    refuse_where(bad, "third_moment", third, expected, "give E[S^3], in the same unit of time")


def plain(value: ArrayLike) -> Any:
    """A float for a zero-dimensional array, the array itself otherwise."""
    array = np.asarray(value)
    return float(array) if array.ndim == 0 else array


def bisect(falling: Callable[[Array], Array], low: Array, high: Array) -> Array:
    """Where falling functions pass zero, elementwise, given brackets."""
    for _ in range(BISECTIONS):
        middle = 0.5 * (low + high)
        above = falling(middle) > 0.0
        low, high = np.where(above, middle, low), np.where(above, high, middle)
    return high


def batch_means_error(values: ArrayLike, *, batches: int = 32) -> Any:
    """Standard error of the mean of an autocorrelated sequence, by the means of batches.

    Parameters
    ----------
    values : array, shape (n, ...)
        In the order of time; the remainder of n by `batches` is left out at the beginning.
    batches : int
        Number of batches. Each must be long against the correlation time for the error to be
        right: for a queue near saturation that is of the order of (1 - rho)^-2 services.

    Returns
    -------
    float or array, shape (...)
        Standard error, with ``batches - 1`` degrees of freedom.

    Raises
    ------
    InputError
        If there are fewer than two batches or fewer values than batches.

    Notes
    -----
    Law, *Simulation modeling and analysis* (2015), section 9.5.3.
    """
    array = np.asarray(values, dtype=float)
    count = int(whole("batches", batches, at_least=2))
    length = len(array) // count
    if length == 0:
        raise InputError(
            f"got {len(array)} values, expected at least {count}, one a batch; simulate longer"
        )
    kept = array[len(array) - count * length :]
    means = kept.reshape(count, length, *array.shape[1:]).mean(axis=1)
    return plain(means.std(axis=0, ddof=1) / np.sqrt(count))
