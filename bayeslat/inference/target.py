"""The posterior as the sampler's coordinates see it, with its derivatives compiled once."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, Final, Self

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from bayeslat.inference.arrow import ArrowFactor
from bayeslat.inference.coordinates import Coordinates
from bayeslat.inference.curvature import Derivatives, derivatives
from bayeslat.inference.density import FlatDensity
from bayeslat.inference.shear import Shear
from bayeslat.inference.structure import SCALE_SUFFIX, Structure

__all__ = ["Target"]

type Array = NDArray[np.float64]
type Index = NDArray[np.int64]
type Maps = tuple[Coordinates, Shear | None, tuple[Array, ...]]


PROGRAMS: Final = ("log_posterior_of", "_flatten_draws", "_prior", "_likelihood", "_bending")
"""What is compiled once and serves every target of one density, whatever its maps and data."""

MANY_DEPLOYMENTS: Final = 16
"""From so many on it pays to compile the prior once more, for products that hold the scales."""

_shift = jax.jit(Shear.shift)
_shear_derivatives = jax.jit(Shear.derivatives)


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
    shear : Shear, optional
        How far the weights of the discrepancy follow the quantities.
    data : tuple of array
        What was observed, where the likelihood of the density takes it.
    """

    density: FlatDensity
    coordinates: Coordinates
    structure: Structure
    shear: Shear | None = None
    data: tuple[Array, ...] = ()

    @property
    def dim(self) -> int:
        """Length of y."""
        return self.density.dim

    def flatten(self, y: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Coordinates y to the model's flat vector, with the log-determinant."""
        straight, log_jacobian = self._unsheared(y)
        if self.shear is None:
            return straight, log_jacobian
        where = self.density.slices()["discrepancy"]
        theta = straight[self.density.slices()["quantities"]]
        shift = self.shear.shift(theta.reshape(self.density.shapes["quantities"]))
        return straight.at[where].add(-shift.T.ravel()), log_jacobian

    def _unsheared(self, y: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The quantities out of their coordinates, elementwise."""
        block = self.density.slices()["quantities"]
        shape = self.density.shapes["quantities"]
        theta, log_jacobian = self.coordinates.to_quantities(y[block].reshape(shape))
        return jnp.concatenate([y[: block.start], theta.ravel(), y[block.stop :]]), log_jacobian

    def moved(self, **changes: Any) -> Self:
        """The same density in other coordinates or with other data; nothing compiled is lost.

        Parameters
        ----------
        coordinates, shear, data
            As of the class.
        """
        target = replace(self, **changes)
        target.__dict__.update({name: getattr(self, name) for name in PROGRAMS})
        return target

    @property
    def maps(self) -> Maps:
        """What programs take as data: coordinates, shear and observations."""
        return self.coordinates, self.shear, self.data

    def _at(self, maps: Maps) -> Self:
        coordinates, shear, data = maps
        return replace(self, coordinates=coordinates, shear=shear, data=data)

    def compile(self) -> None:
        """Compile what takes longest, the Hessians of prior and likelihood."""
        self._prior(self.density.initial)
        self._likelihood(self.density.initial, *self.data)

    def log_prior(self, y: jax.Array) -> jax.Array:
        """Log-prior of y, Jacobian included."""
        flat, log_jacobian = self.flatten(y)
        return self.density.prior(flat) + log_jacobian

    def log_likelihood(self, y: jax.Array) -> jax.Array:
        """Log-likelihood of y."""
        return self.density.likelihood(self.flatten(y)[0], *self.data)

    def log_posterior(self, y: jax.Array) -> jax.Array:
        """Log-posterior of y up to a constant, Jacobian included."""
        flat, log_jacobian = self.flatten(y)
        return self.density.prior(flat) + self.density.likelihood(flat, *self.data) + log_jacobian

    def log_posterior_at(self, centre: jax.Array, factor: ArrowFactor, u: jax.Array) -> jax.Array:
        """Log-posterior of y = centre + factor u."""
        return self.log_posterior(centre + factor.apply(u))

    @cached_property
    def log_posterior_of(self) -> Callable[..., jax.Array]:
        """`log_posterior_at` with the maps as its first argument."""
        return lambda maps, *rest: self._at(maps).log_posterior_at(*rest)

    def flat_draws(self, draws: Array) -> Array:
        """Draws of y, shape (chain, draw, dim), to draws of the model's flat vector."""
        return np.asarray(self._flatten_draws(self.maps, draws))

    @cached_property
    def _flatten_draws(self) -> Callable[..., jax.Array]:
        def flatten(maps: Maps, y: jax.Array) -> jax.Array:
            return self._at(maps).flatten(y)[0]

        over_draws = jax.vmap(jax.vmap(flatten, in_axes=(None, 0)), in_axes=(None, 0))
        return jax.jit(over_draws)

    def derivatives(self, y: Array) -> Derivatives:
        """Log-posterior, its gradient and its exact Hessian, dense."""
        prior, likelihood = self._parts(y)
        found = prior.plus(likelihood)
        return found._replace(hessian=found.hessian.toarray())

    def averaged(self, points: Array) -> tuple[Array, Array]:
        """Gradient and definite precision (minus the Hessian), averaged over points.

        Parameters
        ----------
        points : array, shape (point, dim)
            Coordinates y.

        Returns
        -------
        tuple of array
            Shapes (dim,) and (dim, dim); the precision as `Structure.definite` makes it.
        """
        found = [self._parts(y) for y in points]
        gradient = np.mean([prior.gradient + data.gradient for prior, data in found], axis=0)
        prior, likelihood = (sum(part[i].hessian for part in found) / -len(found) for i in (0, 1))
        return gradient, self.structure.definite(prior.toarray(), likelihood.toarray())

    def _parts(self, y: Array) -> tuple[Derivatives, Derivatives]:
        """Prior and likelihood in the coordinates; what bends the coordinates is in the second.

        So the first has the Hessian of a Gaussian wherever the model's prior is one.
        """
        straight, slope, bend, log_jacobian, jacobian_gradient, jacobian_bend = self._bending(
            self.maps, y
        )
        parts = self._through_shear(straight)
        gradient = parts[0].gradient + parts[1].gradient
        stretch = sparse.diags_array(slope)
        prior, likelihood = (
            Derivatives(part.value, part.gradient * slope, stretch @ part.hessian @ stretch)
            for part in parts
        )
        of_map = Derivatives(
            log_jacobian, jacobian_gradient, sparse.diags_array(bend * gradient + jacobian_bend)
        )
        return prior, likelihood.plus(of_map)

    def _through_shear(self, straight: Array) -> tuple[Derivatives, Derivatives]:
        """Prior and likelihood in quantities and sheared weights."""
        if self.shear is None:
            return self._prior(straight), self._likelihood(straight, *self.data)
        where = np.arange(self.dim)[self.density.slices()["discrepancy"]]
        weights = where.reshape(self.density.shapes["discrepancy"]).T
        where = np.arange(self.dim)[self.density.slices()["quantities"]]
        quantities = where.reshape(self.density.shapes["quantities"]).T
        theta = jnp.asarray(straight[quantities.T])
        flat = straight.copy()
        flat[weights] -= np.asarray(_shift(self.shear, theta))
        prior, likelihood = self._prior(flat), self._likelihood(flat, *self.data)
        force = (prior.gradient + likelihood.gradient)[weights]
        slope, bend = map(np.asarray, _shear_derivatives(self.shear, theta, jnp.asarray(force)))
        moves = sparse.eye_array(self.dim, format="csr") - self._blocks(weights, quantities, slope)
        prior, likelihood = (
            Derivatives(part.value, moves.T @ part.gradient, moves.T @ part.hessian @ moves)
            for part in (prior, likelihood)
        )
        bends = self._blocks(quantities, quantities, bend)
        likelihood = likelihood._replace(hessian=likelihood.hessian - bends)
        return prior, likelihood

    def _blocks(self, rows: Index, columns: Index, entries: Array) -> sparse.csr_array:
        """A matrix of one block a deployment; rows and columns of shape (deployment, n)."""
        where = np.broadcast_arrays(rows[:, :, None], columns[:, None, :])
        at = tuple(each.ravel() for each in where)
        return sparse.csr_array((entries.ravel(), at), shape=(self.dim, self.dim))

    @cached_property
    def _prior(self) -> Callable[..., Derivatives]:
        if self.density.shapes["quantities"][-1] < MANY_DEPLOYMENTS:
            return derivatives(self.density.prior, self.structure.prior)
        dear = [name for name in self.density.names if name.endswith(SCALE_SUFFIX)]
        held = np.zeros(self.dim, dtype=bool)
        for name in dear:
            held[self.density.slices()[name]] = True
        given = partial(self.density.prior, held=dear)
        return derivatives(self.density.prior, self.structure.prior, held=held, given=given)

    @cached_property
    def _likelihood(self) -> Callable[..., Derivatives]:
        return derivatives(self.density.likelihood, self.structure.likelihood)

    @cached_property
    def _bending(self) -> Callable[..., tuple[Array, Array, Array, float, Array, Array]]:
        """The flat vector with its slope and bend, and the log-determinant with the same of it.

        The map is elementwise, so a product with ones is a diagonal.
        """
        ones = jnp.ones(self.dim)

        @jax.jit
        def bending(maps: Maps, y: jax.Array) -> tuple[jax.Array, ...]:
            unsheared = self._at(maps)._unsheared

            def slope(y: jax.Array) -> jax.Array:
                return jax.jvp(lambda y: unsheared(y)[0], (y,), (ones,))[1]

            log_jacobian = jax.value_and_grad(lambda y: unsheared(y)[1])
            first, bend = jax.jvp(slope, (y,), (ones,))
            (value, gradient), (_, second) = jax.jvp(log_jacobian, (y,), (ones,))
            return unsheared(y)[0], first, bend, value, gradient, second

        def as_arrays(maps: Maps, y: Array) -> tuple[Array, Array, Array, float, Array, Array]:
            found = [np.asarray(part) for part in bending(maps, jnp.asarray(y))]
            flat, first, bend, value, *of_jacobian = found
            gradient, second = of_jacobian
            return flat, first, bend, float(value), gradient, second

        return as_arrays
