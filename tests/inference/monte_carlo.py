"""Monte Carlo errors, for tests that compare means over draws in two gates: ESS, then z-scores."""

from typing import NamedTuple

import arviz as az
import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy import stats

type Array = NDArray[np.float64]


class MeanOverDraws(NamedTuple):
    """Means over chains and draws, with their standard errors and effective sample sizes."""

    mean: Array
    error: Array
    ess: Array


def mean_over_draws(draws: Array) -> MeanOverDraws:
    """Summarise draws, shape (chain, draw, ...), over the first two axes."""
    names = ("chain", "draw", *(f"axis_{i}" for i in range(draws.ndim - 2)))
    ess = az.ess(xr.Dataset({"x": (names, draws)}), method="mean")["x"].to_numpy()
    return MeanOverDraws(draws.mean(axis=(0, 1)), draws.std(axis=(0, 1)) / np.sqrt(ess), ess)


def squared_deviations(draws: Array) -> Array:
    """Their mean is the variance, so that a variance has a Monte Carlo error like any mean."""
    return np.square(draws - draws.mean(axis=(0, 1)))


def z_scores(a: MeanOverDraws, b: MeanOverDraws) -> Array:
    """Differences of two independent estimates in standard errors."""
    return (a.mean - b.mean) / np.hypot(a.error, b.error)


def z_bound(n: int, level: float = 1e-3) -> float:
    """The largest of `n` z-scores stays below this with probability 1 - level (Bonferroni)."""
    return float(stats.norm.isf(level / (2 * n)))
