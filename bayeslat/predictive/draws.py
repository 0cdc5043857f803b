"""Posterior draws of one deployment, in the layout that the compiled kernels read."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from bayeslat import saturation
from bayeslat.noise import FAMILIES, NoiseFamily
from bayeslat.predictive.kernels import ppf_mean, sf_draws, sf_few, sf_mean, tail_table
from bayeslat.schema import PARAMETERS, Deployment

__all__ = ["DeploymentDraws", "Points"]

type Array = NDArray[np.float64]

_NEUTRAL = {"k_B": np.inf}
"""Values that switch a term off; zero for every other parameter."""


FEW: Final = 16
"""Up to so many points, looking for repeated values costs more than it saves."""

BLOCK: Final = 2048
"""Points that share one pass over the draws: their buffers stay in the cache."""


@dataclass(frozen=True, eq=False)
class Points:
    """Flat design points, each shape (point,): B, S, C of the queries."""

    batch_size: Array
    total_tokens: Array
    context_tokens: Array

    @property
    def size(self) -> int:
        """Number of points."""
        return self.batch_size.size

    @property
    def levels(self) -> tuple[Array, NDArray[np.intp], Array, NDArray[np.intp]]:
        """Distinct batch sizes and token counts, each with the index of every point's."""
        return (
            *np.unique(self.batch_size, return_inverse=True),
            *np.unique(self.total_tokens, return_inverse=True),
        )

    def __getitem__(self, where: Any) -> "Points":
        return Points(self.batch_size[where], self.total_tokens[where], self.context_tokens[where])

    def chunks(self, size: int) -> "Iterator[tuple[slice, Points]]":
        """The points in pieces of at most `size`."""
        for start in range(0, self.size, size):
            part = slice(start, start + size)
            yield part, self[part]

    def blocks(self) -> "Iterator[tuple[Any, Points]]":
        """The points in pieces of at most `BLOCK` that share as many token counts as can be."""
        order = np.argsort(self.total_tokens, kind="stable")
        for start in range(0, self.size, BLOCK):
            part = order[start : start + BLOCK]
            yield part, self[part]


@dataclass(frozen=True, eq=False)
class DeploymentDraws:
    """Joint draws of what decides one deployment's latency.

    Parameters
    ----------
    deployment : Deployment
        Whose draws these are.
    parameters : dict of str to array, each shape (draw,)
        Parameters of the formula, w_1 included; a missing one is a term that is not in the model.
    sigma : array, shape (draw,)
        Relative noise scale of a single step.
    nu : array, shape (draw,)
        Degrees of freedom; infinite for families without a shape parameter.
    family : str
        Name of the noise family.
    """

    deployment: Deployment
    parameters: dict[str, Array]
    sigma: Array
    nu: Array
    family: str

    @property
    def n_draws(self) -> int:
        """Number of draws."""
        return self.sigma.size

    @property
    def noise(self) -> NoiseFamily:
        """The noise family."""
        return FAMILIES[self.family]

    def thin(self, n: int) -> Self:
        """At most `n` draws, evenly spaced."""
        if self.n_draws <= n:
            return self
        pick = np.linspace(0, self.n_draws - 1, n).astype(int)
        parameters = {name: values[pick] for name, values in self.parameters.items()}
        return type(self)(self.deployment, parameters, self.sigma[pick], self.nu[pick], self.family)

    def location(self, points: Points) -> Array:
        """The formula's latency in milliseconds, shape (draw, point)."""
        columns = {name: values[:, None] for name, values in self.parameters.items()}
        return saturation.latency(
            columns, points.batch_size, points.total_tokens, points.context_tokens
        )

    def sf_mean(self, t_ms: Array, points: Points) -> Array:
        """P(T > t) of the mixture at each point, shape (point,)."""
        if points.size <= FEW:
            return sf_few(*self._mixture, t_ms, *_columns(points))
        result = np.empty(points.size)
        for where, part in points.blocks():
            result[where] = sf_mean(*self._mixture, t_ms[where], *_columns(part), part.levels)
        return result

    def sf_draws(self, t_ms: Array, points: Points) -> Array:
        """P(T > t) in each draw, shape (draw, point)."""
        return sf_draws(*self._mixture, t_ms, *_columns(points), points.levels)

    def ppf_mean(self, q: Array, points: Points) -> Array:
        """Quantile of the mixture at each point, shape (point,)."""
        return ppf_mean(*self._mixture, q, *_columns(points))

    def ppf_draws(self, q: Array, points: Points) -> Array:
        """Quantile in each draw, shape (draw, point)."""
        levels, index = np.unique(q, return_inverse=True)
        z = self.noise.standard_ppf(levels, self.nu[:, None])[:, index]
        scaled = self.sigma[:, None] * z
        mu = self.location(points)
        return mu * (np.exp(scaled) if self.noise.log_scale else np.maximum(1.0 + scaled, 0.0))

    @cached_property
    def _mixture(self) -> tuple[Array, Array, Array, Array, bool]:
        """What the kernels read of the draws, contiguous."""
        columns = [
            np.broadcast_to(self.parameters.get(name, _NEUTRAL.get(name, 0.0)), self.sigma.shape)
            for name in PARAMETERS
        ]
        sigma, nu = (np.ascontiguousarray(values, dtype=float) for values in (self.sigma, self.nu))
        tables = _tables(self.family, nu.tobytes())
        return np.stack(columns, axis=1, dtype=float), sigma, nu, tables, self.noise.log_scale


def _columns(points: Points) -> tuple[Array, Array, Array]:
    return points.batch_size, points.total_tokens, points.context_tokens


@lru_cache(maxsize=4)
def _tables(family: str, nu: bytes) -> Array:
    """Table of the noise's tail; deployments of one fleet share their nu and so their table."""
    return tail_table(FAMILIES[family], np.frombuffer(nu))
