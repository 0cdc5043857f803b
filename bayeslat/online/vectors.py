"""Draws of one deployment as vectors in which their posterior is nearly Gaussian.

A vector holds the pooled quantities (logarithms and logits), log noise and its slopes, the
logarithm of nu - 3, the weights of the discrepancy and the unknown power beyond the measured
token counts: everything that decides a deployment's latency.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from bayeslat.model.likelihood import NU_OFFSET
from bayeslat.model.quantities import from_parameters, to_parameters
from bayeslat.model.spec import ModelSpec
from bayeslat.noise import FAMILIES, NOISE_FEATURES
from bayeslat.predictive import DeploymentDraws

__all__ = ["Gaussian", "Layout", "from_vectors", "layout_of", "moments", "to_vectors"]

type Array = NDArray[np.float64]


@dataclass(frozen=True)
class Layout:
    """What the coordinates of a vector are.

    Parameters
    ----------
    quantities : tuple of str
        Pooled quantities, first in the vector; log noise and its slopes follow.
    family : str
        Noise family; where it has a shape parameter log(nu - 3) is next.
    n_loadings : int
        Weights of the discrepancy and the unknown power; last in the vector.
    """

    quantities: tuple[str, ...]
    family: str
    n_loadings: int

    @property
    def has_shape(self) -> bool:
        """Whether a vector holds log(nu - 3)."""
        return FAMILIES[self.family].has_shape

    @property
    def log_sigma(self) -> int:
        """Place of log noise; its slopes follow."""
        return len(self.quantities)

    @property
    def slopes(self) -> slice:
        """Places of the slopes of log noise."""
        return slice(self.log_sigma + 1, self.log_sigma + 1 + len(NOISE_FEATURES))

    @property
    def loadings(self) -> slice:
        """Places of the weights of the discrepancy and the unknown power."""
        start = self.slopes.stop + self.has_shape
        return slice(start, start + self.n_loadings)

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return self.loadings.stop

    def quantities_of(self, x: Any) -> Mapping[str, Any]:
        """Quantities by name, from vectors of shape (..., dim)."""
        return {name: x[..., i] for i, name in enumerate(self.quantities)}


def layout_of(draws: DeploymentDraws, spec: ModelSpec) -> Layout:
    """Coordinates of the draws of a spec."""
    n_loadings = 0 if draws.discrepancy is None else draws.discrepancy.loadings.shape[1]
    return Layout(spec.quantities, draws.family, n_loadings)


def to_vectors(draws: DeploymentDraws, layout: Layout) -> Array:
    """Draws as vectors, shape (draw, dim)."""
    quantities = from_parameters(draws.parameters)
    x = np.empty((draws.n_draws, layout.dim))
    for place, name in enumerate(layout.quantities):
        x[:, place] = quantities[name]
    x[:, layout.log_sigma] = np.log(draws.sigma)
    x[:, layout.slopes] = 0.0 if draws.slopes is None else draws.slopes
    if layout.has_shape:
        x[:, layout.slopes.stop] = np.log(draws.nu - NU_OFFSET)
    if draws.discrepancy is not None:
        x[:, layout.loadings] = draws.discrepancy.loadings
    return x


def from_vectors(x: Array, layout: Layout, like: DeploymentDraws) -> DeploymentDraws:
    """Inverse of `to_vectors`.

    Parameters
    ----------
    x : array, shape (draw, dim)
        Vectors.
    layout : Layout
        Their coordinates.
    like : DeploymentDraws
        Draws of the same deployment: its gauge, the basis and the scale of its discrepancy.
    """
    n = len(x)
    w_1 = np.full(n, like.parameters["w_1"][0])
    nu = np.full(n, np.inf)
    if layout.has_shape:
        nu = NU_OFFSET + np.exp(x[:, layout.slopes.stop])
    missed = like.discrepancy
    if missed is not None:
        loadings, power = x[:, layout.loadings], None
        if missed.power is not None:
            loadings, power = loadings[:, :-1], loadings[:, -1]
        scale = np.full(n, discrepancy_scale(like))
        missed = replace(missed, weights=loadings, scale=scale, power=power)
    return DeploymentDraws(
        like.deployment,
        to_parameters(layout.quantities_of(x), w_1),
        np.exp(x[:, layout.log_sigma]),
        nu,
        like.family,
        x[:, layout.slopes],
        missed,
    )


def discrepancy_scale(draws: DeploymentDraws) -> float:
    """One standard deviation of the discrepancy for all draws: the root of the mean variance."""
    if draws.discrepancy is None:
        return 0.0
    return float(np.sqrt(np.square(draws.discrepancy.scale).mean()))


@dataclass(frozen=True, eq=False)
class Gaussian:
    """A normal distribution of vectors.

    Parameters
    ----------
    mean : array, shape (dim,)
        Its centre.
    covariance : array, shape (dim, dim)
        Its covariance.
    """

    mean: Array
    covariance: Array

    def widened(self, more: Array) -> Self:
        """The same centre, with more covariance."""
        return replace(self, covariance=self.covariance + more)

    def tempered(self, power: float) -> Self:
        """The density to a power."""
        return replace(self, covariance=self.covariance / power)


def moments(x: Array) -> Gaussian:
    """The normal distribution with the mean and covariance of vectors, shape (draw, dim)."""
    covariance = np.cov(x, rowvar=False)
    # What all draws agree on, to the last bit, has no covariance to be inverted.
    covariance[np.diag_indices_from(covariance)] += 1e-12
    return Gaussian(x.mean(axis=0), covariance)
