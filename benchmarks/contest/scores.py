"""Scores of quantile forecasts: arrays in, numbers out.

A forecast is an array of shape (row, level). A contender without quantiles gives NaN everywhere
but at level 0.5 and gets NaN for every score that asks for more.
"""

from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "LEVELS",
    "coverage",
    "crps",
    "exceedance",
    "mape",
    "mean_pinball",
    "p99_error",
    "pinball",
    "score_forecast",
]

type Array = NDArray[np.float64]

LEVELS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.975, 0.99, 0.995)
"""Levels of every forecast."""

MIN_ROWS_PER_BIN: Final = 50
"""Rows in a bin of batch sizes: fewer say nothing of a 99th percentile."""


def at_level(quantiles: Array, level: float) -> Array:
    """The forecast at one of the levels, shape (row,)."""
    return quantiles[:, LEVELS.index(level)]


def mape(observed: Array, quantiles: Array) -> float:
    """Mean absolute percentage error of the median."""
    return float(100.0 * np.mean(np.abs(at_level(quantiles, 0.5) / observed - 1.0)))


def coverage(observed: Array, quantiles: Array, low: float = 0.05, high: float = 0.95) -> float:
    """Share of rows between two quantiles, both bounds included."""
    lower, upper = at_level(quantiles, low), at_level(quantiles, high)
    inside = (lower <= observed) & (observed <= upper)
    return float(np.where(np.isnan(lower + upper), np.nan, inside).mean())


def exceedance(observed: Array, quantiles: Array, level: float = 0.99) -> float:
    """Share of rows above a quantile; the nominal value is one minus the level."""
    bound = at_level(quantiles, level)
    return float(np.where(np.isnan(bound), np.nan, observed > bound).mean())


def pinball(observed: ArrayLike, quantile: ArrayLike, level: ArrayLike) -> Array:
    """Pinball loss of a quantile, in the unit of the observations; the arguments broadcast."""
    excess = np.asarray(observed) - np.asarray(quantile)
    return np.maximum(np.asarray(level) * excess, (np.asarray(level) - 1.0) * excess)


def mean_pinball(observed: Array, quantiles: Array, level: float = 0.99) -> float:
    """Mean pinball loss at one level."""
    return float(pinball(observed, at_level(quantiles, level), level).mean())


def crps(observed: Array, quantiles: Array) -> float:
    """Mean continuous ranked probability score, from quantiles.

    The CRPS is twice the integral of the pinball loss over all levels (Gneiting & Ranjan 2011).
    Here it is a trapezoid over `LEVELS`, with a loss of zero at the levels 0 and 1. The loss is
    concave in the level between these points, so that the sum is too small: by 3 % for a true
    normal forecast, equally for all contenders.
    """
    loss = pinball(observed[:, None], quantiles, np.array(LEVELS)).mean(axis=0)
    return float(2.0 * np.trapezoid([0.0, *loss, 0.0], [0.0, *LEVELS, 1.0]))


def p99_error(observed: Array, quantiles: Array, batch_size: Array) -> float:
    """Median error, in per cent, of the 99th percentile over neighbouring batch sizes.

    The rows fall into bins of at least 50 neighbouring in batch size. A bin's forecast is the 0.99
    quantile of the mixture of its rows' forecasts, and is held against the empirical one.
    """
    errors = []
    for rows in _bins(batch_size):
        measured = np.quantile(observed[rows], 0.99)
        errors.append(abs(mixture_quantile(quantiles[rows], 0.99) / measured - 1.0))
    return float(100.0 * np.median(errors)) if errors else float("nan")


def mixture_quantile(quantiles: Array, level: float) -> float:
    """Quantile of the equal mixture of forecasts, each linear between its levels.

    Beyond its outermost levels a forecast has all its mass at the outermost quantile.
    """
    if np.isnan(quantiles).any():
        return float("nan")
    grid = np.unique(quantiles)
    padded = [0.0, *LEVELS[1:-1], 1.0]
    cdf = np.mean([np.interp(grid, own, padded, left=0.0) for own in quantiles], axis=0)
    return float(np.interp(level, cdf, grid))


def _bins(batch_size: Array) -> list[NDArray[np.int64]]:
    """Rows of each bin: whole batch sizes, joined upwards until a bin holds enough rows."""
    bins, current = [], np.array([], dtype=np.int64)
    for size in np.unique(batch_size):
        current = np.concatenate([current, np.flatnonzero(batch_size == size)])
        if current.size >= MIN_ROWS_PER_BIN:
            bins.append(current)
            current = np.array([], dtype=np.int64)
    return bins


def score_forecast(observed: Array, quantiles: Array) -> dict[str, float]:
    """All scores of the rows of one deployment."""
    total = crps(observed, quantiles)
    return {
        "mape": mape(observed, quantiles),
        "coverage90": coverage(observed, quantiles),
        "exceedance99": exceedance(observed, quantiles),
        "pinball99": mean_pinball(observed, quantiles),
        "crps": total,
        "relative_crps": total / float(observed.mean()),
    }
