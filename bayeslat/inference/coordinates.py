"""Coordinates in which the posterior of the pooled quantities is nearly Gaussian.

A term that may be nearly zero is a straight line where the data see it and a logarithm where they
do not: where they see it its value is the right coordinate, elsewhere its logarithm is, and a
coordinate that is wrong by its side bends the posterior. With s the size that the data resolve, an
additive term (tau_B, tau_C, ...) is written s softplus(v). A share with resolution 1 / L
has two such walls, at zero and at one::

    f = softplus(v) / (softplus(v) + softplus(L - v))

k_B, overhead and slope_share stay as they are pooled although the data often see them at a wall
only: the prior holds them closely together over deployments on that scale, so that all of them move
as one, and only there is the pooling linear.
"""

from dataclasses import dataclass, field
from typing import Final, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

__all__ = ["SHARES", "STRAIGHTENED", "Coordinates"]

type Array = NDArray[np.float64]

STRAIGHTENED: Final = ("tau_B", "tau_B_prefill", "tau_C", "gamma_B", "gamma_S")
"""Quantities of additive terms that may be nearly zero."""

SHARES: Final = ("floor_share",)
"""Shares that may be nearly zero or one."""

N_BISECTIONS: Final = 80


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Coordinates:
    """The map between pooled quantities and sampling coordinates, both (quantity, deployment).

    A pytree, so that programs take it as data.

    Parameters
    ----------
    quantities : tuple of str
        Names along the first axis.
    resolution : array, shape (quantity, deployment)
        The size s of each straightened term, and the resolution of each share; unused elsewhere.
    """

    quantities: tuple[str, ...] = field(metadata={"static": True})
    resolution: Array

    def to_quantities(self, z: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Coordinates to logarithms and logits, with the log-determinant of the Jacobian."""
        rows = []
        log_jacobian = jnp.zeros(())
        for position, name in enumerate(self.quantities):
            row, size = z[position], self.resolution[position]
            if name in STRAIGHTENED:
                log_soft = _log_softplus(row)
                log_jacobian += jnp.sum(jax.nn.log_sigmoid(row) - log_soft)
                row = jnp.log(size) + log_soft
            elif name in SHARES:
                share = _share(row, jnp.asarray(1.0 / size))
                log_jacobian += jnp.sum(share.log_slope)
                row = share.logit
            rows.append(row)
        return jnp.stack(rows), log_jacobian

    def from_quantities(self, theta: Array) -> Array:
        """Logarithms and logits to coordinates (numpy)."""
        rows = []
        for name, row, size in zip(self.quantities, theta, self.resolution, strict=True):
            if name in STRAIGHTENED:
                rows.append(_inverse_log_softplus(row - np.log(size)))
            elif name in SHARES:
                rows.append(_share_coordinate(row, 1.0 / size))
            else:
                rows.append(row)
        return np.stack(rows)


class _Share(NamedTuple):
    """A share in (0, 1) as a function of its coordinate."""

    logit: jax.Array
    log_slope: jax.Array
    """Logarithm of d logit(share) / d coordinate."""


def _share(v: jax.Array, sharpness: jax.Array) -> _Share:
    up, down = _log_softplus(v), _log_softplus(sharpness - v)
    slope = jnp.logaddexp(jax.nn.log_sigmoid(v) - up, jax.nn.log_sigmoid(sharpness - v) - down)
    return _Share(up - down, slope)


def _share_coordinate(logit: Array, sharpness: Array) -> Array:
    """Invert `_share` by bisection: the logit grows strictly with the coordinate."""
    low = np.minimum(logit, 0.0) - 50.0
    high = sharpness + np.maximum(logit, 0.0) + 50.0
    for _ in range(N_BISECTIONS):
        middle = 0.5 * (low + high)
        below = np.asarray(_share(jnp.asarray(middle), jnp.asarray(sharpness)).logit) < logit
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
