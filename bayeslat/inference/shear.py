"""Weights of the discrepancy given the formula: a shear that straightens the ridge between them.

Where data are precise they fix the latency, and with it the sum of the formula's logarithm and the
discrepancy: whatever a quantity changes in the first the weights take back. In the weights
themselves that is a thin, bent ridge; as the weights' departure from what the data ask for at these
quantities it is straight. With f the formula at the rows of a deployment, phi their features, V the
variances of their noise and s the prior standard deviation of a weight::

    w = v - inverse(1 / s^2 + phi' inverse(V) phi) phi' inverse(V) (log f(theta) - log f(theta_0))

The change of log f is followed at few of the rows and interpolated to the others. At points without
rows the formula is free, and nothing may depend on it there. The map has a Jacobian of one: it
changes the walk and never the posterior.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from bayeslat import saturation
from bayeslat.discrepancy import MAX_CENTRES, Basis, basis_for
from bayeslat.model.priors import DISCREPANCY_OWN, DISCREPANCY_STACK
from bayeslat.model.quantities import to_parameters
from bayeslat.noise import noise_features
from bayeslat.observations import Observations

__all__ = ["WEIGHT_VARIANCE", "Shear", "shear_at"]

type Array = NDArray[np.float64]

WEIGHT_VARIANCE = DISCREPANCY_STACK[0] ** 2 + DISCREPANCY_OWN[0] ** 2
"""Prior variance of a weight at the median scales."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Shear:
    """How far the weights of each deployment follow its quantities; a pytree.

    Parameters
    ----------
    quantities : tuple of str
        Names along the first axis of theta.
    w_1 : array, shape (deployment,)
        The gauge.
    batch_size, total_tokens, context_tokens : array, shape (deployment, point)
        Rows at which each deployment's formula is followed.
    gain : array, shape (deployment, basis, point)
        Response of the weights to a change of the formula's logarithm.
    origin : array, shape (quantity, deployment)
        Quantities theta_0 at which weights and coordinates are the same.
    """

    quantities: tuple[str, ...] = field(metadata={"static": True})
    w_1: Array
    batch_size: Array
    total_tokens: Array
    context_tokens: Array
    gain: Array
    origin: Array

    def shift(self, theta: jax.Array) -> jax.Array:
        """What the weights give back at quantities theta, shape (deployment, basis)."""
        here, there = (
            self._of_deployments(self._log_latency, jnp.asarray(where))
            for where in (theta, self.origin)
        )
        return jnp.einsum("dkp,dp->dk", self.gain, here - there)

    def derivatives(self, theta: jax.Array, force: jax.Array) -> tuple[jax.Array, jax.Array]:
        """First derivatives of the shift, and second ones of its product with a force.

        Parameters
        ----------
        theta : array, shape (quantity, deployment)
            Quantities.
        force : array, shape (deployment, basis)
            What the shift is multiplied with.

        Returns
        -------
        tuple of array
            Shapes (deployment, basis, quantity) and (deployment, quantity, quantity).
        """
        slope = self._of_deployments(jax.jacfwd(self._log_latency), theta)
        pull = jnp.einsum("dkp,dk->dp", self.gain, force)

        def pulled(theta: Any, w_1: Any, points: Any, pull: Any) -> jax.Array:
            return pull @ self._log_latency(theta, w_1, points)

        bend = self._of_deployments(jax.hessian(pulled), theta, pull)
        return jnp.einsum("dkp,dpq->dkq", self.gain, slope), bend

    def _of_deployments(self, function: Callable[..., Any], theta: Any, *others: Any) -> jax.Array:
        """A function of one deployment's quantities, gauge, points, ... at all of them."""
        points = self.batch_size, self.total_tokens, self.context_tokens
        return jax.vmap(function)(theta.T, self.w_1, points, *others)

    def _log_latency(self, theta: Any, w_1: Any, points: Any) -> jax.Array:
        """Logarithm of one deployment's formula, shape (point,)."""
        values = {name: theta[position] for position, name in enumerate(self.quantities)}
        parameters = to_parameters(values, w_1, xp=jnp)
        return jnp.log(saturation.latency(parameters, *points, xp=jnp))


def shear_at(
    observations: Observations,
    quantities: tuple[str, ...],
    w_1: Array,
    basis: Basis,
    *,
    theta: Array,
    log_sigma: Array,
    slopes: Array,
) -> Shear:
    """The shear around a point, from the information that the rows hold there.

    Parameters
    ----------
    observations : Observations
        The rows of the model.
    quantities : tuple of str
        Names along the first axis of `theta`.
    w_1 : array, shape (deployment,)
        The gauge.
    basis : Basis
        Features of the discrepancy.
    theta : array, shape (quantity, deployment)
        Quantities.
    log_sigma : array, shape (deployment,)
        Log relative noise.
    slopes : array, shape (feature, deployment)
        How it follows `bayeslat.noise.NOISE_FEATURES`.
    """
    batch, tokens = observations.batch_size, observations.total_tokens
    owner = observations.deployment_index
    features = basis.features(batch, tokens)
    on_features = (noise_features(batch, tokens) * slopes.T[owner]).sum(axis=1)
    noise = np.exp(log_sigma[owner] + on_features)
    variance = np.square(noise) / observations.n_averaged
    variance += WEIGHT_VARIANCE * basis.missing(features)
    prior = np.eye(basis.size) / WEIGHT_VARIANCE
    context = np.nan_to_num(observations.context_tokens, nan=0.0)
    followed, gains = [], []
    for deployment in range(w_1.size):
        own = np.flatnonzero(owner == deployment)
        weighted = features[own].T / variance[own]
        response = np.linalg.solve(prior + weighted @ features[own], weighted)
        points, interpolation = _followed_points(batch[own], tokens[own], context[own])
        followed.append(points)
        gains.append(response @ interpolation)
    width = max(points.shape[1] for points in followed)
    filled = np.stack(  # with the last point, which then counts for nothing
        [np.pad(points, ((0, 0), (0, width - points.shape[1])), "edge") for points in followed]
    )
    gain = np.stack([np.pad(each, ((0, 0), (0, width - each.shape[1]))) for each in gains])
    return Shear(quantities, w_1, filled[:, 0], filled[:, 1], filled[:, 2], gain, theta)


def _followed_points(batch: Array, tokens: Array, context: Array) -> tuple[Array, Array]:
    """Points that stand for all rows of a deployment, and the map of a function there to the rows.

    The points are B, S and C, shape (3, point); C is the mean of the rows nearby.
    """
    if batch.size <= MAX_CENTRES:
        return np.stack([batch, tokens, context]), np.eye(batch.size)
    own = basis_for(batch, tokens)
    near = own.correlations(batch, tokens)
    rows = near.argmax(axis=0)
    points = np.stack([batch[rows], tokens[rows], context @ near / near.sum(axis=0)])
    return points, own.interpolation(batch, tokens)
