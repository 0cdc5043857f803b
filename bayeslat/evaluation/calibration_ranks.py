"""Ranks of truths among posterior draws, and whether they are as uniform as they should be.

Where a truth is drawn from the prior and data from it, its place among independent draws of the
posterior is uniform (Talts et al., 2018, "Validating Bayesian inference algorithms with
simulation-based calibration"). Places are compared with uniform ones by their whole empirical
distribution.
"""

from typing import Final, NamedTuple

import arviz as az
import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy import stats

from bayeslat.evaluation.uniformity import UniformBand, uniform_band

__all__ = ["MAX_RANKS", "Places", "chi_square", "places", "rank_band"]

type Array = NDArray[np.float64]

MAX_RANKS: Final = 100
"""Most draws that a truth is placed among."""

N_UNIFORM: Final = 20_000
"""Uniform samples behind a band."""

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


def rank_band(n: int, *, mass: float = 0.95) -> UniformBand:
    """The band of `n` uniform places, from enough samples to tell one wrong quantity of many."""
    return uniform_band(n, mass=mass, n_simulations=N_UNIFORM)
