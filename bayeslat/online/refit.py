"""A conditional refit: draws of one deployment's posterior, under a Gaussian prior, from its rows.

Fisher's scoring finds the mode, and the expected information there the nearest normal distribution.
Mostly that is near enough for importance sampling from a distribution like it with longer tails
(Rubin, 1988, "Using the SIR algorithm"). Where the weights say that it is not, short chains of
Hamiltonian Monte Carlo begin at its draws, in coordinates that it whitens.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import blackjax
import jax
import jax.numpy as jnp
import numpy as np
from arviz_stats.base import array_stats
from numpy.typing import NDArray
from scipy import linalg

from bayeslat.inference.mode import climb
from bayeslat.online.belief import Belief, discounted_likelihood, largest_pareto_k, picked
from bayeslat.online.rows import Rows
from bayeslat.online.rowwise import (
    RowData,
    degrees_of_freedom,
    log_densities,
    log_location,
    log_scale,
    padded_size,
    row_data,
)
from bayeslat.online.vectors import Gaussian, Layout, from_vectors
from bayeslat.predictive import DeploymentDraws

__all__ = ["Refit", "refit"]

type Array = NDArray[np.float64]

PROPOSALS: Final = 4
"""Proposals for each draw: enough for most draws to be of different ones."""

TAILS: Final = 20
"""Degrees of freedom of the proposals: their weights are bounded where the posterior's tails are
normal, and few are wasted."""

AT_ONCE: Final = 256
"""Proposals whose densities are held in memory at once."""

CHAINS: Final = 50
LEAST_EACH: Final = 20
"""Draws that each chain gives, at least: fewer chains where few draws are asked for."""

SETTLING: Final = 16
"""Transitions of each chain before its first draw."""

PATH: Final = 1.8
"""Length of a transition in whitened coordinates: a little more than a quarter of an orbit."""

STEP: Final = 0.3
"""First step; while the chains settle it follows the acceptance."""

STEP_JITTER: Final = (0.7, 1.3)
ACCEPTANCE: Final = 0.85

LEAST_ESS: Final = 0.3
"""Effective share of the draws below which proposals are given up, and chains run on."""

MAX_ROUNDS: Final = 4
"""Sets of proposals, or runs of the chains, each as large as draws commonly need."""


@dataclass(frozen=True, eq=False)
class Refit:
    """What a refit found.

    Parameters
    ----------
    belief : Belief
        Draws, with weights from all rows that count, those held back from the refit too.
    effective_draws : float
        How many draws they are worth, before rows that were held back: of chains, the least over
        the coordinates.
    n_rows : int
        Rows that the draws were taken with.
    """

    belief: Belief
    effective_draws: float
    n_rows: int


def refit(
    prior: Gaussian,
    layout: Layout,
    like: DeploymentDraws,
    rows: Rows,
    used: NDArray[np.bool_],
    *,
    n_seen: int,
    decay: float,
    n_draws: int,
    seed: int,
) -> Refit:
    """Take draws of a deployment's posterior anew.

    Parameters
    ----------
    prior : Gaussian
        Of the vectors.
    layout : Layout
        Their coordinates.
    like : DeploymentDraws
        Draws of the deployment: its gauge, the basis and scale of its discrepancy.
    rows : Rows
        Rows that count.
    used : array of bool, shape (row,)
        Which of them the draws are taken with; the others only move their weights afterwards.
    n_seen, decay
        As in `bayeslat.online.belief.discounted_likelihood`.
    n_draws : int
        Draws to take.
    seed : int
        Seed of the draws.
    """
    learnt = rows[used]
    weights = learnt.discounts(n_seen=n_seen, decay=decay)
    posterior = _Posterior(prior, layout, row_data(learnt, like), weights)
    mode = climb(posterior, np.zeros(layout.dim), np.ones(layout.dim, dtype=bool))
    precision = -posterior.derivatives(mode).hessian
    root = linalg.solve_triangular(np.linalg.cholesky(precision).T, np.eye(layout.dim))
    rng = np.random.default_rng(seed)
    y, effective = _resampled(posterior, mode, root, n_draws, rng)
    if not len(y):
        y, effective = _walk(posterior, mode, root, n_draws, rng)
    draws = from_vectors(posterior.vectors(y), layout, like)

    def likelihood(rows: Rows) -> Array:
        return discounted_likelihood(draws, rows, n_seen=n_seen, decay=decay)

    taken = likelihood(learnt)
    belief = Belief.of(draws, log_taken=taken, n_seen=n_seen)
    belief = belief.judged(taken + likelihood(rows[~used]), n_seen=n_seen)
    return Refit(belief, effective, int(used.sum()))


@dataclass(frozen=True)
class _Derivatives:
    """Of a log posterior; the Hessian is the expected one."""

    value: float
    gradient: Array
    hessian: Array


class _Posterior:
    """Log posterior over y, coordinates that are standard normal under the prior."""

    def __init__(self, prior: Gaussian, layout: Layout, data: RowData, weights: Array) -> None:
        self.layout = layout
        self._centre = prior.mean
        self._factor = np.linalg.cholesky(prior.covariance)
        size = padded_size(weights.size)
        self._data = data.padded(size)
        self._weights = np.pad(weights, (0, size - weights.size))

    @property
    def arguments(self) -> tuple[Any, ...]:
        """What the compiled functions take, beside the layout and the point."""
        return self._centre, self._factor, self._data, self._weights

    def derivatives(self, y: Array) -> _Derivatives:
        """Value, gradient and expected Hessian at y."""
        value, gradient, hessian = _derivatives(self.layout, y, *self.arguments)
        return _Derivatives(float(value), np.asarray(gradient), np.asarray(hessian))

    def log_densities(self, y: Array) -> Array:
        """Log density of points of shape (point, dim), up to a constant; shape (point,)."""
        return np.asarray(_log_posteriors(self.layout, y, *self.arguments))

    def vectors(self, y: Array) -> Array:
        """Vectors of points, each of shape (..., dim)."""
        return self._centre + y @ self._factor.T


def _log_posterior(
    layout: Layout, y: Any, centre: Any, factor: Any, data: RowData, weights: Any
) -> Any:
    found = log_densities(layout, centre + factor @ y, data)
    return jnp.sum(weights * found) - 0.5 * jnp.sum(y * y)


@partial(jax.jit, static_argnums=0)
def _log_posteriors(layout: Layout, y: Any, *arguments: Any) -> Any:
    return jax.lax.map(lambda y: _log_posterior(layout, y, *arguments), y, batch_size=AT_ONCE)


@partial(jax.jit, static_argnums=0)
def _derivatives(
    layout: Layout, y: Any, centre: Any, factor: Any, data: RowData, weights: Any
) -> tuple[Any, Any, Any]:
    arguments = centre, factor, data, weights
    value, gradient = jax.value_and_grad(partial(_log_posterior, layout))(y, *arguments)
    x = centre + factor @ y
    # Expected information of a Student-t about the logarithms of its location and scale (Lange,
    # Little and Taylor, 1989); infinite degrees of freedom give that of the normal.
    excess = 3.0 / degrees_of_freedom(layout, x, data)
    of_location = (1.0 + excess / 3.0) / (1.0 + excess) * jnp.exp(-2.0 * log_scale(layout, x, data))
    information = -jnp.eye(y.size)
    for function, amount in ((log_location, of_location), (log_scale, 2.0 / (1.0 + excess))):
        slope = jax.jacfwd(lambda x, function=function: function(layout, x, data))(x) @ factor
        information -= slope.T @ ((weights * amount)[:, None] * slope)
    return value, gradient, information


@partial(jax.jit, static_argnums=0)
def _transition(
    layout: Layout, z: Any, key: Any, step: Any, n: Any, mode: Any, root: Any, *arguments: Any
) -> tuple[Any, Any]:
    """One transition of every chain, z being y whitened about its mode; and the acceptance."""

    def log_density(z: Any) -> Any:
        return _log_posterior(layout, mode + root @ z, *arguments)

    kernel = blackjax.mcmc.hmc.build_kernel()
    inverse_mass = jnp.ones(z.shape[1])

    def one(key: Any, z: Any, step: Any) -> tuple[Any, Any]:
        state = blackjax.mcmc.hmc.init(z, log_density)
        state, information = kernel(key, state, log_density, step, inverse_mass, n)
        return state.position, information.acceptance_rate

    of_step, of_move = jax.random.split(key)
    low, high = STEP_JITTER
    steps = step * jax.random.uniform(of_step, z.shape[:1], minval=low, maxval=high)
    position, acceptance = jax.vmap(one)(jax.random.split(of_move, z.shape[0]), z, steps)
    return position, jnp.nan_to_num(acceptance).mean()


def _resampled(
    posterior: _Posterior, mode: Array, root: Array, n_draws: int, rng: np.random.Generator
) -> tuple[Array, float]:
    """Draws of y, shape (draw, dim), and how many they are worth: none if weights cannot tell."""
    n, dim = PROPOSALS * n_draws, mode.size
    y, log_ratio = np.empty((0, dim)), np.empty(0)
    for n_rounds in range(1, MAX_ROUNDS + 1):
        z = rng.standard_normal((n, dim)) / np.sqrt(rng.chisquare(TAILS, n) / TAILS)[:, None]
        y = np.concatenate([y, mode + z @ root.T])
        log_proposed = -0.5 * (TAILS + dim) * np.log1p(np.square(z).sum(axis=1) / TAILS)
        log_ratio = np.concatenate([log_ratio, posterior.log_densities(y[-n:]) - log_proposed])
        weights, pareto_k = array_stats.psislw(-log_ratio)
        if not pareto_k <= largest_pareto_k(n):  # a NaN is no trust
            break
        of_weights = 1.0 / np.exp(2.0 * weights).sum()
        effective = float(1.0 / (1.0 / of_weights + 1.0 / n_draws))
        if effective >= LEAST_ESS * n_draws:
            return y[picked(weights, n_draws)], effective
        if of_weights * MAX_ROUNDS / n_rounds < LEAST_ESS * n_draws:  # no hope
            break
    return y[:0], 0.0


def _walk(
    posterior: _Posterior, mode: Array, root: Array, n_draws: int, rng: np.random.Generator
) -> tuple[Array, float]:
    """Draws of y, shape (draw, dim), and how many they are worth."""
    chains = max(min(CHAINS, n_draws // LEAST_EACH), 2)
    z: Any = jnp.asarray(rng.standard_normal((chains, mode.size)))
    step = STEP

    def move(z: Any) -> tuple[Any, float]:
        key, n = jax.random.key(int(rng.integers(2**31))), int(np.ceil(PATH / step))
        position, acceptance = _transition(
            posterior.layout, z, key, step, n, mode, root, *posterior.arguments
        )
        return position, float(acceptance)

    for _ in range(SETTLING):
        z, acceptance = move(z)
        step = float(np.clip(step * np.exp(acceptance - ACCEPTANCE), 0.02, PATH / 2.0))
    found, effective = np.empty(0), 0.0
    for _ in range(MAX_ROUNDS):
        kept = []
        for _ in range(-(-n_draws // chains)):
            z, _ = move(z)
            kept.append(np.asarray(z))
        found = np.stack(kept, axis=1)
        effective = _least_ess(found)
        if effective >= LEAST_ESS * n_draws:
            break
    return (mode + found.reshape(-1, mode.size) @ root.T)[:n_draws], effective


def _least_ess(chains: Array) -> float:
    """Least bulk effective sample size of chains, shape (chain, draw, dim)."""
    by_coordinate = np.moveaxis(chains, -1, 0)
    return float(min(array_stats.ess(each, chain_axis=0, draw_axis=1) for each in by_coordinate))
