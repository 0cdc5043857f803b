"""How to walk through the posterior: identified coordinates and a fixed linear map.

The sampler sees u in y = centre + factor u, and y maps to the model's own value variables through
`Coordinates`. Both maps are bijections and their Jacobians are accounted for, so they change the
walk and never the posterior.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Self

import jax
import jax.numpy as jnp
import numpy as np
import pymc as pm
from jax.tree_util import Partial
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from bayeslat.discrepancy import Basis
from bayeslat.inference.arrow import ArrowFactor
from bayeslat.inference.coordinates import Coordinates
from bayeslat.inference.density import flat_density
from bayeslat.inference.gaussian import nearest_gaussian
from bayeslat.inference.mode import climb
from bayeslat.inference.resolution import term_resolution
from bayeslat.inference.shear import Shear, shear_at
from bayeslat.inference.starts import ROBUST_NU, Start, starting_points
from bayeslat.inference.structure import SCALE_SUFFIX, structure_of
from bayeslat.inference.target import Target
from bayeslat.model.likelihood import NU_OFFSET
from bayeslat.observations import Observations

__all__ = ["Geometry", "gaussian_geometry", "model_target", "recentred"]

type Array = NDArray[np.float64]

ROUGH_ROUNDS = 14
"""Rounds towards the nearest Gaussian before the weights of a discrepancy are sheared there."""

N_AVERAGED_HESSIANS = 8
"""Pilot draws whose Hessians are averaged."""

one_blas_thread = threadpool_limits.wrap(limits=1, user_api="blas")
"""Matrices of a few hundred rows: BLAS threads cost more than they bring, up to 50 times on a busy
machine, where they wait for each other and for JAX's own."""


@dataclass(frozen=True)
class Geometry:
    """A bijection from the sampler's vector u to the model's value variables.

    Parameters
    ----------
    target : Target
        The log-posterior of y.
    centre : array, shape (dim,)
        Point y at u = 0.
    factor : ArrowFactor
        Linear map from u to y - centre.
    """

    target: Target
    centre: Array
    factor: ArrowFactor

    @property
    def dim(self) -> int:
        """Length of u."""
        return self.centre.size

    @property
    def log_density(self) -> Callable[[jax.Array], jax.Array]:
        """Log-posterior of u up to a constant: what a sampler walks on.

        A function with its centre and factor as data, so that programs compiled for one map serve
        for every other map of the same target; where the target takes data, for every other target
        of the same density.
        """
        linear = jax.tree.map(jnp.asarray, (self.centre, self.factor))
        if not self.target.data:  # constants: a gradient then costs two thirds
            return Partial(self.target.log_posterior_at, *linear)
        maps = jax.tree.map(jnp.asarray, self.target.maps)
        return Partial(self.target.log_posterior_of, maps, *linear)

    def to_coordinates(self, draws: Array) -> Array:
        """Draws of u, shape (..., dim), to coordinates y."""
        return self.centre + self.factor.map(draws)

    def to_values(self, draws: Array) -> dict[str, Array]:
        """Draws of u, shape (chain, draw, dim), to draws of the value variables by name."""
        return self.target.density.split(self.target.flat_draws(self.to_coordinates(draws)))

    def moved(self, centre: Array, factor: ArrowFactor) -> Self:
        """The same coordinates with another centre and linear map."""
        return replace(self, centre=centre, factor=factor)


def model_target(
    model: pm.Model,
    quantities: tuple[str, ...],
    stack: NDArray[np.int64],
    *,
    takes_data: bool = False,
) -> Target:
    """The posterior of a model, in coordinates of unit size.

    Parameters
    ----------
    model, quantities, stack
        As of `gaussian_geometry`.
    takes_data : bool
        Whether the target takes what was observed as its ``data``; with ``moved(data=...)`` one
        compiled target then serves every data set of the same design.
    """
    density = flat_density(model, takes_data=takes_data)
    coordinates = Coordinates(quantities, np.ones(density.shapes["quantities"]))
    return Target(density, coordinates, structure_of(model, density, stack))


@one_blas_thread
def gaussian_geometry(
    model: pm.Model,
    observations: Observations,
    quantities: tuple[str, ...],
    w_1: Array,
    stack: NDArray[np.int64],
    *,
    mean: Array,
    variance: Array,
    basis: Basis | None = None,
    target: Target | None = None,
    seed: int,
) -> Geometry:
    """Centre and whiten with the Gaussian nearest to the posterior.

    Parameters
    ----------
    model : pymc.Model
        A model of `bayeslat.model.build`.
    observations : Observations
        The rows that the model was built with.
    quantities : tuple of str
        Names along the first axis of the variable ``quantities``.
    w_1 : array, shape (deployment,)
        The gauge.
    stack : array of int, shape (deployment,)
        Software stack of each deployment.
    mean, variance : array, shape (quantity, deployment)
        Marginal prior of the quantities, for the starts.
    basis : Basis, optional
        Features of the discrepancy, where the model has one.
    target : Target, optional
        From `model_target`, with the latencies of these rows in the order of the model's rows;
        made of the model by default.
    seed : int
        Seed of the starts and of the cloud that the Gaussian is fitted with.
    """
    target = target or model_target(model, quantities, stack)
    with ThreadPoolExecutor(1) as pool:  # a compiler leaves other cores alone
        compiling = pool.submit(target.compile)
        start = starting_points(observations, quantities, w_1, mean, np.sqrt(variance), seed=seed)
        resolution = term_resolution(observations, quantities, w_1, start, variance, basis)
        compiling.result()
    target = target.moved(coordinates=Coordinates(quantities, resolution))
    y = climb(target, _initial_coordinates(target, start), _free_in_climb(target))
    rng = np.random.default_rng([seed, 1])  # the starts have taken the seed itself
    if basis is not None:
        y, _ = nearest_gaussian(target, y, rng, rounds=ROUGH_ROUNDS)
        shear = _shear(target, y, observations, quantities, w_1, basis)
        target = target.moved(shear=shear)
    centre, factor = nearest_gaussian(target, y, rng)
    return Geometry(target, centre, factor)


def _shear(
    target: Target,
    y: Array,
    observations: Observations,
    quantities: tuple[str, ...],
    w_1: Array,
    basis: Basis,
) -> Shear:
    flat = np.asarray(target.flatten(jnp.asarray(y))[0])
    where = target.density.slices()
    return shear_at(
        observations,
        quantities,
        w_1,
        basis,
        theta=flat[where["quantities"]].reshape(target.density.shapes["quantities"]),
        log_sigma=flat[where["log_sigma"]],
        slopes=flat[where["log_sigma_slopes"]].reshape(target.density.shapes["log_sigma_slopes"]),
    )


@one_blas_thread
def recentred(geometry: Geometry, draws: Array) -> Geometry:
    """Centre at the pilot mean and whiten with the Hessian averaged over pilot draws.

    Parameters
    ----------
    geometry : Geometry
        The map that the pilot was sampled with.
    draws : array, shape (chain, draw, dim)
        Pilot draws of u.
    """
    y = geometry.to_coordinates(draws).reshape(-1, geometry.dim)
    pick = np.linspace(0, len(y) - 1, N_AVERAGED_HESSIANS).astype(int)
    _, precision = geometry.target.averaged(y[pick])
    factor = geometry.target.structure.layout.factor(precision)
    centre = y.mean(axis=0)
    return geometry.moved(
        centre, factor.stretched(_pilot_directions(factor.whitened(y - centre).T))
    )


def _pilot_directions(white: Array) -> Array:
    """Stretch the directions in which whitened pilot draws, shape (dim, draw), are clearly wide."""
    dim, n = white.shape
    values, vectors = np.linalg.eigh(np.cov(white))
    threshold = 1.2 * (1.0 + np.sqrt(dim / n)) ** 2
    stretch = np.sqrt(np.where(values > threshold, values, 1.0))
    return (vectors * stretch) @ vectors.T


def _initial_coordinates(target: Target, start: Start) -> Array:
    y = target.density.initial.copy()
    where = target.density.slices()
    y[where["quantities"]] = target.coordinates.from_quantities(start.quantities).ravel()
    y[where["log_sigma"]] = start.log_sigma
    if "nu_excess_log__" in where:  # with which the noise was measured
        y[where["nu_excess_log__"]] = np.log(ROBUST_NU - NU_OFFSET)
    if "log_sigma_mean" in where:
        y[where["log_sigma_mean"]] = np.mean(start.log_sigma)
    return y


def _free_in_climb(target: Target) -> NDArray[np.bool_]:
    """All but pooling scales and noise.

    Their joint mode with what they scale lies far towards zero, the more so the more coordinates
    share few rows.
    """
    free = np.ones(target.dim, dtype=bool)
    for name, where in target.density.slices().items():
        if name.endswith(SCALE_SUFFIX) or name.startswith("log_sigma"):
            free[where] = False
    return free
