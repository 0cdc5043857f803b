"""Weights of the discrepancy given the formula: a shear that straightens the ridge between them.

Where data are precise they fix the latency, and with it the sum of the formula's logarithm and the
discrepancy: whatever a quantity changes in the first the weights take back. In the weights
themselves that is a thin, bent ridge; as the weights' departure from what the data ask for at these
quantities it is straight. With f the formula at the centres, L L' their covariance, A the
information that the rows hold about the weights and s their prior standard deviation::

    w = v - inverse(1 / s^2 + A) A inverse(L) (log f(theta) - log f(theta_0))

Where a deployment has no rows, A is zero and v is w. The map has a Jacobian of one: it changes the
walk and never the posterior.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from bayeslat import saturation
from bayeslat.discrepancy import Basis
from bayeslat.model.priors import DISCREPANCY_OWN, DISCREPANCY_STACK
from bayeslat.model.quantities import to_parameters
from bayeslat.observations import Observations
from bayeslat.saturation import prefill_share

__all__ = ["Shear", "shear_at"]

type Array = NDArray[np.float64]

WEIGHT_VARIANCE = DISCREPANCY_STACK[0] ** 2 + DISCREPANCY_OWN[0] ** 2
"""Prior variance of a weight at the median scales."""


@dataclass(frozen=True, eq=False)
class Shear:
    """How far the weights of each deployment follow its quantities.

    Parameters
    ----------
    quantities : tuple of str
        Names along the first axis of theta.
    w_1 : array, shape (deployment,)
        The gauge.
    batch_size, total_tokens : array, shape (point,)
        Design points at which the formula is compared, one a centre.
    context_tokens : array, shape (deployment,)
        Context of those points.
    gain : array, shape (deployment, basis, point)
        Response of the weights to a change of the formula's logarithm.
    origin : array, shape (quantity, deployment)
        Quantities theta_0 at which weights and coordinates are the same.
    """

    quantities: tuple[str, ...]
    w_1: Array
    batch_size: Array
    total_tokens: Array
    context_tokens: Array
    gain: Array
    origin: Array

    def shift(self, theta: jax.Array) -> jax.Array:
        """What the weights give back at quantities theta, shape (deployment, basis)."""
        change = jax.vmap(self._log_latency, in_axes=(1, 0, 0))
        here = change(theta, self.w_1, self.context_tokens)
        there = change(jnp.asarray(self.origin), self.w_1, self.context_tokens)
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
        arguments = theta, self.w_1, self.context_tokens
        slope = jax.vmap(jax.jacfwd(self._log_latency), in_axes=(1, 0, 0))(*arguments)

        def pulled(theta: Any, w_1: Any, context: Any, pull: Any) -> jax.Array:
            return pull @ self._log_latency(theta, w_1, context)

        pull = jnp.einsum("dkp,dk->dp", self.gain, force)
        bend = jax.vmap(jax.hessian(pulled), in_axes=(1, 0, 0, 0))(*arguments, pull)
        return jnp.einsum("dkp,dpq->dkq", self.gain, slope), bend

    def _log_latency(self, theta: Any, w_1: Any, context: Any) -> jax.Array:
        """Logarithm of one deployment's formula, shape (point,)."""
        values = {name: theta[position] for position, name in enumerate(self.quantities)}
        parameters = to_parameters(values, w_1, xp=jnp)
        return jnp.log(
            saturation.latency(parameters, self.batch_size, self.total_tokens, context, xp=jnp)
        )


def shear_at(
    observations: Observations,
    quantities: tuple[str, ...],
    w_1: Array,
    basis: Basis,
    *,
    theta: Array,
    log_sigma: Array,
    log_ratio: Array,
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
    log_sigma, log_ratio : array, shape (deployment,)
        Log relative noise, and of its ratio in prefills.
    """
    batch, tokens = observations.batch_size, observations.total_tokens
    owner = observations.deployment_index
    features = basis.features(batch, tokens)
    noise = np.exp(log_sigma[owner] + prefill_share(batch, tokens) * log_ratio[owner])
    variance = np.square(noise) / observations.n_averaged
    variance += WEIGHT_VARIANCE * basis.missing(features)
    prior = np.eye(basis.size) / WEIGHT_VARIANCE
    gain, context = [], []
    for deployment in range(w_1.size):
        own = owner == deployment
        information = (features[own].T / variance[own]) @ features[own]
        gain.append(np.linalg.solve(prior + information, information) @ basis.whitening.T)
        context.append(np.nan_to_num(observations.context_tokens[own], nan=0.0).mean())
    batch, tokens = basis.design_points
    return Shear(quantities, w_1, batch, tokens, np.array(context), np.stack(gain), theta)
