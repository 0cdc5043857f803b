"""Value, gradient and exact Hessian at the price of a few gradients.

The likelihood of one deployment does not depend on the parameters of another, so a Hessian-vector
product along "parameter p of every deployment at once" yields one column of every diagonal block:
ten products instead of one for each dimension. The prior couples deployments; its Hessian is dense
and costs one product a dimension, but never touches the rows.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

__all__ = ["IGNORED", "SHARED", "Derivatives", "derivatives"]

type Array = NDArray[np.float64]
type LogDensity = Callable[..., jax.Array]

SHARED = -1
"""Group of a coordinate that every group depends on."""

IGNORED = -2
"""Group of a coordinate that the function does not depend on."""


class Derivatives(NamedTuple):
    """A function at one point, to second order."""

    value: float
    gradient: Array
    """Shape (dim,)."""
    hessian: Array
    """Shape (dim, dim)."""

    def plus(self, other: Self) -> Self:
        """The derivatives of a sum."""
        return type(self)(
            self.value + other.value,
            self.gradient + other.gradient,
            self.hessian + other.hessian,
        )


def derivatives(function: LogDensity, group: NDArray[np.int64]) -> Callable[..., Derivatives]:
    """Compile a function that is additive over groups of coordinates, to second order.

    Parameters
    ----------
    function : callable
        Maps a vector, shape (dim,), and data, if it takes any, to a scalar.
    group : array of int, shape (dim,)
        Group of each coordinate: second derivatives across different non-negative groups are zero.
        All of them `SHARED` makes no such assumption.

    Returns
    -------
    callable
        Maps a point, shape (dim,), and the data to its `Derivatives`; other data compile nothing.
    """
    rank = _rank_in_group(group)
    colours = [(group >= 0) & (rank == position) for position in range(rank.max() + 1)]
    shared = np.flatnonzero(group == SHARED)
    tangents = np.array([*colours, *(np.arange(group.size) == i for i in shared)], dtype=float)

    def gradient_and_value(point: jax.Array, data: Any) -> tuple[jax.Array, jax.Array]:
        value, gradient = jax.value_and_grad(function)(point, *data)
        return gradient, value

    @jax.jit
    def products(point: jax.Array, data: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
        at_data = partial(gradient_and_value, data=data)
        gradient, product, value = jax.linearize(at_data, point, has_aux=True)
        return value, gradient, jax.lax.map(product, jnp.asarray(tangents))

    def assembled(point: Array, *data: Any) -> Derivatives:
        value, gradient, rows = map(np.asarray, products(jnp.asarray(point), data))
        hessian = np.zeros((group.size, group.size))
        for colour, row in zip(colours, rows, strict=False):
            own = np.flatnonzero(colour)
            hessian[own] = np.where(group[own][:, None] == group[None, :], row, 0.0)
        hessian[shared] = rows[len(colours) :]
        hessian[:, shared] = rows[len(colours) :].T
        return Derivatives(float(value), gradient, 0.5 * (hessian + hessian.T))

    return assembled


def _rank_in_group(group: NDArray[np.int64]) -> NDArray[np.int64]:
    """Position of each coordinate among those of its group; -1 for those in none."""
    rank = np.full(group.size, -1)
    for value in np.unique(group[group >= 0]):
        members = np.flatnonzero(group == value)
        rank[members] = np.arange(members.size)
    return rank
