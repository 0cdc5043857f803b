"""Gate: P(latency > SLA) of one deployment's steps, without the posterior it was compiled from."""

import math
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from bayeslat.errors import InputError, StaleGateError
from bayeslat.gate import files
from bayeslat.gate.arrays import MOST_CONTEXT, TINY, ArrayAnswers, refuse
from bayeslat.gate.series import (
    DECODE,
    LOG_A,
    LOG_B,
    OLDER,
    OWN,
    WEIGHTS,
    Layout,
    Piece,
    Profiles,
)
from bayeslat.gate.tables import Column, Row

__all__ = ["Accuracy", "Gate"]

type Array = NDArray[np.float64]

_NUMBERS: Final = frozenset({int, float, np.int64, np.int32, np.float64, np.float32})


@dataclass(frozen=True)
class Accuracy:
    """What the compilation lost, measured at random steps against the exact mixture.

    Parameters
    ----------
    n_checked : int
        Steps.
    below, above : float
        How far the gate's probability lies below the exact one, and how far above, at most among
        these; of other steps a few may be worse.
    margin, pad : float
        Relative latency by which the gate takes every step to be longer than it is, and what it
        adds to every probability, so that it lies no further below the exact one there.
    """

    n_checked: int
    below: float
    above: float
    margin: float
    pad: float


@dataclass(frozen=True, eq=False)
class Gate:
    """P(latency > SLA) of one deployment's steps, without the posterior it was compiled from.

    `FleetPosterior.compile` makes one, `Gate.load` reads one. See `bayeslat.gate.series` for what
    it holds. Arguments of its answers are B requests, S computed tokens and C attended positions of
    a step, summed over requests, own tokens included.

    Parameters
    ----------
    deployment : str
        Label of the deployment.
    sla_ms, risk : float
        Limit of a step's latency in milliseconds, and the admitted probability of exceeding it.
    max_batch_size, max_total_tokens : int
        Largest B and S that the gate answers for. Beyond them, and beyond 2,146,435,072 attended
        positions, nothing fits: `p_exceed` is 1.
    fingerprint : str
        Of the posterior draws that it stands for; see `check`.
    quantum : float
        What coefficients of the series are multiples of: most of them then need a byte or two.
    accuracy : Accuracy
        What the compilation lost.
    profiles : Profiles
        Curves of exceedance.
    pieces : tuple of Piece
        Maps of every regime, ascending within one. Without any of regime OWN it is that of OLDER.

    Notes
    -----
    The first answer lays out tables, for 256 requests and 8,192 tokens some megabytes in about a
    tenth of a second. `max_tokens`, `max_more_tokens` and `max_batch` lay out one row or column
    more at the first call for each B or S, in about a millisecond; `prepare` does so beforehand.
    """

    deployment: str
    sla_ms: float
    risk: float
    max_batch_size: int
    max_total_tokens: int
    fingerprint: str
    quantum: float
    accuracy: Accuracy
    profiles: Profiles
    pieces: tuple[Piece, ...]

    def __repr__(self) -> str:
        return (
            f"Gate({self.deployment}, P(latency > {self.sla_ms:g} ms) <= {self.risk:g},"
            f" B <= {self.max_batch_size}, S <= {self.max_total_tokens})"
        )

    def p_exceed(self, batch_size: Any, total_tokens: Any, context_tokens: Any) -> Any:
        """P(latency > SLA) of a step.

        Parameters
        ----------
        batch_size, total_tokens, context_tokens : number or array
            B, S and C; arrays broadcast.

        Returns
        -------
        float or array

        Raises
        ------
        InputError
            B is no whole number, B < 1, S < B, C < 0, or a value is no number.
        """
        if not _are_numbers(batch_size, total_tokens, context_tokens):
            return self._arrays.p_exceed(batch_size, total_tokens, context_tokens)
        place = self._place(batch_size, total_tokens, context_tokens)
        if place is None:
            return 1.0
        regime, row, cell, t = place
        powers = np.array((1.0, t, t * t, t * t * t), np.float32)
        maps = powers @ self._layout.cells[regime][row, cell]
        ratio = self._sla / (
            math.exp(maps.item(LOG_A)) + math.exp(maps.item(LOG_B)) * context_tokens
        )
        y = math.log(ratio) if self.profiles.log_scale else ratio - 1.0
        levels = maps[WEIGHTS:] @ self._layout.curves
        if not self._layout.rising:
            levels = np.maximum.accumulate(levels)
        k = int(levels.searchsorted(y, side="right"))
        if k == 0:
            return 1.0
        if k == levels.size:
            return float(self.profiles.probability[-1]) + self.accuracy.pad
        u = (y - levels.item(k - 1)) / max(levels.item(k) - levels.item(k - 1), TINY)
        first, second, third, fourth = self._layout.cubics[k - 1]
        exceedance = first + u * (second + u * (third + u * fourth))
        return min(exceedance + self.accuracy.pad, 1.0)

    def fits(self, batch_size: Any, total_tokens: Any, context_tokens: Any) -> Any:
        """Whether P(latency > SLA) <= risk; arguments and errors as in `p_exceed`."""
        if not _are_numbers(batch_size, total_tokens, context_tokens):
            return self._arrays.fits(batch_size, total_tokens, context_tokens)
        place = self._place(batch_size, total_tokens, context_tokens)
        if place is None:
            return False
        regime, row, cell, t = place
        maps = np.array((1.0, t, t * t, t * t * t)) @ self._layout.limits[regime][row, cell]
        log_a, log_b, limit = maps.tolist()
        least = math.exp(limit) if self.profiles.log_scale else 1.0 + limit
        return self._sla >= least * (math.exp(log_a) + math.exp(log_b) * context_tokens)

    def max_tokens(self, batch_size: int, context_tokens: float) -> int | None:
        """The largest S that fits with B requests and C positions; None where none does.

        Not every smaller S need fit. Errors as in `p_exceed`.
        """
        batch, context = _whole(batch_size, 1), _positions(context_tokens)
        if batch > self.max_batch_size or context > MOST_CONTEXT:
            return None
        best = self._row(batch).last(context)
        return None if best < 0 else batch + best

    def max_more_tokens(
        self, batch_size: int, total_tokens: int, context_tokens: float
    ) -> int | None:
        """The largest n >= 0 such that (B, S + n, C + n) fits; None where none does.

        Each further token attends to itself, which is why the context grows with the tokens. Errors
        as in `p_exceed`.
        """
        batch, context = _whole(batch_size, 1), _positions(context_tokens)
        tokens = _whole(total_tokens, batch)
        if batch > self.max_batch_size or context > MOST_CONTEXT:
            return None
        best = self._row(batch).last_growing(context - tokens)
        return None if batch + best < tokens else batch + best - tokens

    def max_batch(self, total_tokens: int, context_tokens: float) -> int | None:
        """The largest B that fits with S tokens and C positions; None where none does.

        Not every smaller B need fit. Errors as in `p_exceed`.
        """
        tokens, context = _whole(total_tokens, 1), _positions(context_tokens)
        if tokens > self._most_tokens or context > MOST_CONTEXT:
            return None
        best = self._column(tokens).last(context)
        return None if best < 0 else best + 1

    def largest_context(
        self, batch_size: Any, total_tokens: Any
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Largest C with which steps fit: where C > S, and where C <= S.

        Parameters
        ----------
        batch_size, total_tokens : array
            Whole B and S within the range of the gate; they broadcast.

        Returns
        -------
        older, own : array of int
            -1 where there is none. Decode steps (S = B) make no such difference.

        Raises
        ------
        InputError
            A step beyond the range.
        """
        shape = np.broadcast_shapes(np.shape(batch_size), np.shape(total_tokens))
        batch = np.broadcast_to(batch_size, shape).ravel().astype(np.int64)
        tokens = np.broadcast_to(total_tokens, shape).ravel().astype(float)
        inside = (batch >= 1) & (batch <= self.max_batch_size) & (tokens >= batch)
        if not (inside & (tokens <= self.max_total_tokens)).all():
            raise InputError(
                f"got steps with B from {batch.min()} to {batch.max()} and S from {tokens.min():g}"
                f" to {tokens.max():g}, expected 1 <= B <= S, B <= {self.max_batch_size} and"
                f" S <= {self.max_total_tokens}; ask about these"
            )
        beyond = (tokens > self._most_tokens) & (tokens != batch)
        tokens = np.where(beyond, self._most_tokens, tokens)
        decode = tokens == batch
        older = self._arrays.largest_context(np.where(decode, DECODE, OLDER), batch, tokens)
        own = self._arrays.largest_context(np.where(decode, DECODE, OWN), batch, tokens)
        older[~decode & (older <= tokens)] = -1
        own = np.where(decode, own, np.minimum(own, tokens.astype(np.int64)))
        older[beyond], own[beyond] = -1, -1
        return older.reshape(shape), own.reshape(shape)

    def check(self, fingerprint: str) -> None:
        """Refuse to stand for another posterior than the one that was compiled.

        Raises
        ------
        StaleGateError
            The fingerprints differ.
        """
        if fingerprint != self.fingerprint:
            raise StaleGateError(
                f"got a gate of {self.deployment} from posterior {self.fingerprint[:12]}, expected"
                f" posterior {fingerprint[:12]}: the gate is stale; compile it again"
            )

    def prepare(self) -> Self:
        """Lay out everything that first calls would, in some seconds; gives the gate itself."""
        for batch in range(1, self.max_batch_size + 1):
            self._row(batch)
        for tokens in range(1, self._most_tokens + 1):
            self._column(tokens)
        return self

    def to_bytes(self) -> bytes:
        """The gate as `save` writes it."""
        return files.to_bytes(self)

    @classmethod
    def from_bytes(cls, content: bytes, *, source: str = "these bytes") -> Self:
        """A gate from what `to_bytes` gave.

        Raises
        ------
        InputError
            The content is no gate, or of another version.
        """
        fields = files.from_bytes(content, source)
        return cls(**fields | {"accuracy": Accuracy(**fields["accuracy"])})

    def save(self, path: str | Path) -> None:
        """Write the gate to a file, whole or not at all."""
        files.write(Path(path), self.to_bytes())

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """A saved gate.

        Raises
        ------
        InputError
            The file is missing, damaged, or of another version.
        """
        return cls.from_bytes(files.read(Path(path)), source=str(path))

    def __reduce__(self) -> tuple[Callable[[bytes], "Gate"], tuple[bytes]]:
        return Gate.from_bytes, (self.to_bytes(),)

    @cached_property
    def _layout(self) -> Layout:
        level = self.risk - self.accuracy.pad
        return Layout.of(self.pieces, self.profiles, self.max_batch_size, level)

    @cached_property
    def _sla(self) -> float:
        """The limit less the margin."""
        return self.sla_ms / (1.0 + self.accuracy.margin)

    @cached_property
    def _arrays(self) -> ArrayAnswers:
        pad, most = self.accuracy.pad, (self.max_batch_size, self._most_tokens)
        return ArrayAnswers(self._layout, self.profiles, self._sla, pad, *most)

    @cached_property
    def _most_tokens(self) -> int:
        """The largest S of the maps: beyond it no step keeps the SLA."""
        end = max(piece.high for piece in self.pieces)
        return max(min(self.max_total_tokens, math.floor(math.exp(end))), self.max_batch_size)

    @cached_property
    def _rows(self) -> dict[int, Row]:
        return {}

    @cached_property
    def _columns(self) -> dict[int, Column]:
        return {}

    def _row(self, batch: int) -> Row:
        row = self._rows.get(batch)
        if row is None:
            tokens = np.arange(batch, self._most_tokens + 1)
            row = self._rows[batch] = Row(batch, *self.largest_context(batch, tokens))
        return row

    def _column(self, tokens: int) -> Column:
        column = self._columns.get(tokens)
        if column is None:
            batch = np.arange(1, min(tokens, self.max_batch_size) + 1)
            column = self._columns[tokens] = Column(tokens, *self.largest_context(batch, tokens))
        return column

    def _place(
        self, batch_size: float, total_tokens: float, context_tokens: float
    ) -> tuple[int, int, int, float] | None:
        """Regime, row, cell and place within the cell; None beyond the range."""
        # Written so that what is no number fails, too.
        if not (1 <= batch_size <= total_tokens and context_tokens >= 0):
            refuse(batch_size, total_tokens, context_tokens)
        if (
            batch_size > self.max_batch_size
            or total_tokens > self._most_tokens
            or context_tokens > MOST_CONTEXT
        ):
            return None
        batch = int(batch_size)
        if batch != batch_size:
            refuse(batch_size, total_tokens, context_tokens)
        if batch == total_tokens:
            return DECODE, batch - 1, 0, 0.0
        layout, s = self._layout, math.log(total_tokens)
        piece = bisect_right(layout.edges, s, 1, len(layout.edges) - 1) - 1
        low, n_cells = max(layout.edges[piece], layout.log_batch[batch - 1]), layout.n_cells[piece]
        x = (s - low) * n_cells / (layout.edges[piece + 1] - low)
        cell = min(int(x), n_cells - 1)
        regime = OLDER if context_tokens > total_tokens else OWN
        return regime, batch - 1, layout.first[piece] + cell, x - cell


def _are_numbers(*values: Any) -> bool:
    return all(type(value) in _NUMBERS for value in values)


def _whole(value: float, at_least: int) -> int:
    """A whole number of requests or tokens."""
    try:
        whole = int(value)
    except (TypeError, ValueError, OverflowError):
        whole = -1
    if whole < at_least or whole != value:
        raise InputError(
            f"got {value!r}, expected a whole number of at least {at_least}; every request computes"
            " a token, so correct the query"
        )
    return whole


def _positions(context_tokens: float) -> int:
    """Positions, rounded up."""
    try:
        possible = bool(context_tokens >= 0)
    except (TypeError, ValueError):
        possible = False
    if not possible:
        raise InputError(
            f"got context_tokens={context_tokens!r}, expected a number of at least 0; correct the"
            " query"
        )
    return math.ceil(min(context_tokens, 2 * MOST_CONTEXT))
