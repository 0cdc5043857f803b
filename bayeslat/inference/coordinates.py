"""Coordinates in which the posterior of the log-parameters is nearly Gaussian.

What the data pin down is not P_max or tau_0 but the total slope in S and the floor at small load,
and how each splits in two. Per deployment, with a = w_1 / P_max::

    b = a + tau_S         slope            tau_S = f b        a       = (1 - f) b
    F = tau_0 + a / k_S   floor            tau_0 = g F        a / k_S = (1 - g) F

in logarithms of b and F and logits of f and g the Jacobian is one. w_0 enters as w_0 / P_max.

Terms that may be nearly zero need more: where the data see a term its value is the right
coordinate, where they do not its logarithm is, and a coordinate that is wrong by its side bends the
posterior. With s the size that the data resolve, an additive term (w_0 / P_max, tau_B, tau_C, ...)
is written s softplus(v): a straight line above s, a logarithm below. A share with resolution 1 / L
has two such walls, at zero and at one::

    f = softplus(v) / (softplus(v) + softplus(L - v))

k_B stays a logarithm although it often makes no difference above some value: the pooling prior
holds it closely together over deployments on that scale, and only there is the pooling linear.

The slot of each parameter in the array of log-parameters holds the coordinate that replaces it:
P_max holds log b, tau_S the v of f, tau_0 log F and k_S the v of g.
"""

from dataclasses import dataclass
from typing import Final, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

__all__ = ["STRAIGHTENED", "Coordinates"]

type Array = NDArray[np.float64]

STRAIGHTENED: Final = ("w_0", "tau_B", "tau_C", "gamma_B", "gamma_S")
"""Parameters of additive terms that may be nearly zero."""


N_BISECTIONS: Final = 80


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
        The size s of each straightened term (w_0 in units of w_0 / P_max), and in the slots of
        tau_S and k_S the resolution of the shares f and g; unused elsewhere.
    """

    parameters: tuple[str, ...]
    log_w_1: Array
    resolution: Array

    def to_log_parameters(self, z: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Coordinates to log-parameters, with the log-determinant of the Jacobian."""
        row: dict[str, jax.Array] = dict(zip(self.parameters, z, strict=True))
        log_jacobian = jnp.zeros(())
        for position, name in enumerate(self.parameters):
            if name in STRAIGHTENED:
                log_soft = _log_softplus(row[name])
                log_jacobian += jnp.sum(jax.nn.log_sigmoid(row[name]) - log_soft)
                row[name] = jnp.log(self.resolution[position]) + log_soft
        log_a = row["P_max"]
        if "tau_S" in row:
            share = _share(row["tau_S"], jnp.asarray(self._sharpness("tau_S")))
            row["tau_S"] = row["P_max"] + share.log
            log_a = row["P_max"] + share.log_rest
            log_jacobian += jnp.sum(share.log_slope)
        share = _share(row["k_S"], jnp.asarray(self._sharpness("k_S")))
        log_floor = row["tau_0"]
        row["tau_0"] = log_floor + share.log
        row["k_S"] = log_a - log_floor - share.log_rest
        log_jacobian += jnp.sum(share.log_slope)
        row["P_max"] = jnp.asarray(self.log_w_1) - log_a
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
        logit = row["tau_0"] - log_saturating
        row["tau_0"] = np.logaddexp(row["tau_0"], log_saturating)
        row["k_S"] = _share_coordinate(logit, self._sharpness("k_S"))
        row["P_max"] = log_a
        if "tau_S" in row:
            logit = row["tau_S"] - log_a
            row["P_max"] = np.logaddexp(log_a, row["tau_S"])
            row["tau_S"] = _share_coordinate(logit, self._sharpness("tau_S"))
        for position, name in enumerate(self.parameters):
            if name in STRAIGHTENED:
                row[name] = _inverse_log_softplus(row[name] - np.log(self.resolution[position]))
        return np.stack([row[name] for name in self.parameters])

    def _sharpness(self, name: str) -> Array:
        """L of the share in a slot: the inverse of its resolution."""
        return 1.0 / self.resolution[self.parameters.index(name)]


class _Share(NamedTuple):
    """A share in (0, 1) as a function of its coordinate."""

    log: jax.Array
    log_rest: jax.Array
    log_slope: jax.Array
    """Logarithm of d logit(share) / d coordinate."""


def _share(v: jax.Array, sharpness: jax.Array) -> _Share:
    up, down = _log_softplus(v), _log_softplus(sharpness - v)
    total = jnp.logaddexp(up, down)
    slope = jnp.logaddexp(jax.nn.log_sigmoid(v) - up, jax.nn.log_sigmoid(sharpness - v) - down)
    return _Share(up - total, down - total, slope)


def _share_coordinate(logit: Array, sharpness: Array) -> Array:
    """Invert `_share` by bisection: the logit grows strictly with the coordinate."""
    low = np.minimum(logit, 0.0) - 50.0
    high = sharpness + np.maximum(logit, 0.0) + 50.0
    for _ in range(N_BISECTIONS):
        middle = 0.5 * (low + high)
        found = _share(jnp.asarray(middle), jnp.asarray(sharpness))
        below = np.asarray(found.log - found.log_rest) < logit
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return 0.5 * (low + high)


def _log_softplus(v: jax.Array) -> jax.Array:
    """log(log(1 + exp(v))), stable where softplus underflows; its derivative too."""
    low = v < -30.0
    return jnp.where(low, v, jnp.log(jax.nn.softplus(jnp.where(low, 0.0, v))))


def _inverse_log_softplus(log_x: Array) -> Array:
    """The v with softplus(v) = x, from log x, stable at both ends."""
    x = np.exp(np.clip(log_x, -30.0, 600.0))
    curved = np.where(x < 30.0, np.log(np.expm1(np.minimum(x, 30.0))), x)
    return np.where(log_x < -30.0, log_x, curved)
