"""What the formula misses: a smooth relative discrepancy of low rank, as plain array functions.

The latency of a step is T exp(delta), with delta a Gaussian process of mean zero over log S and the
prefill share h = 1 - B / S: its kernel is a squared exponential in both, so that decode steps and
prefills have curves of their own. Restricted to `centres` Z it is linear in few weights,
delta(x) = phi(x) w with phi(x) = k(x, Z) L^-T and L L' = k(Z, Z), and w has the same prior variance
in every direction. What the centres do not reach, 1 - |phi(x)|^2 of the prior variance, is added
as independent noise (the fully independent training conditional of Snelson and Ghahramani, 2006,
"Sparse Gaussian processes using pseudo-inputs"): near data almost nothing, far away all of it, so
that the formula rules there while the interval widens.

Beyond the token counts that were measured of a deployment nothing bounds how far it strays: caches,
links and kernels have limits of which a formula knows nothing. There the latency has an unknown
power more, exp(p log(S / S_max)) above the largest measured S and likewise below the least, with p
normal around zero. It is one wherever data are, so no data tell p and no fit needs it.
"""

import json
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray
from scipy import linalg, special

from bayeslat.saturation import prefill_share

__all__ = ["LENGTH_SCALES", "MAX_CENTRES", "Basis", "Discrepancy", "basis_for", "unknown_powers"]

type Array = NDArray[np.float64]

LENGTH_SCALES: Final = (0.7, 0.5)
"""Length scales in log S (a factor of two in tokens) and in the prefill share."""

MAX_CENTRES: Final = 24
"""Most features of a discrepancy."""

MAX_MISSING: Final = 0.1
"""Centres are added until no measured design point, rounded to the grid, misses more variance."""

POWER_SPREAD: Final = 0.1
"""Standard deviation of the unknown power beyond the measured token counts: seven per cent of the
latency for twice as many."""

GRID: Final = 0.05
"""Design points nearer than this, in both coordinates, count as one."""

JITTER: Final = 1e-8

CHUNK: Final = 4096
"""Points whose kernel is held in memory at once, beside the features themselves."""


@dataclass(frozen=True, eq=False)
class Basis:
    """Features of the discrepancy.

    Parameters
    ----------
    centres : array, shape (feature, 2)
        Where the process is held by weights: log S and prefill share.
    length_scales : tuple of float
        Of log S and the prefill share.
    """

    centres: Array
    length_scales: tuple[float, float] = LENGTH_SCALES

    @property
    def size(self) -> int:
        """Number of features."""
        return len(self.centres)

    @cached_property
    def whitening(self) -> Array:
        """L^-T, shape (feature, feature): one product a query, where a solve checks and copies."""
        covariance = _kernel(self.centres, self.centres, self.length_scales)
        factor = np.linalg.cholesky(covariance + JITTER * np.eye(self.size))
        return linalg.solve_triangular(factor, np.eye(self.size), lower=True).T

    def features(self, batch_size: Any, total_tokens: Any) -> Array:
        """Features phi of design points, shape (point, feature).

        Parameters
        ----------
        batch_size, total_tokens : array, shape (point,)
            B and S.
        """
        points = _coordinates(batch_size, total_tokens)
        if len(points) <= CHUNK:
            return _kernel(points, self.centres, self.length_scales) @ self.whitening
        result = np.empty((len(points), self.size))
        for start in range(0, len(points), CHUNK):
            part = slice(start, start + CHUNK)
            kernel = _kernel(points[part], self.centres, self.length_scales)
            np.matmul(kernel, self.whitening, out=result[part])
        return result

    def correlations(self, batch_size: Any, total_tokens: Any) -> Array:
        """Correlations of the process at design points with the centres, shape (point, feature)."""
        points = _coordinates(batch_size, total_tokens)
        return _kernel(points, self.centres, self.length_scales)

    def interpolation(self, batch_size: Any, total_tokens: Any) -> Array:
        """What maps values at the centres to those at design points, shape (point, feature)."""
        return self.features(batch_size, total_tokens) @ self.whitening.T

    def missing(self, features: Array) -> Array:
        """Share of the prior variance that the features miss, from their last axis."""
        return np.clip(1.0 - np.square(features).sum(axis=-1), 0.0, 1.0)

    def to_json(self) -> str:
        """The basis as JSON."""
        return json.dumps(
            {"centres": self.centres.tolist(), "length_scales": list(self.length_scales)}
        )

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what `to_json` wrote."""
        content = json.loads(text)
        centres = np.array(content["centres"], dtype=float).reshape(-1, 2)
        return cls(centres, tuple(content["length_scales"]))


@dataclass(frozen=True, eq=False)
class Discrepancy:
    """Joint draws of the discrepancy of one deployment.

    Parameters
    ----------
    basis : Basis
        Features of a design point.
    weights : array, shape (draw, feature)
        Of the features: delta = phi . weights, on the scale of log latency.
    scale : array, shape (draw,)
        Prior standard deviation of delta, which the missing share of the variance is a share of.
    power : array, shape (draw,), optional
        Unknown power of the latency beyond the measured token counts; zero where not given.
    reach : tuple of float
        Least and largest token count that was measured.
    """

    basis: Basis
    weights: Array
    scale: Array
    power: Array | None = None
    reach: tuple[float, float] = (1.0, np.inf)

    def take(self, draws: Any) -> Self:
        """The draws of these indices."""
        power = None if self.power is None else self.power[draws]
        return replace(self, weights=self.weights[draws], scale=self.scale[draws], power=power)

    def features(self, batch_size: Any, total_tokens: Any) -> Array:
        """Features of design points, shape (point, feature), as `loadings` takes them.

        Parameters
        ----------
        batch_size, total_tokens : array, shape (point,)
            B and S.
        """
        features = self.basis.features(batch_size, total_tokens)
        if self.power is None:
            return features
        tokens = np.asarray(total_tokens, dtype=float)
        beyond = np.log(tokens / np.clip(tokens, *self.reach))
        return np.column_stack([features, beyond])

    def missing(self, features: Array) -> Array:
        """Share of the prior variance that the features of a point miss."""
        return self.basis.missing(features[..., : self.basis.size])

    @property
    def loadings(self) -> Array:
        """What the features are multiplied with, shape (draw, feature)."""
        if self.power is None:
            return self.weights
        return np.column_stack([self.weights, self.power])


def unknown_powers(n: int, *, seed: int) -> Array:
    """Draws of the unknown power, shape (n,): quantiles of its normal in a random order."""
    levels = (np.arange(n) + 0.5) / n
    return POWER_SPREAD * special.ndtri(np.random.default_rng(seed).permutation(levels))


def basis_for(
    batch_size: Array,
    total_tokens: Array,
    *,
    length_scales: tuple[float, float] = LENGTH_SCALES,
) -> Basis:
    """Centres that cover measured design points, by pivoted Cholesky.

    Points are rounded to `GRID` first, so the bound `MAX_MISSING` is that of a measured point's
    neighbour on the grid. `MAX_CENTRES` comes first where both cannot be kept.

    Parameters
    ----------
    batch_size, total_tokens : array, shape (row,)
        B and S of the measured steps.
    length_scales : tuple of float
        Of log S and the prefill share.
    """
    points = np.unique(np.round(_coordinates(batch_size, total_tokens) / GRID) * GRID, axis=0)
    missing = np.ones(len(points))
    factor = np.zeros((len(points), MAX_CENTRES))
    chosen: list[int] = []
    while len(chosen) < min(MAX_CENTRES, len(points)) and missing.max() > MAX_MISSING:
        pivot = int(np.argmax(missing))
        column = _kernel(points, points[pivot : pivot + 1], length_scales)[:, 0]
        column = (column - factor @ factor[pivot]) / np.sqrt(missing[pivot])
        factor[:, len(chosen)] = column
        missing = np.maximum(missing - np.square(column), 0.0)
        chosen.append(pivot)
    return Basis(points[chosen], length_scales)


def _coordinates(batch_size: Any, total_tokens: Any) -> Array:
    """Coordinates of the process, shape (point, 2)."""
    batch, tokens = np.asarray(batch_size, float), np.asarray(total_tokens, float)
    return np.stack([np.log(tokens), prefill_share(batch, tokens)], axis=-1)


def _kernel(left: Array, right: Array, length_scales: tuple[float, float]) -> Array:
    """Correlations, shape (left, right)."""
    log_tokens, share = (
        (left[:, axis, None] - right[:, axis]) / length_scales[axis] for axis in (0, 1)
    )
    return np.exp(-0.5 * (log_tokens * log_tokens + share * share))
