"""How a row's error ranks among the errors of earlier rows of its load level.

A model that is somewhat wrong has predictive quantiles that are not uniform, and differently so
from load level to load level. As long as nothing changes, though, the errors of one level are
exchangeable, whatever their distribution: the randomised rank of an error among all earlier errors
of its level is exactly uniform and independent of all earlier ranks, and stays so when the traffic
moves from level to level (conformal p-values: Vovk, Gammerman and Shafer, "Algorithmic Learning in
a Random World", 2005, section 2.2 and theorem 8.1; for change detection Vovk et al., "Retrain or
not retrain", 2021). That needs every earlier error; so errors are put into bins first, which leaves
them exchangeable, and the bins are counted, which keeps the memory bounded and the ranks exact.
"""

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Final, NamedTuple, Self

import numba
import numpy as np
from numpy.typing import NDArray

from bayeslat.errors import InputError
from bayeslat.online.scores import Scores

__all__ = ["BINS", "WIDTH", "Ranked", "Ranks", "checked"]

type Array = NDArray[np.float64]

WIDTH: Final = 0.005
"""Of a bin, in log latency: half a per cent, much finer than any change that matters."""

BINS: Final = 512
"""They reach to a factor of 3.6 on either side; what lies beyond is in the outermost bins."""

KNOWN: Final = 30
"""Rows of a load level from which on it is known how the model errs on it."""

_CHUNK: Final = 1024


class Ranked(NamedTuple):
    """Ranks of a block of rows as p-values, arrays of shape (row,)."""

    pit: Array
    """Share of earlier errors below the row's: exactly uniform as long as nothing changes."""

    slower: Array
    """p-value of "slower by more than the tolerance": at least 1 - pit."""

    faster: Array
    """p-value of "faster by more than the tolerance": at least pit."""

    above: Array
    """As `slower`, admitting half as much."""

    below: Array
    """As `faster`, admitting half as much."""


@dataclass(frozen=True, eq=False)
class Ranks:
    """Errors seen so far, counted by load level and bin.

    Parameters
    ----------
    n_seen : int
        Rows seen, those that were given as reference among them.
    strata : array of int, shape (level,)
        Load levels seen, ascending.
    counts : array of int, shape (level, bin)
        Rows of each.
    """

    n_seen: int
    strata: NDArray[np.int64]
    counts: NDArray[np.int32]

    @classmethod
    def empty(cls, **others: Any) -> Self:
        """Nothing seen yet; `others` are fields of a subclass."""
        nothing = np.empty(0, np.int64), np.empty((0, BINS), np.int32)
        return cls(0, *nothing, **others)

    def ranked(
        self, scores: Scores, *, tolerance: float, spreads: float, seed: int
    ) -> tuple[Self, Ranked]:
        """Rank further rows one after the other, each among all rows before it.

        Parameters
        ----------
        scores : Scores
            The rows.
        tolerance : float
            Shift of log latency that the p-values `slower` and `faster` admit.
        spreads : float
            They admit so many standard deviations of the level's errors where that is more.
        seed : int
            Of the numbers that break ties.
        """
        widened = self._with_levels(scores.stratum)
        counts = widened.counts.copy()
        ranks = _rank(
            counts,
            np.searchsorted(widened.strata, scores.stratum),
            binned(scores.log_error),
            round(tolerance / WIDTH),
            spreads,
            uniforms(seed, self.n_seen, len(scores)),
        )
        after = replace(widened, counts=counts, n_seen=self.n_seen + len(scores))
        return after, Ranked(*ranks)

    def shown(self, reference: Scores | None, *, seed: int) -> Self:
        """Rows of a reference to rank others among, and nothing else of them."""
        if reference is None:
            return self
        checked(reference)
        return self.ranked(reference, tolerance=0.0, spreads=0.0, seed=seed)[0]

    @property
    def known(self) -> NDArray[np.int64]:
        """Load levels of which enough rows have been seen to say how the model errs on them."""
        return self.strata[self.counts.sum(axis=1) >= KNOWN]

    def _with_levels(self, stratum: NDArray[np.int64]) -> Self:
        strata = np.union1d(self.strata, stratum)
        if strata.size == self.strata.size:
            return self
        counts = np.zeros((strata.size, BINS), np.int32)
        counts[np.searchsorted(strata, self.strata)] = self.counts
        return replace(self, strata=strata, counts=counts)


def checked(scores: Scores) -> None:
    """Refuse scores that are no numbers.

    Raises
    ------
    InputError
        If a latency is not positive and finite or a p-value is not within [0, 1].
    """
    for name in ("latency_ms", "predicted_ms"):
        value = getattr(scores, name)
        _refuse(name, value, np.isfinite(value) & (value > 0.0), "positive finite milliseconds")
    for name in ("pit", "p_slower", "p_faster"):
        value = getattr(scores, name)
        _refuse(name, value, (value >= 0.0) & (value <= 1.0), "probabilities")


def _refuse(name: str, value: Array, fine: NDArray[np.bool_], expected: str) -> None:
    if not fine.all():
        first = int(np.argmin(fine))
        raise InputError(
            f"got {name}={value[first]} at row {first}, expected {expected};"
            " leave such rows out before drift is looked for"
        )


def binned(log_error: Array) -> NDArray[np.int64]:
    """Bin of each error; half the bins are on either side of zero."""
    within = np.clip(log_error / WIDTH + BINS / 2, 0.0, BINS - 1.0)
    return np.floor(within).astype(np.int64)


def uniforms(seed: int, start: int, n: int) -> Array:
    """Entries `start` to `start + n` of an endless sequence on (0, 1), however it is cut."""
    chunks = range(start // _CHUNK, (start + n) // _CHUNK + 1)
    found = np.concatenate([_chunk(seed, chunk) for chunk in chunks])
    return found[start % _CHUNK :][:n]


@lru_cache(maxsize=64)
def _chunk(seed: int, chunk: int) -> Array:
    # The word between tells these numbers from others that are drawn under the same seed.
    found = np.random.default_rng([seed, *b"ranks", chunk]).random(_CHUNK)
    found.flags.writeable = False
    return found


@numba.njit(cache=True, nogil=True)
def _rank(
    counts: Any, where: Any, bins: Any, admitted: int, spreads: float, uniform: Any
) -> tuple[Any, ...]:
    """Ranks of each row; `counts` is filled in place.

    A p-value that admits a shift ranks the row as if it had been that much nearer to the middle.
    Any shift of at least nought, even one that is found from the counts, leaves it above the exact
    p-value of the same row, so that a test of exact p-values stays valid.
    """
    n_rows = bins.size
    pit, slower, faster = np.empty(n_rows), np.empty(n_rows), np.empty(n_rows)
    above, below = np.empty(n_rows), np.empty(n_rows)
    starts, stops = _filled(counts)
    for i in range(n_rows):
        level, place, u = where[i], bins[i], uniform[i]
        # Most of a level's bins are empty; slices of the others are what is walked through.
        start, row = starts[level], counts[level, starts[level] : stops[level]]
        n = _total(row, 0, row.size)
        shift = max(admitted, _spread(row, n, spreads))
        exactly = _total(row, 0, place - start)
        pit[i] = (exactly + u * (counts[level, place] + 1)) / (n + 1)
        slower[i], faster[i] = _both(counts[level], start, n, place, shift, u)
        above[i], below[i] = _both(counts[level], start, n, place, (shift + 1) // 2, u)
        counts[level, place] += 1
        starts[level], stops[level] = min(start, place), max(stops[level], place + 1)
    return pit, slower, faster, above, below


@numba.njit(cache=True, nogil=True)
def _both(row: Any, start: int, n: int, place: int, shift: int, u: float) -> tuple[float, float]:
    """p-values of slower and faster that admit a shift by so many bins."""
    down, up = max(place - shift, 0), min(place + shift, row.size - 1)
    over = n - _total(row, start, down + 1)
    under = _total(row, start, up)
    slower = (over + (1.0 - u) * (row[down] + 1)) / (n + 1)
    return slower, (under + u * (row[up] + 1)) / (n + 1)


@numba.njit(cache=True, nogil=True)
def _filled(counts: Any) -> tuple[Any, Any]:
    """The first bin of each level with a row in it, and the one after the last."""
    n_levels, n_bins = counts.shape
    starts, stops = np.full(n_levels, n_bins), np.zeros(n_levels, np.int64)
    for level in range(n_levels):
        for j in range(n_bins):
            if counts[level, j]:
                starts[level], stops[level] = min(starts[level], j), j + 1
    return starts, stops


@numba.njit(cache=True, nogil=True)
def _total(row: Any, start: int, stop: int) -> Any:
    """Sum of a slice; bins outside are empty."""
    total = np.int64(0)
    for j in range(max(start, 0), min(stop, row.size)):
        total += row[j]
    return total


@numba.njit(cache=True, nogil=True)
def _spread(row: Any, n: int, spreads: float) -> int:
    """So many standard deviations of a level's errors, in bins, from their quartiles."""
    if spreads == 0.0 or n < 8:
        return 0
    first, third, total = -1, 0, np.int64(0)
    for j in range(row.size):
        total += row[j]
        if first < 0 and 4 * total >= n:
            first = j
        if 4 * total >= 3 * n:
            third = j
            break
    # The quartiles of a normal are 1.349 standard deviations apart.
    return int(np.ceil(spreads * (third - first) / 1.349))
