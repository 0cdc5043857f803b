"""Answers of a gate for many steps at once, block by block."""

from dataclasses import dataclass
from typing import Any, Final, NoReturn

import numpy as np
from numpy.typing import NDArray

from bayeslat.errors import InputError
from bayeslat.gate.series import DECODE, LOG_A, LOG_B, OLDER, OWN, WEIGHTS, Layout, Profiles

__all__ = ["MOST_CONTEXT", "TINY", "ArrayAnswers", "refuse"]

type Array = NDArray[np.float64]
type Integers = NDArray[np.int64]

BLOCK: Final = 4096
"""Points that are answered at once, so that what they need stays in the cache."""

TINY: Final = 1e-30
"""Least distance of two levels."""

MOST_CONTEXT: Final = 2**31 - 2**20
"""Positions beyond which a gate answers for nothing."""


@dataclass(frozen=True)
class ArrayAnswers:
    """What `bayeslat.gate.Gate` asks of its layout for arrays.

    Parameters
    ----------
    layout, profiles
        Cubics, and curves of exceedance.
    sla_ms, pad : float
        The limit less the margin, and what is added to every probability.
    most_batch, most_tokens : int
        Largest B and S of the layout; beyond them nothing fits.
    """

    layout: Layout
    profiles: Profiles
    sla_ms: float
    pad: float
    most_batch: int
    most_tokens: int

    def p_exceed(self, batch_size: Any, total_tokens: Any, context_tokens: Any) -> Any:
        """P(latency > SLA), of the broadcast shape."""
        *steps, shape = _together(batch_size, total_tokens, context_tokens)
        return self._in_blocks(self._exceedance, steps, shape)

    def fits(self, batch_size: Any, total_tokens: Any, context_tokens: Any) -> Any:
        """Whether P(latency > SLA) is within the risk, of the broadcast shape."""
        *steps, shape = _together(batch_size, total_tokens, context_tokens)
        return self._in_blocks(self._fit, steps, shape)

    def largest_context(self, regime: Integers, batch: Integers, tokens: Array) -> Integers:
        """Largest whole C at which the risk is kept, -1 where there is none, shape (point,)."""
        log_a, log_b, limit = self._maps(self.layout.limits, regime, batch, tokens).T
        with np.errstate(over="ignore"):
            context = (self.sla_ms / self._least(limit) - np.exp(log_a)) / np.exp(log_b)
        return np.floor(np.clip(context, -1.0, MOST_CONTEXT)).astype(np.int64)

    def _in_blocks(self, answer: Any, steps: list[Array], shape: tuple[int, ...]) -> Any:
        starts = range(0, max(steps[0].size, 1), BLOCK)
        parts = [answer(*self._block(*(v[i : i + BLOCK] for v in steps))) for i in starts]
        return np.concatenate(parts).reshape(shape)[()]

    def _block(
        self, batch: Array, tokens: Array, context: Array
    ) -> tuple[Integers, Integers, Array, Array]:
        """Regimes and steps; those beyond the range are asked about as an endless context."""
        beyond = (batch > self.most_batch) | (tokens > self.most_tokens) | (context > MOST_CONTEXT)
        if beyond.any():
            batch, tokens = np.where(beyond, 1.0, batch), np.where(beyond, 1.0, tokens)
            context = np.where(beyond, np.inf, context)
        regime = np.where(tokens == batch, DECODE, np.where(context > tokens, OLDER, OWN))
        return regime, batch.astype(np.int64), tokens, context

    def _fit(
        self, regime: Integers, batch: Integers, tokens: Array, context: Array
    ) -> NDArray[np.bool_]:
        maps = self._maps(self.layout.limits, regime, batch, tokens)
        return np.asarray(self._ratio(maps, context) >= self._least(maps[:, WEIGHTS]))

    def _exceedance(
        self, regime: Integers, batch: Integers, tokens: Array, context: Array
    ) -> Array:
        maps = self._maps(self.layout.cells, regime, batch, tokens)
        ratio = self._ratio(maps.astype(float), context)
        with np.errstate(divide="ignore"):
            y = np.log(ratio) if self.profiles.log_scale else ratio - 1.0
        weights, curves = maps[:, WEIGHTS:], self.layout.curves
        ends = weights @ curves[:, [0, -1]]
        exceedance = np.where(y < ends[:, 0], 1.0, self.profiles.probability[-1])
        between = np.flatnonzero((y >= ends[:, 0]) & (y < ends[:, 1]))
        levels = weights[between] @ curves
        if not self.layout.rising:
            levels = np.maximum.accumulate(levels, axis=1)
        exceedance[between] = self._between(levels, y[between])
        return np.where(context < np.inf, np.minimum(exceedance + self.pad, 1.0), 1.0)

    def _between(self, levels: NDArray[Any], y: Array) -> Array:
        """Exceedance between the first and the last level; `levels` has shape (point, level)."""
        below = (levels <= y[:, None].astype(levels.dtype)).view(np.uint8)
        k = np.clip(below.sum(axis=1, dtype=np.uint8).astype(np.int64) - 1, 0, levels.shape[1] - 2)
        place = np.arange(k.size)
        left, right = levels[place, k].astype(float), levels[place, k + 1]
        u = np.clip((y - left) / np.maximum(right - left, TINY), 0.0, 1.0)
        first, second, third, fourth = np.array(self.layout.cubics)[k].T
        return np.asarray(first + u * (second + u * (third + u * fourth)))

    def _ratio(self, maps: Array, context: Array) -> Array:
        """SLA over expected latency."""
        return np.asarray(self.sla_ms / (np.exp(maps[:, LOG_A]) + np.exp(maps[:, LOG_B]) * context))

    def _least(self, limit: Array) -> Array:
        """Least SLA over expected latency, from the least y."""
        if self.profiles.log_scale:
            return np.exp(limit)
        return np.maximum(1.0 + limit, 1e-300)

    def _maps(
        self, tables: tuple[NDArray[Any], ...], regime: Integers, batch: Integers, tokens: Array
    ) -> NDArray[Any]:
        """Maps at points, shape (point, map), in the precision of the tables."""
        maps = np.empty((tokens.size, tables[DECODE].shape[-1]), tables[DECODE].dtype)
        decode = regime == DECODE
        maps[decode] = tables[DECODE][batch[decode] - 1, 0, 0]
        for own in (OLDER, OWN):
            where = np.flatnonzero(regime == own)
            if where.size:
                cell, t = self._places(batch[where], tokens[where])
                cubic = tables[own][batch[where] - 1, cell]
                t = t[:, None].astype(cubic.dtype)
                value = (cubic[:, 3] * t + cubic[:, 2]) * t + cubic[:, 1]
                maps[where] = value * t + cubic[:, 0]
        return maps

    def _places(self, batch: Integers, tokens: Array) -> tuple[Integers, Array]:
        """Cells and places within them for S > B, each of shape (point,)."""
        layout, s = self.layout, np.log(tokens)
        edges, n_cells = np.array(layout.edges), np.array(layout.n_cells)
        piece = np.searchsorted(edges[1:-1], s, side="right")
        low = np.maximum(edges[piece], np.array(layout.log_batch)[batch - 1])
        x = np.maximum(s - low, 0.0) * n_cells[piece] / np.maximum(edges[piece + 1] - low, 1e-300)
        cell = np.minimum(x.astype(np.int64), n_cells[piece] - 1)
        return np.array(layout.first)[piece] + cell, x - cell


def _together(batch_size: Any, total_tokens: Any, context_tokens: Any) -> Any:
    """Flat arrays of possible steps, and the shape that they have together."""
    try:
        values = np.broadcast_arrays(
            *(np.asarray(value, float) for value in (batch_size, total_tokens, context_tokens))
        )
    except (TypeError, ValueError) as fault:
        raise InputError(
            f"got arguments that are no numbers or do not broadcast ({fault}), expected B, S and C"
            " as numbers or arrays; correct the query"
        ) from fault
    batch, tokens, context = (value.ravel() for value in values)
    possible = (batch >= 1) & (batch == np.floor(batch)) & (tokens >= batch) & (context >= 0)
    if not possible.all():
        first = int(np.argmin(possible))
        refuse(batch[first], tokens[first], context[first])
    return batch, tokens, context, values[0].shape


def refuse(batch_size: Any, total_tokens: Any, context_tokens: Any) -> NoReturn:
    """Refuse a step that no engine can run.

    Raises
    ------
    InputError
        Always.
    """
    raise InputError(
        f"got batch_size={batch_size}, total_tokens={total_tokens} and"
        f" context_tokens={context_tokens}, expected a whole batch_size >= 1,"
        " total_tokens >= batch_size (every request computes a token) and context_tokens >= 0;"
        " correct the query"
    )
