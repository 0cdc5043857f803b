"""The embedded Markov chain of a server that serves batches: requests left at each departure.

Compiled, and one module because numba's cache on disk does not notice changes of what a function
calls in another.
"""

import math
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

__all__ = ["arrival_probabilities", "stationary"]

type Array = NDArray[np.float64]


@numba.njit(cache=True, nogil=True)
def _add_poisson(out: Any, mean: float, weight: float) -> None:
    """Add weight times the Poisson probabilities of 0, 1, ..., from the mode outwards."""
    mode = min(int(mean), out.size - 1)
    peak = weight * math.exp(mode * math.log(mean) - mean - math.lgamma(mode + 1.0))
    mass = peak
    for k in range(mode, -1, -1):
        out[k] += mass
        mass *= k / mean
    mass = peak
    for k in range(mode + 1, out.size):
        mass *= mean / k
        out[k] += mass


@numba.njit(cache=True, nogil=True)
def arrival_probabilities(means: Any, weights: Any, n_counts: int) -> Any:
    """Mixed Poisson probabilities of the arrivals in one service.

    Parameters
    ----------
    means : array, shape (batch, atom)
        Expected arrivals, positive.
    weights : array, shape (batch, atom)
        Probability of each atom; rows sum to one.
    n_counts : int
        Counts 0, 1, ... that are kept: so many that what is beyond is negligible.

    Returns
    -------
    array, shape (batch, n_counts)
        Rows sum to one. They are scaled for that: what rounding has left over from one, put on any
        one count, would stand out of the far tail.
    """
    out = np.zeros((means.shape[0], n_counts))
    for i in range(means.shape[0]):
        for j in range(means.shape[1]):
            _add_poisson(out[i], means[i, j], weights[i, j])
        out[i] /= out[i].sum()
    return out


@numba.njit(cache=True, nogil=True)
def _fill(band: Any, boundary: Any, interior: Any) -> None:
    """Transition probabilities, element (i, j) at column j - i + batch; the last state absorbs."""
    n_states, batch = band.shape[0], boundary.shape[0]
    for i in range(n_states):
        row = boundary[i] if i < batch else interior
        first = 0 if i < batch else i - batch
        for k in range(row.size):
            j = min(first + k, n_states - 1)
            band[i, j - i + batch] += row[k]


@numba.njit(cache=True, nogil=True)
def stationary(boundary: Any, interior: Any, n_states: int) -> Any:
    """Stationary distribution of the chain, by the elimination of Grassmann, Taksar and Heyman.

    States are eliminated from the highest down. Nothing is ever subtracted, so that small
    probabilities keep their relative precision; and elimination does not leave the band, so that
    the cost is n_states (batch + n_counts) batch. Operations Research 33 (1985).

    Parameters
    ----------
    boundary : array, shape (batch, n_counts)
        Transition probabilities from states 0 to batch - 1 to states 0, 1, ...
    interior : array, shape (n_counts,)
        Those from a state i >= batch to states i - batch, i - batch + 1, ...
    n_states : int
        States that are kept; the last one stands for all beyond.

    Returns
    -------
    array, shape (n_states,)
    """
    batch, n_counts = boundary.shape
    band = np.zeros((n_states, batch + n_counts))
    _fill(band, boundary, interior)
    bottom = 0
    for m in range(n_states - 1, 0, -1):
        low = max(0, m - batch)
        leaving = band[m, low - m + batch : batch].sum()
        if leaving == 0.0:
            # States below are so rare that a double cannot hold their probability.
            bottom = m
            break
        for i in range(max(0, m - n_counts + 1), m):
            share = band[i, m - i + batch] / leaving
            band[i, m - i + batch] = share
            if share > 0.0:
                for j in range(low, m):
                    band[i, j - i + batch] += share * band[m, j - m + batch]
    out = np.zeros(n_states)
    out[bottom] = 1.0
    for m in range(bottom + 1, n_states):
        for i in range(max(bottom, m - n_counts + 1), m):
            out[m] += out[i] * band[i, m - i + batch]
    return out / out.sum()
