"""Whether values are uniform: the distribution of a sample against a simultaneous band.

The whole curve of a uniform sample stays inside the band with the stated probability (Säilynoja,
Bürkner and Vehtari, 2022, "Graphical test for discrete uniformity").
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

__all__ = ["UniformBand", "uniform_band"]

type Array = NDArray[np.float64]

MAX_CELLS: Final = 100
"""Places at which distributions are compared, at most."""

N_SIMULATIONS: Final = 4000
"""Uniform samples behind a band: its probability is known to within half a per cent."""


@dataclass(frozen=True, eq=False)
class UniformBand:
    """Simultaneous band of the empirical distribution of uniform values.

    Attributes
    ----------
    at : array, shape (point,)
        Where it is evaluated, inside (0, 1).
    lower, upper : array, shape (point,)
        The band.
    least : array, shape (simulation,)
        Sorted least pointwise p-values of simulated uniform samples, which give p-values.
    n : int
        Values of a sample.
    """

    at: Array
    lower: Array
    upper: Array
    least: Array
    n: int

    def shares(self, values: Array) -> Array:
        """Share of the values up to each of `at`, shape (point,)."""
        return np.searchsorted(np.sort(values), self.at, side="right") / len(values)

    def p_value(self, values: Array) -> float:
        """Probability that a uniform sample strays from the diagonal as far as this one.

        Where no simulated sample does, the sum of the pointwise probabilities bounds it: the
        p-value of a gross departure is as small as a correction over many samples needs.
        """
        counts = np.searchsorted(np.sort(values), self.at, side="right")
        own = _pointwise(counts, self.n, self.at).min()
        below = np.searchsorted(self.least, own, side="right")
        return float(min((1 + below) / (1 + self.least.size), own * self.at.size))


@lru_cache(maxsize=64)
def uniform_band(
    n: int, *, mass: float = 0.95, n_simulations: int = N_SIMULATIONS, seed: int = 0
) -> UniformBand:
    """Simultaneous band of the empirical distribution of `n` uniform values.

    By simulation on a grid of at most `MAX_CELLS` cells, as Säilynoja et al. (2022) do. ArviZ's own
    bands are evaluated at every value, which takes minutes for ten thousand.

    Parameters
    ----------
    n : int
        Values of a sample.
    mass : float
        Probability that the whole curve stays inside.
    n_simulations, seed : int
        Uniform samples of the simulation, and its seed.
    """
    size = min(max(n, 2), MAX_CELLS)
    at = np.arange(1, size) / size
    rng = np.random.default_rng(seed)
    cells = rng.multinomial(n, np.full(size, 1.0 / size), size=n_simulations)
    least = np.sort(_pointwise(cells.cumsum(axis=1)[:, :-1], n, at).min(axis=1))
    tail = np.quantile(least, 1.0 - mass) / 2.0
    lower, upper = stats.binom.ppf(tail, n, at), stats.binom.isf(tail, n, at)
    return UniformBand(at, lower / n, upper / n, least, n)


def _pointwise(counts: NDArray[np.int64], n: int, at: Array) -> Array:
    """Two-sided p-value of the share of values below each place."""
    below, above = special.bdtr(counts, n, at), special.bdtrc(counts - 1, n, at)
    above = np.where(counts > 0, above, 1.0)
    return np.minimum(2.0 * np.minimum(below, above), 1.0)
