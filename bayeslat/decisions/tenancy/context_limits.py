"""How much context fits: the largest C that a gate lets through at each (B, S), and lines above it.

A step takes longer the more positions it attends to, so that at each (B, S) one number says which C
fit; only at C = S, where a prefill begins to attend to earlier tokens, the formula may jump, and
both sides are looked at. Over a box of (B, S) these numbers are sampled, and their upper convex
hull gives linear constraints C <= p + q S that no step which fits breaks: exactly where every
integer of the box was sampled, and else as long as between samples the numbers bend no more than
`MARGIN` times as much as the samples show, and a box has no step that fits if none of its samples
does. Decode steps, S = B, count apart: the formula may jump there too.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Box", "ContextLimits", "Fits", "Line"]

type Array = NDArray[np.float64]
type Ints = NDArray[np.int64]
type Fits = Callable[[Ints, Ints, Ints], NDArray[np.bool_]]

N_BATCHES: Final = 12
N_TOKENS: Final = 48
"""Samples of a box along B and S; a box with no more integers is sampled at each."""

MARGIN: Final = 4.0
NONE: Final = -1
"""Stands for a step that does not fit with any context."""


class Box(NamedTuple):
    """Steps from the first to the last B, S and C, both included."""

    batch: tuple[int, int]
    tokens: tuple[int, int]
    context: tuple[int, int]


class Line(NamedTuple):
    """The constraint C <= value + slope (S - tokens)."""

    tokens: int
    value: float
    slope: float


@dataclass(frozen=True, eq=False)
class ContextLimits:
    """The largest C in a range with which a step of B requests and S tokens fits.

    Parameters
    ----------
    fits : callable
        Whether steps (B, S, C) fit, integer arrays of shape (step,).
    low, high : int
        Range of C.
    """

    fits: Fits
    low: int
    high: int
    _known: dict[tuple[int, int], int] = field(default_factory=dict, repr=False)

    def largest(self, batch: Ints, tokens: Ints) -> Ints:
        """Largest C at each step, arguments of shape (step,); `NONE` where none fits or S < B."""
        pairs = list(zip(batch.tolist(), tokens.tolist(), strict=True))
        new = sorted({pair for pair in pairs if pair not in self._known})
        if new:
            b, s = np.array(new, dtype=np.int64).T
            self._known.update(zip(new, self._bisect(b, s).tolist(), strict=True))
        return np.array([self._known[pair] for pair in pairs], dtype=np.int64)

    def above(self, box: Box) -> tuple[Box, list[Line]] | None:
        """The box without ends that hold nothing, and lines above C; None where nothing fits."""
        rough = self._reach(box.batch, *_samples(*box.tokens, N_TOKENS, log=True))
        if rough is None:
            return None
        batch, every_batch = _samples(*box.batch, N_BATCHES, log=True)
        tokens, every_token = _samples(*rough, N_TOKENS, log=False)
        grid, diagonal = self._grid(batch, tokens)
        best = np.maximum(grid.max(axis=0), diagonal)
        kept = np.flatnonzero(best > NONE)
        if kept.size == 0:
            return None
        rise = np.zeros(tokens.size)
        if not every_batch:
            rise += _bend(grid.T, batch).max(axis=1, initial=0.0)
        if not every_token:
            rise += _spread(_bend(grid, tokens).max(axis=0, initial=0.0))
        places, values = tokens[kept], (best + rise)[kept]
        if every_token:
            return box._replace(tokens=(int(places[0]), int(places[-1]))), _hull(places, values)
        ends, beside = _ends(grid, tokens, rise)
        places = np.concatenate([[rough[0]], places, [rough[1]], ends])
        values = np.concatenate([values[:1], values, values[-1:], beside])
        order = np.lexsort((values, places))
        return box._replace(tokens=rough), _hull(places[order], values[order])

    def _reach(self, ends: tuple[int, int], tokens: Ints, every: bool) -> tuple[int, int] | None:
        """First and last S at which something may fit, seen at samples along both axes."""
        grid, diagonal = self._grid(_samples(*ends, N_BATCHES, log=True)[0], tokens)
        kept = np.flatnonzero(np.maximum(grid.max(axis=0), diagonal) > NONE)
        if kept.size == 0:
            return None
        first, last = int(kept[0]), int(kept[-1])
        if every:
            return int(tokens[first]), int(tokens[last])
        below = int(tokens[first - 1]) + 1 if first else int(tokens[0])
        beyond = int(tokens[last + 1]) - 1 if last < tokens.size - 1 else int(tokens[-1])
        return below, beyond

    def _grid(self, batch: Ints, tokens: Ints) -> tuple[Ints, Ints]:
        """Largest C where S > B, shape (batch, tokens), and of decode steps, S = B, by S.

        They are kept apart because T may jump between the two.
        """
        rows, columns = np.meshgrid(batch, tokens, indexing="ij")
        grid = np.full(rows.shape, NONE, dtype=np.int64)
        mixed = columns > rows
        grid[mixed] = self.largest(rows[mixed], columns[mixed])
        diagonal = np.full(tokens.size, NONE, dtype=np.int64)
        decode = (tokens >= batch[0]) & (tokens <= batch[-1])
        diagonal[decode] = self.largest(tokens[decode], tokens[decode])
        return grid, diagonal

    def _bisect(self, batch: Ints, tokens: Ints) -> Ints:
        """The largest C of steps, by bisection of the integers on the side of C = S that holds."""
        real = tokens >= batch
        low = np.full(batch.size, NONE, dtype=np.int64)
        high = np.full(batch.size, self.high + 1, dtype=np.int64)
        for start in (np.maximum(tokens + 1, self.low), np.full(batch.size, self.low)):
            ask = np.flatnonzero(real & (low == NONE) & (start < high))
            if ask.size == 0:
                continue
            found = np.asarray(self.fits(batch[ask], tokens[ask], start[ask]), dtype=bool)
            low[ask[found]] = start[ask[found]]
            high[ask[~found]] = start[ask[~found]]
        while (open_ := np.flatnonzero((low != NONE) & (high - low > 1))).size:
            middle = (low[open_] + high[open_]) // 2
            found = np.asarray(self.fits(batch[open_], tokens[open_], middle), dtype=bool)
            low[open_[found]] = middle[found]
            high[open_[~found]] = middle[~found]
        return low


def _samples(low: int, high: int, n: int, *, log: bool) -> tuple[Ints, bool]:
    """At most `n` integers of a range, both ends with them; whether they are all of it."""
    if high - low < n:
        return np.arange(low, high + 1, dtype=np.int64), True
    spaced = low - 1 + np.geomspace(1.0, high - low + 1.0, n) if log else np.linspace(low, high, n)
    return np.unique(np.rint(spaced).astype(np.int64)), False


def _bend(grid: Ints, places: Ints) -> Array:
    """How far functions along the last axis may rise above their chords, at each sample."""
    rise = np.zeros(grid.shape)
    if places.size > 2:
        values = np.where(grid > NONE, grid, np.nan).astype(float)
        turns = np.abs(np.diff(np.diff(values, axis=-1) / np.diff(places), axis=-1))
        width = np.maximum(np.diff(places)[1:], np.diff(places)[:-1])
        # An arc that turns by a over a width w rises by w a / 8.
        rise[..., 1:-1] = MARGIN * np.nan_to_num(turns * width / 8.0)
    return rise


def _ends(grid: Ints, tokens: Ints, rise: Array) -> tuple[Ints, Array]:
    """Places next to samples between which a row begins or ends to fit, and what it may have there.

    It may do so anywhere between the two.
    """
    held = grid > NONE
    begins, stops = held[:, 1:] & ~held[:, :-1], held[:, :-1] & ~held[:, 1:]
    first = np.where(begins, grid[:, 1:] + rise[1:], -np.inf).max(axis=0)
    last = np.where(stops, grid[:, :-1] + rise[:-1], -np.inf).max(axis=0)
    places = np.concatenate([tokens[:-1] + 1, tokens[1:] - 1])
    values = np.concatenate([first, last])
    return places[values > -np.inf], values[values > -np.inf]


def _spread(rise: Array) -> Array:
    """The largest of each value and its neighbours."""
    padded = np.pad(rise, 1)
    return np.max([padded[:-2], rise, padded[2:]], axis=0)


def _hull(places: Ints, values: Array) -> list[Line]:
    """Edges of the upper convex hull of points by ascending place (Andrew, 1979)."""
    top: list[tuple[float, float]] = []
    for x, y in zip(places.tolist(), values.tolist(), strict=True):
        if top and top[-1][0] == x:
            if top[-1][1] >= y:
                continue
            top.pop()
        while len(top) > 1 and _left_of(top[-2], top[-1], (x, y)):
            top.pop()
        top.append((x, y))
    if len(top) == 1:
        return [Line(int(top[0][0]), top[0][1], 0.0)]
    return [Line(int(x), y, (v - y) / (u - x)) for (x, y), (u, v) in pairwise(top)]


def _left_of(a: tuple[float, float], b: tuple[float, float], c: tuple[float, float]) -> bool:
    """Whether b lies on or below the chord from a to c."""
    return (b[1] - a[1]) * (c[0] - a[0]) <= (c[1] - a[1]) * (b[0] - a[0])
