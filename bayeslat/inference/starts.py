"""Multi-start least squares: one good point a deployment, before anything joint is tried.

A single start ends in poor local modes now and then (the batch factor can imitate a floor), and
chains that all begin in one mode cannot reveal another. So each deployment is fitted from several
points drawn from its prior, robustly, and the best fit is kept.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from bayeslat import saturation
from bayeslat.model.priors import NOISE_MEAN
from bayeslat.model.quantities import to_parameters
from bayeslat.observations import Observations

__all__ = ["Start", "starting_points"]

type Array = NDArray[np.float64]

N_STARTS = 12
N_STEPS = 60
MAX_ROWS = 256
"""Rows a deployment that the starts look at; the joint fit later sees all."""

ROBUST_NU = 4.0
"""Degrees of freedom of the Student-t loss: bounded influence, still smooth."""

MIN_SIGMA = 2e-3

PRIOR_ROWS = 1.0
"""Rows' worth of typical noise that every deployment begins with: as much as the prior knows.

A handful of rows is fitted exactly, and noise that is measured as nothing lets the next steps of
the way to the posterior overshoot without bound.
"""


class Start(NamedTuple):
    """Best local fit of every deployment."""

    quantities: Array
    """Logarithms and logits, shape (quantity, deployment)."""
    log_sigma: Array
    """Relative residual scale, shape (deployment,)."""


class _Rows(NamedTuple):
    """Padded rows of the deployments, each (deployment, row); weight zero is padding."""

    batch_size: jax.Array
    total_tokens: jax.Array
    context_tokens: jax.Array
    log_latency: jax.Array
    weight: jax.Array


def starting_points(
    observations: Observations,
    quantities: tuple[str, ...],
    w_1: Array,
    mean: Array,
    spread: Array,
    *,
    seed: int,
) -> Start:
    """Fit each deployment on its own, from several starts.

    Parameters
    ----------
    observations : Observations
        Rows sorted by deployment.
    quantities : tuple of str
        Names along the first axis of `mean`.
    w_1 : array, shape (deployment,)
        The gauge.
    mean, spread : array, shape (quantity, deployment)
        Marginal prior of the pooled quantities.
    seed : int
        Seed of the starts and of the choice of rows.
    """
    rng = np.random.default_rng(seed)
    rows = _padded_rows(observations, rng)
    noise = rng.standard_normal((N_STARTS, *mean.shape))
    noise[0] = 0.0
    starts = mean + spread * noise
    theta, log_sigma, cost = _fit_all(quantities, starts, rows, w_1, mean, spread)
    best = np.nanargmin(np.asarray(cost), axis=1)
    pick = np.arange(best.size)
    return Start(np.asarray(theta)[pick, best].T, np.asarray(log_sigma)[pick, best])


def _padded_rows(observations: Observations, rng: np.random.Generator) -> _Rows:
    chosen = []
    for position in range(len(observations.deployments)):
        rows = np.flatnonzero(observations.deployment_index == position)
        chosen.append(rng.permutation(rows)[:MAX_ROWS])
    width = max(rows.size for rows in chosen)
    index = np.array([np.resize(rows, width) for rows in chosen])
    valid = np.array([np.arange(width) < rows.size for rows in chosen])
    context = np.nan_to_num(observations.context_tokens, nan=0.0)
    return _Rows(
        jnp.asarray(observations.batch_size[index]),
        jnp.asarray(observations.total_tokens[index]),
        jnp.asarray(context[index]),
        jnp.asarray(np.log(observations.latency_ms)[index]),
        jnp.asarray(valid * observations.n_averaged[index]),
    )


@partial(jax.jit, static_argnums=0)
def _fit_all(quantities: tuple[str, ...], *arguments: Any) -> tuple[jax.Array, ...]:
    """Every deployment from every start, both first in what comes out."""
    from_starts = jax.vmap(partial(_fit_one, quantities), in_axes=(0, None, None, None, None))
    return jax.vmap(from_starts, in_axes=(2, 0, 0, 1, 1))(*arguments)


def _fit_one(
    quantities: tuple[str, ...],
    start: jax.Array,
    rows: _Rows,
    w_1: jax.Array,
    mean: jax.Array,
    spread: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Levenberg-Marquardt with Student-t weights for one deployment from one start."""

    def residuals(theta: jax.Array) -> jax.Array:
        values = {name: theta[i] for i, name in enumerate(quantities)}
        mu = saturation.latency(
            to_parameters(values, w_1, xp=jnp),
            rows.batch_size,
            rows.total_tokens,
            rows.context_tokens,
            xp=jnp,
        )
        return rows.log_latency - jnp.log(mu)

    def cost(theta: jax.Array, sigma: jax.Array) -> jax.Array:
        z2 = rows.weight * (residuals(theta) / sigma) ** 2
        data = jnp.where(
            rows.weight > 0,
            0.5 * (ROBUST_NU + 1.0) * jnp.log1p(z2 / ROBUST_NU) + jnp.log(sigma),
            0.0,
        )
        return data.sum() + 0.5 * (((theta - mean) / spread) ** 2).sum()

    def step(state: tuple, _: None) -> tuple[tuple, None]:
        theta, sigma, damping = state
        r = residuals(theta)
        jacobian = jax.jacfwd(residuals)(theta)
        influence = (ROBUST_NU + 1.0) / (ROBUST_NU + rows.weight * (r / sigma) ** 2)
        w = influence * rows.weight / sigma**2
        precision = 1.0 / spread**2
        normal = (jacobian.T * w) @ jacobian + jnp.diag(precision)
        gradient = jacobian.T @ (w * r) + precision * (theta - mean)
        damped = normal + damping * jnp.diag(jnp.diag(normal))
        proposal = theta - jnp.clip(jnp.linalg.solve(damped, gradient), -2.0, 2.0)
        better = cost(proposal, sigma) < cost(theta, sigma)
        theta = jnp.where(better, proposal, theta)
        damping = jnp.clip(jnp.where(better, damping * 0.3, damping * 4.0), 1e-8, 1e8)
        return (theta, _residual_scale(residuals(theta), sigma, rows.weight), damping), None

    initial = (start, jnp.asarray(0.3), jnp.asarray(1e-2))
    (theta, sigma, _), _ = jax.lax.scan(step, initial, None, length=N_STEPS)
    return theta, jnp.log(sigma), cost(theta, sigma)


def _residual_scale(r: jax.Array, sigma: jax.Array, weight: jax.Array) -> jax.Array:
    """One EM step for the scale of a Student-t; its fixed point is the maximum likelihood."""
    influence = (ROBUST_NU + 1.0) / (ROBUST_NU + weight * (r / sigma) ** 2)
    n = (weight > 0).sum() + PRIOR_ROWS
    total = (influence * weight * r**2).sum() + PRIOR_ROWS * NOISE_MEAN[0] ** 2
    return jnp.maximum(jnp.sqrt(total / n), MIN_SIGMA)
