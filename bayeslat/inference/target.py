"""The posterior as the sampler's coordinates see it, with its derivatives compiled once."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from bayeslat.inference.coordinates import Coordinates
from bayeslat.inference.curvature import blocked_hessian, dense_hessian
from bayeslat.inference.density import FlatDensity

__all__ = ["Target"]

type Array = NDArray[np.float64]


@dataclass(frozen=True)
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

    def value_and_gradient(self, y: Array) -> tuple[float, Array]:
        """Log-posterior and its gradient, shape (dim,)."""
        value, gradient = self._value_and_gradient(jnp.asarray(y))
        return float(value), np.asarray(gradient)

    def hessian(self, y: Array) -> Array:
        """Exact Hessian of the log-posterior, shape (dim, dim)."""
        return self._hessian(y)

    @cached_property
    def _value_and_gradient(self) -> Callable[[jax.Array], tuple[jax.Array, jax.Array]]:
        return jax.jit(jax.value_and_grad(self.log_posterior))

    @cached_property
    def _hessian(self) -> Callable[[Array], Array]:
        prior = dense_hessian(self.log_prior)
        likelihood = blocked_hessian(self.log_likelihood, self._groups())
        return lambda y: np.asarray(prior(jnp.asarray(y))) + likelihood(jnp.asarray(y))

    def _groups(self) -> Array:
        """Deployment of each coordinate; -1 shared by the rows, -2 not seen by the likelihood."""
        n_parameters, n_deployments = self.density.shapes["log_parameters"]
        groups = np.full(self.dim, -2)
        for name, where in self.density.slices().items():
            if name == "log_parameters":
                groups[where] = np.tile(np.arange(n_deployments), n_parameters)
            elif name == "log_sigma":
                groups[where] = np.arange(n_deployments)
            elif name.startswith("nu_"):
                groups[where] = -1
        return groups
