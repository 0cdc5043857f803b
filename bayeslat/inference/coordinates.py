"""Coordinates in which the posterior of the log-parameters is nearly Gaussian.

What the data pin down is not P_max or tau_0 but the total slope in S and the floor at small load,
and how each splits in two. Per deployment, with a = w_1 / P_max::

    b = a + tau_S         slope            a     = f b        tau_S = (1 - f) b
    F = tau_0 + a / k_S   floor            tau_0 = (1 - g) F  k_S   = a / (g F)

in logarithms of b and F and logits of f and g the Jacobian is one. w_0 enters as w_0 / P_max. The
additive terms that may be nearly zero (w_0 / P_max, tau_B, tau_C, ...) are written s softplus(v),
where s is the size that the data can resolve: a straight line where the term is seen, a logarithm
where it is not, so that the wall at zero does not bend the posterior.

The slot of each parameter in the array of log-parameters holds the coordinate that replaces it:
P_max holds log b, tau_S logit f, tau_0 log F and k_S logit g.
"""

from dataclasses import dataclass
from typing import Final

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

__all__ = ["STRAIGHTENED", "Coordinates"]

type Array = NDArray[np.float64]

STRAIGHTENED: Final = ("w_0", "tau_B", "tau_C", "gamma_B", "gamma_S")
"""Parameters of additive terms that may be nearly zero."""


@dataclass(frozen=True)
class Coordinates:
    """The map between log-parameters and sampling coordinates, both (parameter, deployment).

    Parameters
    ----------
    parameters : tuple of str
        Names along the first axis.
    log_w_1 : array, shape (deployment,)
        Logarithm of the gauge.
    resolution : array, shape (parameter, deployment)
        The size s of each straightened term (w_0 in units of w_0 / P_max); unused elsewhere.
    """

    parameters: tuple[str, ...]
    log_w_1: Array
    resolution: Array

    def to_log_parameters(self, z: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Coordinates to log-parameters, with the log-determinant of the Jacobian."""
        row = dict(zip(self.parameters, z, strict=True))
        log_jacobian = jnp.zeros(())
        for position, name in enumerate(self.parameters):
            if name in STRAIGHTENED:
                log_soft = _log_softplus(row[name])
                log_jacobian += jnp.sum(jax.nn.log_sigmoid(row[name]) - log_soft)
                row[name] = jnp.log(self.resolution[position]) + log_soft
        log_a = row["P_max"]
        if "tau_S" in row:
            log_b, logit_f = row["P_max"], row["tau_S"]
            log_a = log_b + jax.nn.log_sigmoid(logit_f)
            row["tau_S"] = log_b + jax.nn.log_sigmoid(-logit_f)
        log_floor, logit_g = row["tau_0"], row["k_S"]
        row["tau_0"] = log_floor + jax.nn.log_sigmoid(-logit_g)
        row["k_S"] = log_a - log_floor - jax.nn.log_sigmoid(logit_g)
        row["P_max"] = self.log_w_1 - log_a
        if "w_0" in row:
            row["w_0"] = row["w_0"] + row["P_max"]
        return jnp.stack([row[name] for name in self.parameters]), log_jacobian

    def from_log_parameters(self, theta: Array) -> Array:
        """Log-parameters to coordinates (numpy)."""
        row = dict(zip(self.parameters, np.asarray(theta, float), strict=True))
        if "w_0" in row:
            row["w_0"] = row["w_0"] - row["P_max"]
        log_a = self.log_w_1 - row["P_max"]
        log_saturating = log_a - row["k_S"]
        row["k_S"], row["tau_0"] = (
            log_saturating - row["tau_0"],
            np.logaddexp(row["tau_0"], log_saturating),
        )
        row["P_max"] = log_a
        if "tau_S" in row:
            row["tau_S"], row["P_max"] = (
                log_a - row["tau_S"],
                np.logaddexp(log_a, row["tau_S"]),
            )
        for position, name in enumerate(self.parameters):
            if name in STRAIGHTENED:
                ratio = np.exp(row[name] - np.log(self.resolution[position]))
                row[name] = _inverse_softplus(ratio)
        return np.stack([row[name] for name in self.parameters])


def _log_softplus(v: jax.Array) -> jax.Array:
    """log(log(1 + exp(v))), stable where softplus underflows; its derivative too."""
    low = v < -30.0
    return jnp.where(low, v, jnp.log(jax.nn.softplus(jnp.where(low, 0.0, v))))


def _inverse_softplus(x: Array) -> Array:
    """log(exp(x) - 1), stable at both ends."""
    x = np.maximum(x, 1e-300)
    small = x < 30.0
    safe = np.where(small, x, 1.0)
    return np.where(small, np.log(np.expm1(safe)), x)
