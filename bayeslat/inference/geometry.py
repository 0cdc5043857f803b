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
from scipy import linalg, optimize
from threadpoolctl import threadpool_limits

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

MAX_NEWTON_STEPS = 20
MIN_GAIN = 0.05
MAX_DAMPING = 1e8
EM_ROUNDS = 4
N_EM_DRAWS = 32
SCALE_STEP = 1e-3
"""Step of the central differences for the curvature in the log-scales."""

MAX_STEP = 10.0
N_AVERAGED_HESSIANS = 8
MIN_INFORMATION = 1e-12
"""Floor of what the data tell of a log-parameter, in place of zero."""

MIN_EIGENVALUE = 0.02
"""Relative floor of the curvature after diagonal scaling."""

one_blas_thread = threadpool_limits.wrap(limits=1, user_api="blas")
"""Matrices of a few hundred rows: BLAS threads cost more than they bring, up to 50 times on a busy
machine, where they wait for each other and for JAX's own."""


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


@one_blas_thread
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
    return _laplace(geometry, y, np.random.default_rng(seed))


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
    stretch = np.sqrt(np.where(values > threshold, values, 1.0))
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
    index = {name: i for i, name in enumerate(parameters)}
    resolution = np.ones_like(start.log_parameters)
    for d in range(w_1.size):
        rows = observations.deployment_index == d
        theta = start.log_parameters[:, d]
        jacobian = _log_jacobian(observations, rows, parameters, w_1[d], theta)
        weight = observations.n_averaged[rows] / np.exp(2.0 * start.log_sigma[d])
        information = (jacobian.T * weight) @ jacobian
        log_sd = {
            name: _own_log_sd(information, variance[:, d], index[name])
            for name in (*STRAIGHTENED, "tau_0", "tau_S")
            if name in index
        }
        log_a = np.log(w_1[d]) - theta[index["P_max"]]
        for name in (name for name in STRAIGHTENED if name in index):
            shift = theta[index["P_max"]] if name == "w_0" else 0.0
            resolution[index[name], d] = np.exp(theta[index[name]] - shift) * log_sd[name]
        log_tau_0 = theta[index["tau_0"]]
        log_floor = np.logaddexp(log_tau_0, log_a - theta[index["k_S"]])
        shares = {"k_S": np.exp(log_tau_0 - log_floor) * log_sd["tau_0"]}
        if "tau_S" in index:
            log_tau_s = theta[index["tau_S"]]
            log_slope = np.logaddexp(log_tau_s, log_a)
            shares["tau_S"] = np.exp(log_tau_s - log_slope) * log_sd["tau_S"]
        for slot, share in shares.items():
            resolution[index[slot], d] = np.clip(share, 1e-3, 1.0)
    return resolution


def _own_log_sd(information: Array, variance: Array, i: int) -> float:
    """Standard deviation of one log-parameter from the data, the others held by their priors."""
    others = np.arange(variance.size) != i
    held = information[np.ix_(others, others)] + np.diag(1.0 / variance[others])
    cross = information[i, others]
    own = information[i, i] - cross @ np.linalg.solve(held, cross)
    return float(1.0 / np.sqrt(np.clip(own, MIN_INFORMATION, None)))


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


def _laplace(geometry: Geometry, y: Array, rng: np.random.Generator) -> Geometry:
    """Alternate between the mode given the scales and the scales given the mode (EM)."""
    free = _free_mask(geometry.density)
    climb = _Climb(geometry, free)
    factor = np.eye(y.size)
    if free.all():
        y = climb(y)
        return geometry.moved(y, _inverse_root(-geometry.hessian(y)))
    scales = _ExpectedScales(geometry, ~free)
    for _ in range(EM_ROUNDS):
        y = climb(y)
        factor[np.ix_(free, free)] = _inverse_root(-geometry.hessian(y)[np.ix_(free, free)])
        noise = rng.standard_normal((N_EM_DRAWS, int(free.sum())))
        cloud = np.tile(y, (N_EM_DRAWS, 1))
        cloud[:, free] += noise @ factor[np.ix_(free, free)].T
        y, factor[np.ix_(~free, ~free)] = scales(cloud, y)
    return geometry.moved(y, factor)


class _ExpectedScales:
    """Scales that maximise the log-prior averaged over a cloud of points, compiled once."""

    def __init__(self, geometry: Geometry, held: NDArray[np.bool_]) -> None:
        self.where = np.flatnonzero(held)

        def loss(scales: jax.Array, points: jax.Array) -> jax.Array:
            moved = points.at[:, self.where].set(scales)
            return -jnp.mean(jax.lax.map(geometry.log_prior, moved))

        self.value_and_gradient = jax.jit(jax.value_and_grad(loss))

    def __call__(self, cloud: Array, y: Array) -> tuple[Array, Array]:
        """Point with the best scales, and the factor of their curvature there."""
        points = jnp.asarray(cloud)

        def loss(scales: Array) -> tuple[float, Array]:
            value, gradient = self.value_and_gradient(jnp.asarray(scales), points)
            return float(value), np.asarray(gradient)

        found = optimize.minimize(
            loss, y[self.where], jac=True, method="BFGS", options={"gtol": 1e-3}
        )
        y = y.copy()
        y[self.where] = found.x
        steps = SCALE_STEP * np.eye(found.x.size)
        curvature = np.array(
            [loss(found.x + step)[1] - loss(found.x - step)[1] for step in steps]
        ) / (2.0 * SCALE_STEP)
        return y, _inverse_root(0.5 * (curvature + curvature.T))


class _Climb:
    """Damped Newton on the free coordinates, compiled once."""

    def __init__(self, geometry: Geometry, free: NDArray[np.bool_]) -> None:
        self.geometry = geometry
        self.free = free
        self.value_and_gradient = jax.jit(
            jax.value_and_grad(lambda y: geometry.log_prior(y) + geometry.log_likelihood(y))
        )
        self.damping = 1e-3

    def __call__(self, y: Array) -> Array:
        """The nearest mode uphill."""
        value, gradient = self.value_and_gradient(jnp.asarray(y))
        for _ in range(MAX_NEWTON_STEPS):
            found = self._improve(y, float(value), np.asarray(gradient)[self.free])
            if found is None:
                return y
            y, new_value, gradient = found
            if new_value - value < MIN_GAIN:
                return y
            value = new_value
        return y

    def _improve(
        self, y: Array, value: float, gradient: Array
    ) -> tuple[Array, jax.Array, jax.Array] | None:
        """One step uphill with as much damping as it takes; None where none helps."""
        curvature = -self.geometry.hessian(y)[np.ix_(self.free, self.free)]
        diagonal = np.diag(np.maximum(np.abs(np.diag(curvature)), 1e-8))
        while self.damping < MAX_DAMPING:
            try:
                factor = linalg.cho_factor(curvature + self.damping * diagonal)
            except linalg.LinAlgError:  # not definite here: more damping makes it so
                self.damping *= 5.0
                continue
            step = linalg.cho_solve(factor, gradient)
            proposal = y.copy()
            proposal[self.free] += step * min(1.0, MAX_STEP / np.abs(step).max())
            new_value, new_gradient = self.value_and_gradient(jnp.asarray(proposal))
            if bool(new_value > value):
                self.damping = max(self.damping * 0.2, 1e-9)
                return proposal, new_value, new_gradient
            self.damping *= 5.0
        return None


def _scaled_eigen(matrix: Array) -> tuple[Array, Array, Array]:
    """Eigendecomposition after diagonal scaling, eigenvalues clipped from below."""
    diagonal = np.abs(np.diag(matrix))
    scale = np.sqrt(np.maximum(diagonal, 1e-8 * diagonal.max()))
    values, vectors = np.linalg.eigh(matrix / np.outer(scale, scale))
    return scale, np.maximum(values, MIN_EIGENVALUE), vectors


def _inverse_root(precision: Array) -> Array:
    """A factor F with F F' = inverse(precision) (after clipping)."""
    scale, values, vectors = _scaled_eigen(precision)
    return (vectors / np.sqrt(values)) @ vectors.T / scale[:, None]
