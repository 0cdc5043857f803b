"""What the data resolve of each term of the formula, measured at a starting point.

The sizes at which the coordinates turn from a straight line into a logarithm.
"""

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from bayeslat import saturation
from bayeslat.inference.coordinates import STRAIGHTENED
from bayeslat.inference.starts import Start
from bayeslat.observations import Observations

__all__ = ["term_resolution"]

type Array = NDArray[np.float64]

MIN_INFORMATION = 1e-12
"""Floor of what the data tell of a log-parameter, in place of zero."""


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
    jacobian = _log_jacobian(observations, parameters, w_1, start.log_parameters)
    for d in range(w_1.size):
        rows = observations.deployment_index == d
        theta = start.log_parameters[:, d]
        weight = observations.n_averaged[rows] / np.exp(2.0 * start.log_sigma[d])
        information = (jacobian[:, rows] * weight) @ jacobian[:, rows].T
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
    observations: Observations, parameters: tuple[str, ...], w_1: Array, theta: Array
) -> Array:
    """Derivative of every row's log T in its own deployment's log-parameters, (parameter, row)."""
    context = np.nan_to_num(observations.context_tokens, nan=0.0)

    def log_latency(point: jax.Array) -> jax.Array:
        of_row = jnp.exp(point)[:, observations.deployment_index]
        values = {name: of_row[i] for i, name in enumerate(parameters)}
        values["w_1"] = jnp.asarray(w_1)[observations.deployment_index]
        return jnp.log(
            saturation.latency(
                values, observations.batch_size, observations.total_tokens, context, xp=jnp
            )
        )

    @jax.jit
    def derivative(tangent: jax.Array) -> jax.Array:
        return jax.jvp(log_latency, (jnp.asarray(theta),), (tangent,))[1]

    everywhere = np.zeros((len(parameters), *theta.shape))
    for i in range(len(parameters)):
        everywhere[i, i] = 1.0
    return np.stack([np.asarray(derivative(tangent)) for tangent in everywhere])
