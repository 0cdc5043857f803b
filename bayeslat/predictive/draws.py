"""Posterior draws of one deployment, in the layout that the compiled kernels read."""

import hashlib
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from bayeslat.discrepancy import Discrepancy
from bayeslat.noise import FAMILIES, NOISE_FEATURES, NoiseFamily, noise_features
from bayeslat.predictive.kernels import (
    locate,
    log_densities,
    ppf_mean,
    sf_draws,
    sf_mean,
    tail_table,
    tiled,
)
from bayeslat.schema import PARAMETERS, Deployment

__all__ = ["DeploymentDraws", "Points"]

type Array = NDArray[np.float64]

_NEUTRAL = {"k_B": np.inf, "m_S": 1.0, "r_F": 1.0, "r_B": 1.0, "r_C": 1.0}
"""Values that switch a term off; zero for every other parameter."""

BLOCK: Final = 2048
"""Points that are handled at once by one thread: enough to make its start cheap."""


@dataclass(frozen=True, eq=False)
class Points:
    """Flat design points, each shape (point,).

    Parameters
    ----------
    batch_size, total_tokens, context_tokens : array, shape (point,)
        B, S, C of the queries.
    n_averaged : array, shape (point,), or float
        Steps whose mean the latency is.
    """

    batch_size: Array
    total_tokens: Array
    context_tokens: Array
    n_averaged: Any = 1.0

    def __post_init__(self) -> None:
        if np.ndim(self.n_averaged) == 0:
            object.__setattr__(self, "n_averaged", np.full(self.size, float(self.n_averaged)))

    @property
    def size(self) -> int:
        """Number of points."""
        return self.batch_size.size

    def __getitem__(self, where: Any) -> "Points":
        return Points(
            self.batch_size[where],
            self.total_tokens[where],
            self.context_tokens[where],
            self.n_averaged[where],
        )

    def by_averaged(self) -> "list[tuple[float, Any]]":
        """Each number of averaged steps with the place of its points."""
        first = self.n_averaged[:1]
        if (self.n_averaged == first).all():
            return [(float(n), slice(None)) for n in first]
        return [(float(n), self.n_averaged == n) for n in np.unique(self.n_averaged)]

    def chunks(self, size: int) -> "Iterator[tuple[slice, Points]]":
        """The points in pieces of at most `size`."""
        for start in range(0, self.size, size):
            part = slice(start, start + size)
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
    slopes : array, shape (draw, feature), optional
        How log noise follows `bayeslat.noise.NOISE_FEATURES`; not at all where not given.
    discrepancy : Discrepancy, optional
        What the formula misses; nothing where not given.

    Notes
    -----
    At a point whose latency is the mean of n steps, a draw has the location and the relative
    scale ::

        mu    = T exp(delta),    delta = features . loadings
        sigma = sqrt(sigma^2 exp(2 slopes . noise features) / n + missing scale^2)

    The noise averages out, the discrepancy does not: it is the same for each of the n steps. The
    degrees of freedom of n steps add up to n nu, as those of independent variances do
    (Satterthwaite, 1946). A mean of lognormal steps is nearer to a normal than its family says.
    """

    deployment: Deployment
    parameters: dict[str, Array]
    sigma: Array
    nu: Array
    family: str
    slopes: Array | None = None
    discrepancy: Discrepancy | None = None

    @property
    def n_draws(self) -> int:
        """Number of draws."""
        return self.sigma.size

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the draws and of what they are draws of."""
        found = hashlib.sha256(f"{self.deployment.label} {self.family}".encode())
        columns, weights, n_draws, _ = self._formula
        of_discrepancy: list[Any] = []
        if self.discrepancy is not None:
            of_discrepancy = [self.discrepancy.basis.centres, self.discrepancy.reach]
        for values in (n_draws, columns, weights, self.nu, *of_discrepancy):
            found.update(np.ascontiguousarray(values, dtype=float).tobytes())
        return found.hexdigest()

    @property
    def noise(self) -> NoiseFamily:
        """The noise family."""
        return FAMILIES[self.family]

    def thin(self, n: int) -> Self:
        """At most `n` draws, evenly spaced."""
        if self.n_draws <= n:
            return self
        return self.take(np.linspace(0, self.n_draws - 1, n).astype(int))

    def take(self, pick: Any) -> Self:
        """The draws of these indices, in their order and as often as they occur."""
        taken = type(self)(
            self.deployment,
            {name: values[pick] for name, values in self.parameters.items()},
            self.sigma[pick],
            self.nu[pick],
            self.family,
            None if self.slopes is None else self.slopes[pick],
            None if self.discrepancy is None else self.discrepancy.take(pick),
        )
        if "_tail" in self.__dict__:  # a table takes longer than most of what it is asked
            taken.__dict__["_tail"] = self._tail[pick]
        return taken

    def location(self, points: Points) -> Array:
        """Latency mu in milliseconds without the noise of a step, shape (draw, point)."""
        return self.location_and_scale(points)[0]

    def location_and_scale(self, points: Points) -> tuple[Array, Array]:
        """Latency mu in milliseconds and relative scale sigma, each of shape (draw, point)."""
        mu, sigma = locate(*self._formula, *self._steps(points))
        return mu.T, sigma.T

    def shape(self, points: Points) -> Array:
        """Degrees of freedom at points, shape (draw, point)."""
        return self.nu[:, None] * points.n_averaged

    def sf_mean(self, t_ms: Array, points: Points) -> Array:
        """P(T > t) of the mixture at each point, shape (point,)."""
        # A tabulated tail may lie a rounding beyond its ends.
        return np.clip(self._in_blocks(sf_mean, t_ms, points), 0.0, 1.0)

    def sf_draws(self, t_ms: Array, points: Points) -> Array:
        """P(T > t) in each draw, shape (draw, point)."""
        result = np.empty((self.n_draws, points.size))
        for n, where in points.by_averaged():
            part = points[where]
            found = sf_draws(*self._formula, *self._steps(part), *self.tables(n), t_ms[where])
            result[:, where] = found.T
        return np.clip(result, 0.0, 1.0, out=result)

    def log_density(self, t_ms: Array, points: Points) -> Array:
        """Log density of a latency in each draw, 1/ms, shape (draw, point)."""
        result = np.empty((self.n_draws, points.size))
        for n, where in points.by_averaged():
            part = points[where]
            dof = np.ascontiguousarray(n * self.nu, dtype=float)
            constant = self.noise.standard_logpdf(np.zeros(1), dof) * np.ones_like(dof)
            noise = dof, constant, self.noise.log_scale
            found = log_densities(*self._formula, *self._steps(part), *noise, t_ms[where])
            result[:, where] = found.T
        return result

    def ppf_mean(self, q: Array, points: Points) -> Array:
        """Quantile of the mixture at each point, shape (point,).

        The relative error is that of the tabulated probabilities: the search itself adds less than
        1e-8.
        """
        order = np.argsort(q, kind="stable")  # searches for one q help each other
        result = np.empty(points.size)
        result[order] = self._in_blocks(ppf_mean, q[order], points[order])
        return result

    def ppf_draws(self, q: Array, points: Points) -> Array:
        """Quantile in each draw, shape (draw, point)."""
        mu, sigma = self.location_and_scale(points)
        scaled = np.empty_like(sigma)
        for n, where in points.by_averaged():
            levels, index = np.unique(q[where], return_inverse=True)
            standard = self.noise.standard_ppf(levels, n * self.nu[:, None])
            scaled[:, where] = sigma[:, where] * standard[..., index]
        return mu * (np.exp(scaled) if self.noise.log_scale else np.maximum(1.0 + scaled, 0.0))

    def _in_blocks(self, kernel: Callable[..., Array], values: Array, points: Points) -> Array:
        """A kernel's answers block by block, on every core where there are several blocks."""
        formula, result = self._formula, np.empty(points.size)
        blocks = []
        for n, where in points.by_averaged():
            noise = self.tables(n)
            if points.size <= BLOCK:
                part = points[where]
                result[where] = kernel(*formula, *self._steps(part), *noise, values[where])
            else:
                order = np.arange(points.size)[where]
                blocks += [(noise, order[i : i + BLOCK]) for i in range(0, order.size, BLOCK)]

        def answer(block: tuple[tuple[Array, bool], NDArray[np.int64]]) -> None:
            noise, where = block
            part = points[where]
            result[where] = kernel(*formula, *self._steps(part), *noise, values[where])

        if blocks:
            with ThreadPoolExecutor(_cores()) as pool:
                list(pool.map(answer, blocks))
        return result

    def _steps(self, points: Points) -> tuple[Array, Array]:
        """Rows of the steps and features of the discrepancy, as the kernels read them."""
        design = points.batch_size, points.total_tokens
        features, missing = np.empty((points.size, 0)), np.zeros(points.size)
        if self.discrepancy is not None:
            features = self.discrepancy.features(*design)
            missing = self.discrepancy.missing(features)
        of_noise = noise_features(*design).T
        rows = *design, points.context_tokens, points.n_averaged, missing, *of_noise
        return np.array(rows), features

    @cached_property
    def _formula(self) -> tuple[Array, Array, int, bool]:
        """The draws in tiles, weights of the discrepancy too; how many, and if a knee is sharp."""
        own = {name: self.parameters.get(name, _NEUTRAL.get(name, 0.0)) for name in PARAMETERS}
        slopes = (
            np.zeros((self.n_draws, len(NOISE_FEATURES))) if self.slopes is None else self.slopes
        )
        logs = [np.log(values) for values in (own["k_S"], own["r_F"], own["r_B"])]
        weights, scale = np.empty((0, self.n_draws)), np.zeros(self.n_draws)
        if self.discrepancy is not None:
            weights, scale = self.discrepancy.loadings.T, self.discrepancy.scale
        rows = [np.broadcast_to(row, self.n_draws) for row in (*own.values(), *logs, *slopes.T)]
        columns = np.stack([*rows, self.sigma, scale], dtype=float)
        sharp = bool(np.any(own["m_S"] != 1.0))
        return tiled(columns), tiled(weights), self.n_draws, sharp

    def tables(self, n_averaged: float = 1.0) -> tuple[Array, bool]:
        """Table of the noise's tail as the kernels read it, and whether it is on the log scale."""
        if n_averaged == 1.0:
            return self._tail, self.noise.log_scale
        nu = np.ascontiguousarray(n_averaged * self.nu, dtype=float)
        return _tables(self.family, nu.tobytes()), self.noise.log_scale

    @cached_property
    def _tail(self) -> Array:
        """Table of the tail of a single step's noise."""
        nu = np.ascontiguousarray(self.nu, dtype=float)
        return _tables(self.family, nu.tobytes())


def _cores() -> int:
    """Cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)  # not on every system
    return len(affinity(0)) if affinity else os.cpu_count() or 1


@lru_cache(maxsize=4)
def _tables(family: str, nu: bytes) -> Array:
    """Table of the noise's tail; deployments of one fleet share their nu and so their table."""
    return tail_table(FAMILIES[family], np.frombuffer(nu))
