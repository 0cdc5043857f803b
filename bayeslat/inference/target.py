"""The posterior as the sampler's coordinates see it, with its derivatives compiled once."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, reduce

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from bayeslat.inference.coordinates import Coordinates
from bayeslat.inference.curvature import IGNORED, SHARED, Derivatives, derivatives
from bayeslat.inference.density import FlatDensity

__all__ = ["Target"]

type Array = NDArray[np.float64]

ONE_PROGRAM_DIM = 32
"""Up to this many coordinates, compiling two programs costs more than the products they save."""


@dataclass(frozen=True, eq=False)  # compiled programs are found again by identity
class Target:
    """Log-posterior of y, the model's value variables with the log-parameters in coordinates.

    Parameters
    ----------
    density : FlatDensity
        The model's own log-density.
    coordinates : Coordinates
        Map of the log-parameters.
    """

    density: FlatDensity
    coordinates: Coordinates

    @property
    def dim(self) -> int:
        """Length of y."""
        return self.density.dim

    def flatten(self, y: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Coordinates y to the model's flat vector, with the log-determinant."""
        block = self.density.slices()["log_parameters"]
        shape = self.density.shapes["log_parameters"]
        theta, log_jacobian = self.coordinates.to_log_parameters(y[block].reshape(shape))
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

    def log_posterior_at(self, centre: jax.Array, factor: jax.Array, u: jax.Array) -> jax.Array:
        """Log-posterior of y = centre + factor u."""
        return self.log_posterior(centre + factor @ u)

    def derivatives(self, y: Array) -> Derivatives:
        """Log-posterior, its gradient and its exact Hessian."""
        first, *others = (part(y) for part in self._parts)
        return reduce(Derivatives.plus, others, first)

    @cached_property
    def _parts(self) -> list[Callable[[Array], Derivatives]]:
        """Compiled summands of the log-posterior: one program where that compiles sooner."""
        everywhere = np.full(self.dim, SHARED)
        if self.dim <= ONE_PROGRAM_DIM:
            return [derivatives(self.log_posterior, everywhere)]
        return [
            derivatives(self.log_prior, everywhere),
            derivatives(self.log_likelihood, self._groups()),
        ]

    def _groups(self) -> NDArray[np.int64]:
        """Deployment of each coordinate, as the likelihood sees it."""
        n_parameters, n_deployments = self.density.shapes["log_parameters"]
        groups = np.full(self.dim, IGNORED)
        for name, where in self.density.slices().items():
            if name == "log_parameters":
                groups[where] = np.tile(np.arange(n_deployments), n_parameters)
            elif name == "log_sigma":
                groups[where] = np.arange(n_deployments)
            elif name.startswith("nu_"):
                groups[where] = SHARED
        return groups
