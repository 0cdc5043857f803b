"""The posterior as the sampler's coordinates see it, with its derivatives compiled once."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, reduce

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from bayeslat.inference.arrow import ArrowFactor
from bayeslat.inference.coordinates import Coordinates
from bayeslat.inference.curvature import SHARED, Derivatives, derivatives
from bayeslat.inference.density import FlatDensity
from bayeslat.inference.structure import Structure

__all__ = ["Target"]

type Array = NDArray[np.float64]

ONE_PROGRAM_DIM = 32
"""Up to this many coordinates, compiling two programs costs more than the products they save."""


@dataclass(frozen=True, eq=False)  # compiled programs are found again by identity
class Target:
    """Log-posterior of y, the model's value variables with the quantities in coordinates.

    Parameters
    ----------
    density : FlatDensity
        The model's own log-density.
    coordinates : Coordinates
        Map of the pooled quantities.
    structure : Structure
        Which coordinates meet in prior and likelihood.
    """

    density: FlatDensity
    coordinates: Coordinates
    structure: Structure

    @property
    def dim(self) -> int:
        """Length of y."""
        return self.density.dim

    def flatten(self, y: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Coordinates y to the model's flat vector, with the log-determinant."""
        block = self.density.slices()["quantities"]
        shape = self.density.shapes["quantities"]
        theta, log_jacobian = self.coordinates.to_quantities(y[block].reshape(shape))
        return jnp.concatenate([y[: block.start], theta.ravel(), y[block.stop :]]), log_jacobian

    def log_prior(self, y: jax.Array) -> jax.Array:
        """Log-prior of y, Jacobian included."""
        flat, log_jacobian = self.flatten(y)
        return self.density.prior(flat) + log_jacobian

    def log_likelihood(self, y: jax.Array) -> jax.Array:
        """Log-likelihood of y."""
        return self.density.likelihood(self.flatten(y)[0])

    def log_posterior(self, y: jax.Array) -> jax.Array:
        """Log-posterior of y up to a constant, Jacobian included."""
        flat, log_jacobian = self.flatten(y)
        return self.density.prior(flat) + self.density.likelihood(flat) + log_jacobian

    def log_posterior_at(self, centre: jax.Array, factor: ArrowFactor, u: jax.Array) -> jax.Array:
        """Log-posterior of y = centre + factor u."""
        return self.log_posterior(centre + factor.apply(u))

    def derivatives(self, y: Array) -> Derivatives:
        """Log-posterior, its gradient and its exact Hessian."""
        first, *others = (part(y) for part in self._parts)
        return reduce(Derivatives.plus, others, first)

    @cached_property
    def _parts(self) -> list[Callable[[Array], Derivatives]]:
        """Compiled summands of the log-posterior: one program where that compiles sooner."""
        if self.dim <= ONE_PROGRAM_DIM:
            return [derivatives(self.log_posterior, np.full(self.dim, SHARED))]
        return [
            derivatives(self.log_prior, self.structure.prior),
            derivatives(self.log_likelihood, self.structure.likelihood),
        ]
