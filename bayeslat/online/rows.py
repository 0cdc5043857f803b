"""Recent rows of one deployment, bounded in number and spread over its load levels."""

from dataclasses import dataclass, fields
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from bayeslat.observations import Observations
from bayeslat.predictive.draws import Points

__all__ = ["Rows", "stratum_of"]

type Array = NDArray[np.float64]

CONTENT: Final = (
    "timestamp",
    "batch_size",
    "total_tokens",
    "context_tokens",
    "latency_ms",
    "n_averaged",
)
"""What makes up a row, other than when it arrived."""


def stratum_of(batch_size: Array, total_tokens: Array) -> NDArray[np.int64]:
    """Load level of steps: the power of two below S, apart for steps that compute prompts."""
    level = np.floor(np.log2(total_tokens)).astype(np.int64)
    return 2 * level + (total_tokens > batch_size)


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows of one deployment in the order of their arrival; every field has shape (row,).

    Parameters
    ----------
    arrival : array of int
        Number of the row among those of its deployment that were looked at, from 0.
    order : array of int
        Number of the row among those of the fleet, from 0.
    timestamp : array
        Seconds since 1970; NaN where not recorded.
    batch_size, total_tokens, context_tokens, latency_ms, n_averaged : array
        As in `bayeslat.observations.Observations`, with a context of zero where not recorded.
    """

    arrival: NDArray[np.int64]
    order: NDArray[np.int64]
    timestamp: Array
    batch_size: Array
    total_tokens: Array
    context_tokens: Array
    latency_ms: Array
    n_averaged: Array

    def __len__(self) -> int:
        return self.arrival.size

    def __getitem__(self, where: Any) -> Self:
        return type(self)(**{item.name: getattr(self, item.name)[where] for item in fields(self)})

    @classmethod
    def of(cls, steps: Observations, *, arrival: int, order: NDArray[np.int64]) -> Self:
        """Rows of observations of one deployment, numbered from `arrival` on."""
        return cls(
            arrival + np.arange(len(steps)),
            order,
            steps.timestamp,
            steps.batch_size,
            steps.total_tokens,
            np.nan_to_num(steps.context_tokens, nan=0.0),
            steps.latency_ms,
            steps.n_averaged,
        )

    @classmethod
    def empty(cls) -> Self:
        """No rows."""
        whole, real = np.empty(0, dtype=np.int64), np.empty(0)
        return cls(whole, whole, real, real, real, real, real, real)

    def joined(self, later: Self) -> Self:
        """These rows and later ones."""
        return type(self)(
            **{
                item.name: np.concatenate([getattr(self, item.name), getattr(later, item.name)])
                for item in fields(self)
            }
        )

    @property
    def points(self) -> Points:
        """The steps alone."""
        return Points(self.batch_size, self.total_tokens, self.context_tokens, self.n_averaged)

    def discounts(self, *, n_seen: int, decay: float) -> Array:
        """Weight of each row: decay to the power of its age in rows.

        Parameters
        ----------
        n_seen : int
            Rows seen of the deployment; the newest has age zero.
        decay : float
            In (0, 1]; 1 forgets nothing.
        """
        return np.power(decay, (n_seen - 1 - self.arrival).astype(float))

    def repeated(self, earlier: Self) -> NDArray[np.bool_]:
        """Which rows are the same as an earlier one, their time stamp included, shape (row,).

        Rows without a time stamp never are: equal steps happen.
        """
        both = earlier.joined(self)
        content = np.stack([getattr(both, name) for name in CONTENT], axis=1)
        _, first = np.unique(content, axis=0, return_index=True)
        is_first = np.zeros(len(both), dtype=bool)
        is_first[first] = True
        return (~is_first & np.isfinite(both.timestamp))[len(earlier) :]

    @property
    def stratum(self) -> NDArray[np.int64]:
        """Load level of each row."""
        return stratum_of(self.batch_size, self.total_tokens)

    def kept(self, capacity: int | None) -> NDArray[np.bool_]:
        """Which rows stay where at most `capacity` do: the newest of every load level.

        Levels share the room as evenly as their rows allow: the most crowded give up their oldest
        rows first, so that rare levels keep theirs.
        """
        if capacity is None or len(self) <= capacity:
            return np.ones(len(self), dtype=bool)
        _, code, counts = np.unique(self.stratum, return_inverse=True, return_counts=True)
        room = _shared_room(counts, capacity)
        newest_first = np.lexsort((-self.arrival, code))
        starts = np.cumsum(counts) - counts
        rank = np.empty(len(self), dtype=np.int64)
        rank[newest_first] = np.arange(len(self)) - np.repeat(starts, counts)
        return rank < room[code]


def _shared_room(counts: NDArray[np.int64], capacity: int) -> NDArray[np.int64]:
    """Rows that each level keeps: all below a common bound, as high as the capacity allows."""
    order = np.argsort(counts, kind="stable")
    room = np.zeros_like(counts)
    left = capacity
    for position, level in enumerate(order):
        room[level] = min(counts[level], left // (counts.size - position))
        left -= room[level]
    return room
