"""What the data resolve of each term of the formula, measured at a starting point.

The sizes at which the coordinates turn from a straight line into a logarithm.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from bayeslat import saturation
from bayeslat.discrepancy import Basis
from bayeslat.inference.coordinates import SHARES, STRAIGHTENED
from bayeslat.inference.shear import WEIGHT_VARIANCE
from bayeslat.inference.starts import Start
from bayeslat.model.quantities import to_parameters
from bayeslat.observations import Observations

__all__ = ["term_resolution"]

type Array = NDArray[np.float64]

MIN_INFORMATION = 1e-12

SHARE_RESOLUTION = (1e-3, 1.0)
"""Least and largest resolution of a share."""


def term_resolution(
    observations: Observations,
    quantities: tuple[str, ...],
    w_1: Array,
    start: Start,
    variance: Array,
    basis: Basis | None = None,
) -> Array:
    """The likelihood's own standard deviation of each straightened term and share.

    Shape (quantity, deployment), in the unit of each, ones elsewhere. Measured at the start, with
    the other quantities and the weights of the discrepancy, if there is a `basis`, held by their
    priors only: a smooth discrepancy hides much of what the noise alone would let one see.
    """
    resolution = np.ones_like(start.quantities)
    jacobian = _log_jacobian(observations, quantities, w_1, start.quantities)
    if basis is not None:
        features = basis.features(observations.batch_size, observations.total_tokens)
        jacobian = np.vstack([jacobian, features.T])
        held = np.full((basis.size, w_1.size), WEIGHT_VARIANCE)
        variance = np.vstack([variance, held])
    for d in range(w_1.size):
        rows = observations.deployment_index == d
        theta = start.quantities[:, d]
        weight = observations.n_averaged[rows] / np.exp(2.0 * start.log_sigma[d])
        information = (jacobian[:, rows] * weight) @ jacobian[:, rows].T
        for i, name in enumerate(quantities):
            if name in STRAIGHTENED:
                resolution[i, d] = np.exp(theta[i]) * _own_sd(information, variance[:, d], i)
            elif name in SHARES:
                share = 1.0 / (1.0 + np.exp(-theta[i]))
                found = share * (1.0 - share) * _own_sd(information, variance[:, d], i)
                resolution[i, d] = np.clip(found, *SHARE_RESOLUTION)
    return resolution


def _own_sd(information: Array, variance: Array, i: int) -> float:
    """Standard deviation of one quantity from the data, the others held by their priors."""
    others = np.arange(variance.size) != i
    held = information[np.ix_(others, others)] + np.diag(1.0 / variance[others])
    cross = information[i, others]
    own = information[i, i] - cross @ np.linalg.solve(held, cross)
    return float(1.0 / np.sqrt(np.clip(own, MIN_INFORMATION, None)))


def _log_jacobian(
    observations: Observations, quantities: tuple[str, ...], w_1: Array, theta: Array
) -> Array:
    """Derivative of every row's log T in its own deployment's quantities, (quantity, row)."""
    owner, context = observations.deployment_index, np.nan_to_num(observations.context_tokens)
    rows = owner, observations.batch_size, observations.total_tokens, context
    everywhere = np.zeros((len(quantities), *theta.shape))
    for i in range(len(quantities)):
        everywhere[i, i] = 1.0
    found = [_derivative(quantities, theta, tangent, w_1, rows) for tangent in everywhere]
    return np.stack([np.asarray(row) for row in found])


@partial(jax.jit, static_argnums=0)
def _derivative(
    quantities: tuple[str, ...],
    theta: jax.Array,
    tangent: jax.Array,
    w_1: jax.Array,
    rows: tuple[jax.Array, ...],
) -> jax.Array:
    owner, *points = rows

    def log_latency(theta: jax.Array) -> jax.Array:
        of_row = theta[:, owner]
        values = {name: of_row[i] for i, name in enumerate(quantities)}
        parameters = to_parameters(values, w_1[owner], xp=jnp)
        return jnp.log(saturation.latency(parameters, *points, xp=jnp))

    return jax.jvp(log_latency, (theta,), (tangent,))[1]
