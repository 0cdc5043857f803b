"""The exceedance as a few smooth functions of (B, S), and how they are laid out to be read fast.

At fixed (B, S) latency is a + b C. With a and b the posterior means, y = SLA / (a + b C) - 1 says
how far the SLA is from the expected latency (log(SLA / (a + b C)) where the noise is on the log
scale), and the exceedance falls in y along a curve of its own: y_k(B, S) is where it has the level
p_k. The curves of all (B, S) are combinations of a few
`Profiles`, so that a mixture of thousands of draws becomes a handful of smooth maps: log a, log b
and the weights of the profiles. Each map is a Chebyshev series over log S and over
log B / (log of the largest B possible at S), piece by piece between the token counts at which
smoothness ends, and once for each regime: decode steps (S = B), steps that compute prompts and
attend to older positions (C > S), and those that do not (C <= S).

To be read, the series are laid out as cubics over log S, for every whole B (`Layout`).
"""

import math
from dataclasses import dataclass
from typing import Final, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

__all__ = ["DECODE", "LOG_A", "LOG_B", "OLDER", "OWN", "WEIGHTS", "Layout", "Piece", "Profiles"]

type Array = NDArray[np.float64]

DECODE, OLDER, OWN = range(3)
"""Regimes: S = B; S > B with C > S; S > B with C <= S."""

LOG_A, LOG_B, WEIGHTS = range(3)
"""Maps: log a, log b, and from WEIGHTS on the weights of the profiles."""

CELL: Final = 0.1
"""Width in log S of a cubic: latency changes its course on the scale of one, or two thirds."""

STENCIL: Final = 4
"""Nodes through which a cubic goes."""


class Piece(NamedTuple):
    """Series of the maps between two token counts.

    Parameters
    ----------
    regime : int
        DECODE, OLDER or OWN.
    low, high : float
        Bounds of log S; of decode steps that is log B.
    series : array, shape (order in log S, order in the share of log B, map)
        Chebyshev coefficients, both coordinates taken to [-1, 1].
    """

    regime: int
    low: float
    high: float
    series: Array

    def values(self, log_tokens: Array, share: Array) -> Array:
        """The maps at points, shape (..., map); `share` is log B over the largest possible."""
        n_tokens, n_share, n_maps = self.series.shape
        x = (2.0 * log_tokens - self.low - self.high) / (self.high - self.low)
        along = np.polynomial.chebyshev.chebvander(x, n_tokens - 1)
        across = np.polynomial.chebyshev.chebvander(2.0 * share - 1.0, n_share - 1)
        inner = along @ self.series.reshape(n_tokens, n_share * n_maps)
        inner = inner.reshape(*inner.shape[:-1], n_share, n_maps)
        return np.einsum("...t,...tm->...m", across, inner)


class Profiles(NamedTuple):
    """Curves of exceedance over y, which every (B, S) combines.

    Parameters
    ----------
    probability, density, variate : array, shape (level,)
        Levels of exceedance, falling, with the density and the place at which a standard variate
        has them: y follows it nearly linearly, so that between two levels the exceedance is the
        cubic through both with these slopes.
    curves : array, shape (profile, level)
        The y of each level is a weighted sum of these.
    log_scale : bool
        Whether y is the logarithm of SLA / expected latency, or that less one.
    """

    probability: Array
    density: Array
    variate: Array
    curves: Array
    log_scale: bool

    def at(self, probability: float) -> Array:
        """Curves at any level, held between the first and the last, shape (profile,)."""
        probability = min(max(probability, self.probability[-1]), self.probability[0])
        cell = int(np.searchsorted(-self.probability[1:-1], -probability, side="right"))
        first, *rest = self.cubics[cell]
        roots = np.roots([*rest[::-1], first - probability])
        inside = roots[np.abs(roots.imag) < 1e-9].real
        place = inside[np.argmin(np.abs(inside - 0.5))]
        return (1.0 - place) * self.curves[:, cell] + place * self.curves[:, cell + 1]

    @property
    def cubics(self) -> Array:
        """Coefficients of the exceedance between neighbouring levels, shape (level - 1, 4)."""
        left, right = self.probability[:-1], self.probability[1:]
        apart, rise = np.diff(self.variate), right - left
        d_left, d_right = -self.density[:-1] * apart, -self.density[1:] * apart
        return np.stack(
            [left, d_left, 3.0 * rise - 2.0 * d_left - d_right, d_left + d_right - 2.0 * rise],
            axis=1,
        )


@dataclass(frozen=True)
class Layout:
    """Cubics over log S of every map, for every whole B.

    Parameters
    ----------
    edges : list of float
        Bounds of the pieces of prompts, in log S.
    n_cells, first : list of int
        Cells of each piece, and the number of its first.
    log_batch : list of float
        log B, by B - 1.
    cells : tuple of array, each shape (B, cell, 4, map)
        By regime; powers of the place within a cell from 0 to 1. Decode steps have one cell. Single
        precision is a ten-millionth of a latency, and takes half the time to fetch.
    limits : tuple of array, each shape (B, cell, 4, 3)
        The same for log a, log b and the least y at which the risk is kept.
    curves : array, shape (profile, level)
        Of the profiles, in single precision as well.
    cubics : list of list of float
        Exceedance between neighbouring levels.
    rising : bool
        Whether the y of the levels rise in every cell; where they do not, the answers see to it.
    """

    edges: list[float]
    n_cells: list[int]
    first: list[int]
    log_batch: list[float]
    cells: tuple[NDArray[np.float32], ...]
    limits: tuple[Array, ...]
    curves: NDArray[np.float32]
    cubics: list[list[float]]
    rising: bool

    @classmethod
    def of(
        cls, pieces: tuple[Piece, ...], profiles: Profiles, max_batch_size: int, level: float
    ) -> Self:
        """Lay series out.

        Parameters
        ----------
        pieces, profiles
            What `bayeslat.gate.Gate` holds.
        max_batch_size : int
            Largest B.
        level : float
            Exceedance up to which a step fits.
        """
        log_batch = np.log(np.arange(1, max_batch_size + 1))
        of_prompts = [piece for piece in pieces if piece.regime == OLDER]
        n_cells = [max(STENCIL - 1, math.ceil((p.high - p.low) / CELL)) for p in of_prompts]
        by_regime = {DECODE: _decode_cells(pieces, log_batch)}
        for regime in (OLDER, OWN):
            own = [piece for piece in pieces if piece.regime == regime]
            parts = [
                _cells(piece, log_batch, n) for piece, n in zip(own, n_cells, strict=bool(own))
            ]
            by_regime[regime] = np.concatenate(parts, axis=1) if parts else by_regime[OLDER]
        cells = tuple(by_regime[regime] for regime in (DECODE, OLDER, OWN))
        return cls(
            [piece.low for piece in of_prompts] + [of_prompts[-1].high],
            n_cells,
            np.concatenate([[0], np.cumsum(n_cells)[:-1]]).astype(int).tolist(),
            log_batch.tolist(),
            tuple(one.astype(np.float32) for one in cells),
            tuple(_limits(one, profiles.at(level)) for one in cells),
            profiles.curves.astype(np.float32),
            profiles.cubics.tolist(),
            all(_rise(one, profiles.curves) for one in cells),
        )


def _decode_cells(pieces: tuple[Piece, ...], log_batch: Array) -> Array:
    """Constants, shape (B, 1, 4, map)."""
    found = [piece for piece in pieces if piece.regime == DECODE]
    which = np.searchsorted([piece.low for piece in found[1:]], log_batch, side="right")
    cells = np.zeros((log_batch.size, 1, STENCIL, found[0].series.shape[2]))
    for k, piece in enumerate(found):
        at = log_batch[which == k]
        cells[which == k, 0, 0] = piece.values(at, np.zeros_like(at))
    return cells


def _cells(piece: Piece, log_batch: Array, n_cells: int) -> Array:
    """Cubics of one piece, shape (B, n_cells, 4, map), from log B on where that lies within."""
    low = np.clip(log_batch, piece.low, piece.high)[:, None]
    at = low + (piece.high - low) * np.linspace(0.0, 1.0, n_cells + 1)
    largest = np.minimum(at, log_batch[-1])
    share = np.minimum(log_batch[:, None] / np.maximum(largest, 1e-300), 1.0)
    values = piece.values(at, share)
    cells = np.empty((log_batch.size, n_cells, STENCIL, values.shape[-1]))
    for cell in range(n_cells):
        start = min(max(cell - 1, 0), n_cells + 1 - STENCIL)
        powers = np.vander(np.arange(STENCIL) + float(start - cell), increasing=True)
        cells[:, cell] = np.linalg.inv(powers) @ values[:, start : start + STENCIL]
    return cells


def _rise(cells: Array, curves: Array) -> bool:
    """Whether the levels rise at the beginning and the middle of every cell, well apart."""
    apart = np.diff(curves, axis=1)
    for powers in ([1.0, 0.0, 0.0, 0.0], [1.0, 0.5, 0.25, 0.125]):
        weights = np.einsum("p,bcpm->bcm", powers, cells[..., WEIGHTS:])
        if any((row @ apart).min() <= 0.0 for row in weights):
            return False
    return True


def _limits(cells: Array, curve: Array) -> Array:
    limit = cells[..., WEIGHTS:] @ curve
    return np.concatenate([cells[..., :WEIGHTS], limit[..., None]], axis=-1)
