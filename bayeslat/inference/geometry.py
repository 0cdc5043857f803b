"""How to walk through the posterior: identified coordinates, joint Laplace, a fixed linear map.

The sampler sees u in y = centre + factor u, and y maps to the model's own value variables through
`Coordinates`. Both maps are bijections and their Jacobians are accounted for, so they change the
walk and never the posterior.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

import jax
import jax.numpy as jnp
import numpy as np
import pymc as pm
from numpy.typing import NDArray

from bayeslat import saturation
from bayeslat.inference.coordinates import STRAIGHTENED, Coordinates
from bayeslat.inference.curvature import blocked_hessian, dense_hessian
from bayeslat.inference.density import FlatDensity, flat_density
from bayeslat.inference.starts import Start, starting_points
from bayeslat.observations import Observations

__all__ = ["Geometry", "laplace_geometry", "recentred"]

type Array = NDArray[np.float64]

SCALE_SUFFIX = "_scale_log__"
"""Value variables of pooling scales: their joint mode with the effects is degenerate (it runs
towards zero scale), so the Laplace step holds them at their start."""

SCALE_PRIOR_SD = 0.4
MAX_NEWTON_STEPS = 25
N_AVERAGED_HESSIANS = 8
MIN_EIGENVALUE = 0.02
"""Relative floor of the curvature after diagonal scaling."""


@dataclass(frozen=True)
class Geometry:
    """A bijection from the sampler's vector u to the model's value variables.

    Parameters
    ----------
    density : FlatDensity
        The model's own log-density.
    coordinates : Coordinates
        Map of the log-parameters.
    centre : array, shape (dim,)
        Point y at u = 0.
    factor : array, shape (dim, dim)
        Linear map from u to y - centre.
    """

    density: FlatDensity
    coordinates: Coordinates
    centre: Array
    factor: Array

    @property
    def dim(self) -> int:
        """Length of u."""
        return self.centre.size

    @cached_property
    def _block(self) -> slice:
        return self.density.slices()["log_parameters"]

    def flatten(self, y: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Coordinates y to the model's flat vector, with the log-determinant."""
        shape = self.density.shapes["log_parameters"]
        theta, log_jacobian = self.coordinates.to_log_parameters(y[self._block].reshape(shape))
        flat = jnp.concatenate([y[: self._block.start], theta.ravel(), y[self._block.stop :]])
        return flat, log_jacobian

    def log_prior(self, y: jax.Array) -> jax.Array:
        """Log-prior of y, Jacobian included."""
        flat, log_jacobian = self.flatten(y)
        return self.density.prior(flat) + log_jacobian

    def log_likelihood(self, y: jax.Array) -> jax.Array:
        """Log-likelihood of y."""
        return self.density.likelihood(self.flatten(y)[0])

    def log_density(self, u: jax.Array) -> jax.Array:
        """Log-posterior of u up to a constant: what a sampler walks on."""
        y = jnp.asarray(self.centre) + jnp.asarray(self.factor) @ u
        flat, log_jacobian = self.flatten(y)
        return self.density.prior(flat) + self.density.likelihood(flat) + log_jacobian

    def to_values(self, draws: Array) -> dict[str, Array]:
        """Draws of u, shape (chain, draw, dim), to draws of the value variables by name."""
        y = self.to_coordinates(draws)
        flat = jax.jit(jax.vmap(jax.vmap(lambda row: self.flatten(row)[0])))(jnp.asarray(y))
        flat = np.asarray(flat)
        return {
            name: flat[..., where].reshape(*flat.shape[:-1], *self.density.shapes[name])
            for name, where in self.density.slices().items()
        }

    def to_coordinates(self, draws: Array) -> Array:
        """Draws of u, shape (..., dim), to coordinates y."""
        return self.centre + draws @ self.factor.T

    @cached_property
    def _hessian(self) -> Callable[[Array], Array]:
        prior = dense_hessian(self.log_prior)
        likelihood = blocked_hessian(self.log_likelihood, self._groups())
        return lambda y: np.asarray(prior(jnp.asarray(y))) + likelihood(jnp.asarray(y))

    def hessian(self, y: Array) -> Array:
        """Exact Hessian of the log-posterior in y, shape (dim, dim)."""
        return self._hessian(y)

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

    def moved(self, centre: Array, factor: Array) -> Self:
        """The same coordinates with another centre and linear map."""
        return replace(self, centre=centre, factor=factor)


def laplace_geometry(
    model: pm.Model,
    observations: Observations,
    parameters: tuple[str, ...],
    w_1: Array,
    *,
    mean: Array,
    variance: Array,
    seed: int,
) -> Geometry:
    """Find the joint mode at the starting scales and whiten with the curvature there.

    Parameters
    ----------
    model : pymc.Model
        A model with the free variables ``log_parameters`` and ``log_sigma``.
    observations : Observations
        The rows that the model was built with.
    parameters : tuple of str
        Names along the first axis of ``log_parameters``.
    w_1 : array, shape (deployment,)
        The gauge.
    mean, variance : array, shape (parameter, deployment)
        Marginal prior of the log-parameters, for the starts.
    seed : int
        Seed of the starts.
    """
    density = flat_density(model)
    start = starting_points(observations, parameters, w_1, mean, np.sqrt(variance), seed=seed)
    resolution = term_resolution(observations, parameters, w_1, start, variance)
    coordinates = Coordinates(parameters, np.log(w_1), resolution)
    y = _initial_coordinates(density, coordinates, start)
    geometry = Geometry(density, coordinates, y, np.eye(y.size))
    mode = _joint_mode(geometry, y)
    return geometry.moved(mode, _laplace_factor(geometry, mode))


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
    precision = -np.mean([geometry.hessian(y[i]) for i in pick], axis=0)
    factor = _inverse_root(precision)
    centre = y.mean(axis=0)
    return geometry.moved(
        centre, factor @ _pilot_directions(np.linalg.solve(factor, (y - centre).T))
    )


def _pilot_directions(white: Array) -> Array:
    """Stretch the directions in which whitened pilot draws, shape (dim, draw), are clearly wide."""
    dim, n = white.shape
    values, vectors = np.linalg.eigh(np.cov(white))
    threshold = 1.2 * (1.0 + np.sqrt(dim / n)) ** 2
    stretch = np.where(values > threshold, np.sqrt(values), 1.0)
    return (vectors * stretch) @ vectors.T


def term_resolution(
    observations: Observations,
    parameters: tuple[str, ...],
    w_1: Array,
    start: Start,
    variance: Array,
) -> Array:
    """The likelihood's own standard deviation of each straightened term, (parameter, deployment).

    Measured at the start, in the term's unit (w_0 over P_max), with the other parameters held by
    their priors only.
    """
    resolution = np.ones_like(start.log_parameters)
    index = {name: i for i, name in enumerate(parameters)}
    for d in range(w_1.size):
        rows = observations.deployment_index == d
        theta = start.log_parameters[:, d]
        jacobian = _log_jacobian(observations, rows, parameters, w_1[d], theta)
        weight = observations.n_averaged[rows] / np.exp(2.0 * start.log_sigma[d])
        information = (jacobian.T * weight) @ jacobian
        for name in (name for name in STRAIGHTENED if name in index):
            i = index[name]
            # Linear in this term, logarithmic with their priors in the others.
            precision = information + np.diag(1.0 / variance[:, d])
            precision[i, i] = information[i, i] * (1.0 + 1e-9) + 1e-12
            log_sd = np.sqrt(max(np.linalg.pinv(precision, hermitian=True)[i, i], 1e-12))
            log_value = theta[i] - (theta[index["P_max"]] if name == "w_0" else 0.0)
            resolution[i, d] = np.exp(log_value) * np.clip(log_sd, 1e-3, 1e3)
    return resolution


def _log_jacobian(
    observations: Observations, rows: Array, parameters: tuple[str, ...], w_1: float, theta: Array
) -> Array:
    """D log T / d log-parameters at theta, shape (row, parameter)."""
    batch, tokens = observations.batch_size[rows], observations.total_tokens[rows]
    context = np.nan_to_num(observations.context_tokens[rows], nan=0.0)

    def log_latency(point: jax.Array) -> jax.Array:
        values = {name: jnp.exp(point[i]) for i, name in enumerate(parameters)}
        return jnp.log(saturation.latency({**values, "w_1": w_1}, batch, tokens, context, xp=jnp))

    return np.asarray(jax.jacfwd(log_latency)(jnp.asarray(theta)))


def _initial_coordinates(density: FlatDensity, coordinates: Coordinates, start: Start) -> Array:
    y = density.initial.copy()
    where = density.slices()
    y[where["log_parameters"]] = coordinates.from_log_parameters(start.log_parameters).ravel()
    y[where["log_sigma"]] = start.log_sigma
    if "log_sigma_mean" in where:
        y[where["log_sigma_mean"]] = np.mean(start.log_sigma)
    return y


def _free_mask(density: FlatDensity) -> NDArray[np.bool_]:
    free = np.ones(density.dim, dtype=bool)
    for name, where in density.slices().items():
        if name.endswith(SCALE_SUFFIX):
            free[where] = False
    return free


def _joint_mode(geometry: Geometry, y: Array) -> Array:
    """Damped Newton on everything but the pooling scales."""
    free = _free_mask(geometry.density)
    value_and_gradient = jax.jit(
        jax.value_and_grad(lambda point: geometry.log_prior(point) + geometry.log_likelihood(point))
    )
    value, gradient = value_and_gradient(jnp.asarray(y))
    damping = 1e-3
    for _ in range(MAX_NEWTON_STEPS):
        curvature = _definite(-geometry.hessian(y)[np.ix_(free, free)])
        improved = False
        while damping < 1e8 and not improved:
            step = np.zeros_like(y)
            damped = curvature + damping * np.diag(np.diag(curvature))
            step[free] = np.linalg.solve(damped, np.asarray(gradient)[free])
            proposal = y + step * min(1.0, 3.0 / np.abs(step).max())
            new_value, new_gradient = value_and_gradient(jnp.asarray(proposal))
            improved = bool(new_value > value)
            damping = damping * (0.2 if improved else 5.0)
        if not improved:
            break
        gain = float(new_value - value)
        y, value, gradient = proposal, new_value, new_gradient
        if gain < 0.05:
            break
    return y


def _laplace_factor(geometry: Geometry, mode: Array) -> Array:
    free = _free_mask(geometry.density)
    factor = np.diag(np.where(free, 1.0, SCALE_PRIOR_SD))
    factor[np.ix_(free, free)] = _inverse_root(-geometry.hessian(mode)[np.ix_(free, free)])
    return factor


def _scaled_eigen(matrix: Array) -> tuple[Array, Array, Array]:
    """Eigendecomposition after diagonal scaling, eigenvalues clipped from below."""
    diagonal = np.abs(np.diag(matrix))
    scale = np.sqrt(np.maximum(diagonal, 1e-8 * diagonal.max()))
    values, vectors = np.linalg.eigh(matrix / np.outer(scale, scale))
    return scale, np.maximum(values, MIN_EIGENVALUE), vectors


def _definite(matrix: Array) -> Array:
    """The nearest matrix, in a diagonally scaled sense, with curvature bounded away from zero."""
    scale, values, vectors = _scaled_eigen(matrix)
    return np.outer(scale, scale) * ((vectors * values) @ vectors.T)


def _inverse_root(precision: Array) -> Array:
    """A factor F with F F' = inverse(precision) (after clipping)."""
    scale, values, vectors = _scaled_eigen(precision)
    return (vectors / np.sqrt(values)) @ vectors.T / scale[:, None]
