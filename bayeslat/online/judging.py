"""Judging a candidate by rows that neither it nor the belief in force has learnt from."""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from bayeslat.online.belief import Belief, discounted_likelihood
from bayeslat.online.rows import Rows

__all__ = ["Judgement", "held_back", "log_scores", "without"]

type Array = NDArray[np.float64]


@dataclass(frozen=True)
class Judgement:
    """A candidate against the belief in force.

    Parameters
    ----------
    gain : float
        Difference of the expected log predictive densities, summed over the rows held back;
        positive speaks for the candidate.
    standard_error : float
        Of the gain.
    held_back : int
        Rows that were held back.
    """

    gain: float
    standard_error: float
    held_back: int

    @classmethod
    def of(cls, gains: Array) -> Self:
        """From the gain of each row."""
        error = float(np.sqrt(gains.size) * gains.std(ddof=1)) if gains.size > 1 else 0.0
        return cls(float(gains.sum()), error, gains.size)

    @property
    def passed(self) -> bool:
        """Whether the candidate is better or equal: not worse by more than a standard error."""
        return self.gain >= -self.standard_error


def held_back(rows: Rows, every: int) -> NDArray[np.bool_]:
    """Rows that no draws are ever taken with, shape (row,): they only move weights.

    Scattered by Fibonacci hashing of their number: logs have periods of their own.
    """
    scattered = rows.arrival.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    return (scattered >> np.uint64(32)) % np.uint64(every) == 0


def without(belief: Belief, rows: Rows, *, decay: float) -> Belief:
    """A belief as if some of its rows had not been seen, as far as its draws can tell.

    Parameters
    ----------
    belief : Belief
        The belief.
    rows : Rows
        Rows, some of which its weights may count.
    decay : float
        As in `bayeslat.online.belief.discounted_likelihood`.
    """
    counted = rows[rows.arrival < belief.n_seen]
    seen = discounted_likelihood(belief.draws, counted, n_seen=belief.n_seen, decay=decay)
    return belief.judged(belief.log_likelihood - seen, n_seen=belief.n_seen)


def log_scores(belief: Belief, rows: Rows) -> Array:
    """Log predictive density of rows, 1/ms, shape (row,)."""
    own = belief.draws.log_density(rows.latency_ms, rows.points) + belief.log_weights[:, None]
    top = own.max(axis=0)
    return top + np.log(np.exp(own - top).sum(axis=0))
