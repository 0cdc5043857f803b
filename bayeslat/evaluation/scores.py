"""Scores of predictions: arrays in, numbers out.

A prediction is an array of quantiles in ms, shape (row, level), at `LEVELS`. A contender without
intervals gives NaN everywhere but at level 0.5, and NaN is what it gets for every score that asks
for more. Smaller is better but for R2, the log score, and the shares that have a nominal value.
"""

from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from scipy.special import ndtri

__all__ = [
    "LEVELS",
    "ape",
    "at_level",
    "coverage",
    "crps",
    "exceedance",
    "log_scores",
    "pinball",
    "r_squared",
    "score_quantiles",
]

type Array = NDArray[np.float64]

LEVELS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.975, 0.99, 0.995)
"""Levels of every prediction."""

_INTERVALS: Final = {50: (0.25, 0.75), 90: (0.05, 0.95), 99: (0.005, 0.995)}
_LEAST_SPACING: Final = 1e-4
"""Least distance of log quantiles a unit of normal score, so that densities are finite."""

_LEAST_QUANTILE: Final = 1e-3
"""Least quantile of a density, as a share of the median: wide predictions may reach zero."""


def score_quantiles(observed: ArrayLike, quantiles: ArrayLike) -> dict[str, float]:
    """All scores of one group of steps.

    Parameters
    ----------
    observed : array
        Measured latencies in ms, shape (row,); at least one.
    quantiles : array
        Predicted quantiles in ms, shape (row, level).

    Returns
    -------
    dict
        ``mape``, ``ape95`` (per cent), ``r2``, ``rmse``, ``mae`` (ms) of the median; ``crps``,
        ``relative_crps`` (per cent of the mean latency), ``pinball99`` (ms), ``coverage50``,
        ``coverage90``, ``coverage99``, ``exceedance99`` (shares), ``log_score`` (nats a step) and
        ``elpd`` (nats, its sum).
    """
    y, q = np.asarray(observed, dtype=float), np.asarray(quantiles, dtype=float)
    median = at_level(q, 0.5)
    error, percentage = median - y, ape(y, median)
    spread, densities = crps(y, q), log_scores(y, q)
    return {
        "mape": float(percentage.mean()),
        "ape95": float(np.quantile(percentage, 0.95)),
        "r2": r_squared(y, median),
        "rmse": float(np.sqrt(np.mean(error**2))),
        "mae": float(np.mean(np.abs(error))),
        "crps": spread,
        "relative_crps": 100.0 * spread / float(y.mean()),
        "pinball99": float(pinball(y, at_level(q, 0.99), 0.99).mean()),
        **{f"coverage{mass}": coverage(y, q, *ends) for mass, ends in _INTERVALS.items()},
        "exceedance99": exceedance(y, q, 0.99),
        "log_score": float(densities.mean()),
        "elpd": float(densities.sum()),
    }


def at_level(quantiles: Array, level: float) -> Array:
    """The prediction at one of `LEVELS`, shape (row,)."""
    return quantiles[:, LEVELS.index(level)]


def ape(observed: Array, predicted: Array) -> Array:
    """Absolute percentage error of each row."""
    return 100.0 * np.abs(predicted / observed - 1.0)


def r_squared(observed: Array, predicted: Array) -> float:
    """Share of the variance that a point prediction explains; NaN where nothing varies."""
    total = float(np.sum((observed - observed.mean()) ** 2))
    return 1.0 - float(np.sum((predicted - observed) ** 2)) / total if total > 0 else float("nan")


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


def crps(observed: Array, quantiles: Array) -> float:
    """Mean continuous ranked probability score, from quantiles.

    The CRPS is twice the integral of the pinball loss over all levels (Gneiting and Ranjan, 2011).
    Here it is a trapezoid over `LEVELS`, with a loss of zero at the levels 0 and 1. The loss is
    concave in the level between these points, so that the sum is too small: by 3 to 4 % for a
    prediction that is right, by 1 % for one that is much too narrow.
    """
    loss = pinball(observed[:, None], quantiles, np.array(LEVELS)).mean(axis=0)
    return float(2.0 * np.trapezoid([0.0, *loss, 0.0], [0.0, *LEVELS, 1.0]))


def log_scores(observed: Array, quantiles: Array) -> Array:
    """Log predictive density of each row, in nats, latencies in ms; shape (row,).

    The same rule turns the quantiles of every contender into a density: between two levels the
    normal score of the probability is linear in the logarithm of the latency, and beyond the
    outermost levels the density falls as a power of the latency, continuously and with the mass
    that is left. Contenders are compared by what they said at `LEVELS` and not by how heavy they
    believe tails to be that nobody can check.
    """
    score, least = ndtri(LEVELS), _LEAST_QUANTILE * at_level(quantiles, 0.5)[:, None]
    log_q = np.log(np.maximum(quantiles, least))
    steps = np.maximum(np.diff(log_q, axis=1), _LEAST_SPACING * np.diff(score))
    knots = log_q[:, :1] + np.concatenate(
        [np.zeros((len(log_q), 1)), np.cumsum(steps, axis=1)], axis=1
    )
    x, slope = np.log(observed), np.diff(score) / steps
    piece = np.clip((knots < x[:, None]).sum(axis=1) - 1, 0, steps.shape[1] - 1)
    row = np.arange(x.size)
    z = score[piece] + (x - knots[row, piece]) * slope[row, piece]
    inner = stats.norm.logpdf(z) + np.log(slope[row, piece])
    below, above = knots[:, 0] - x, x - knots[:, -1]
    outer = np.where(
        below > 0,
        _tail(below, score[0], slope[:, 0], LEVELS[0]),
        _tail(above, score[-1], slope[:, -1], 1.0 - LEVELS[-1]),
    )
    return np.where((below > 0) | (above > 0), outer, inner) - x


def _tail(distance: Array, score: float, slope: Array, mass: float) -> Array:
    """Log density at a distance (in logs of the latency) beyond the outermost quantile."""
    edge = np.exp(stats.norm.logpdf(score)) * slope
    return np.log(edge) - edge / mass * distance
