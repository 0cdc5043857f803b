"""Ranks of truths among posterior draws, and whether they are as uniform as they should be.

Where a truth is drawn from the prior and data from it, its place among independent draws of the
posterior is uniform (Talts et al., 2018, "Validating Bayesian inference algorithms with
simulation-based calibration"). Places are compared with uniform ones by their whole empirical
distribution: a band that a uniform sample leaves anywhere with a stated probability only
(Säilynoja, Bürkner and Vehtari, 2022, "Graphical test for discrete uniformity").
"""

from functools import lru_cache
from typing import Final, NamedTuple

import arviz as az
import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy import stats

__all__ = ["MAX_RANKS", "Band", "Places", "chi_square", "ecdf_band", "ecdf_test", "places"]

type Array = NDArray[np.float64]

MAX_RANKS: Final = 100
"""Most draws that a truth is placed among."""

N_UNIFORM: Final = 20_000
"""Uniform samples that the band and its probabilities are measured with."""

MAX_POINTS: Final = 100
"""Points between 0 and 1 at which distributions are compared."""

PER_BIN: Final = 6
"""Least expected count of a bin of the chi-square test."""

MAX_BINS: Final = 20


class Places(NamedTuple):
    """Where truths lie among draws.

    Attributes
    ----------
    place
        Shape (quantity,), between 0 and 1.
    n_draws
        Draws that each was placed among, shape (quantity,).
    """

    place: Array
    n_draws: NDArray[np.int64]


def places(draws: Array, truth: Array, rng: np.random.Generator) -> Places:
    """Place truths among thinned draws.

    Each quantity is thinned to as many draws as it has effective ones, at most `MAX_RANKS`: those
    are nearly independent. With r of n draws below the truth its place is uniform in
    (r, r + 1) / (n + 1), so that places of different n are comparable.

    Parameters
    ----------
    draws : array, shape (chain, draw, quantity)
        Of the posterior.
    truth : array, shape (quantity,)
        What the data were simulated with.
    rng : numpy.random.Generator
        Source of the place between two draws.
    """
    n_quantities = truth.size
    labelled = xr.Dataset({"x": (("chain", "draw", "quantity"), draws)})
    with np.errstate(divide="ignore", invalid="ignore"):  # chains that never moved
        effective = np.nan_to_num(az.ess(labelled, method="bulk")["x"].to_numpy(), nan=1.0)
    n_draws = np.clip(effective, 1, min(MAX_RANKS, draws.shape[0] * draws.shape[1])).astype(int)
    pooled = draws.reshape(-1, n_quantities)
    below = np.empty(n_quantities)
    for position, n in enumerate(n_draws):
        kept = np.linspace(0, len(pooled) - 1, n).round().astype(int)
        below[position] = (pooled[kept, position] < truth[position]).sum()
    return Places((below + rng.random(n_quantities)) / (n_draws + 1), n_draws)


def chi_square(place: Array) -> float:
    """p-value of the chi-square test of uniform places, in bins of equal width."""
    bins = int(np.clip(place.size // PER_BIN, 2, MAX_BINS))
    counts = np.histogram(place, bins, (0.0, 1.0))[0]
    return float(stats.chisquare(counts).pvalue)


def ecdf_test(place: Array) -> float:
    """p-value of the empirical distribution as a whole: how seldom a uniform one strays as far."""
    as_far = np.count_nonzero(_uniform_depths(place.size) <= _depth(place[None])[0])
    return float((1 + as_far) / (1 + N_UNIFORM))


class Band(NamedTuple):
    """A band for the empirical distribution of uniform places."""

    at: Array
    """Points between 0 and 1."""
    lower: Array
    upper: Array
    """Bounds of the share of places up to each point."""


def ecdf_band(n: int, level: float) -> Band:
    """The band that the distribution of `n` uniform places leaves with probability `level`.

    Parameters
    ----------
    n : int
        Number of places.
    level : float
        Probability to leave it anywhere.
    """
    depth = np.quantile(_uniform_depths(n), level)
    at = _points(n)
    lower, upper = stats.binom.ppf([[depth / 2.0], [1.0 - depth / 2.0]], n, at) / n
    return Band(at, lower, upper)


def _points(n: int) -> Array:
    size = min(n, MAX_POINTS)
    return np.arange(1, size) / size


def _depth(place: Array) -> Array:
    """Smallest two-sided binomial tail over all points, shape (sample,) from (sample, n)."""
    n, at = place.shape[1], _points(place.shape[1])
    counts = np.stack([np.searchsorted(np.sort(row), at, side="right") for row in place])
    up_to = stats.binom.cdf(np.arange(n + 1)[:, None], n, at)  # (count, point)
    columns = np.arange(at.size)
    above = np.where(counts > 0, 1.0 - up_to[counts - 1, columns], 1.0)
    return 2.0 * np.minimum(up_to[counts, columns], above).min(axis=1)


@lru_cache(maxsize=8)
def _uniform_depths(n: int) -> Array:
    return _depth(np.random.default_rng(n).random((N_UNIFORM, n)))
