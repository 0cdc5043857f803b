"""Exact Hessians at the price of a few gradients.

The likelihood of one deployment does not depend on the parameters of another, so a Hessian-vector
product along "parameter p of every deployment at once" yields one column of every diagonal block:
ten products instead of one for each dimension. The prior couples deployments; its Hessian is dense
and costs one product a dimension, but never touches the rows.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

__all__ = ["blocked_hessian", "dense_hessian"]

type Array = NDArray[np.float64]
type LogDensity = Callable[[jax.Array], jax.Array]

CHUNK = 16
"""Hessian-vector products evaluated at once: bounds the memory."""


def dense_hessian(function: LogDensity) -> Callable[[jax.Array], jax.Array]:
    """Compile the dense Hessian of a scalar function of one vector."""

    @jax.jit
    def hessian(point: jax.Array) -> jax.Array:
        def product(tangent: jax.Array) -> jax.Array:
            return jax.jvp(jax.grad(function), (point,), (tangent,))[1]

        return jax.lax.map(product, jnp.eye(point.size), batch_size=CHUNK)

    return hessian


def blocked_hessian(function: LogDensity, group: Array) -> Callable[[jax.Array], Array]:
    """Compile the Hessian of a function that is additive over groups of coordinates.

    Parameters
    ----------
    function : callable
        Maps a vector, shape (dim,), to a scalar.
    group : array of int, shape (dim,)
        Group of each coordinate: second derivatives across different non-negative groups are zero.
        -1 marks coordinates shared by all groups, -2 those that the function ignores.

    Returns
    -------
    callable
        Maps a point to its Hessian, shape (dim, dim).
    """
    group = np.asarray(group)
    rank = np.zeros(group.size, dtype=int)
    for value in np.unique(group[group >= 0]):
        members = np.flatnonzero(group == value)
        rank[members] = np.arange(members.size)
    n_ranks = int(rank.max()) + 1
    shared = np.flatnonzero(group == -1)
    colours = [(group >= 0) & (rank == position) for position in range(n_ranks)]
    tangents = np.array([*colours, *(np.arange(group.size) == i for i in shared)], dtype=float)

    @jax.jit
    def products(point: jax.Array) -> jax.Array:
        def product(tangent: jax.Array) -> jax.Array:
            return jax.jvp(jax.grad(function), (point,), (tangent,))[1]

        return jax.lax.map(product, jnp.asarray(tangents))

    def hessian(point: jax.Array) -> Array:
        rows = np.asarray(products(point))
        result = np.zeros((group.size, group.size))
        for position, colour in enumerate(colours):
            own = np.flatnonzero(colour)
            same = group[own][:, None] == group[None, :]
            result[own] = np.where(same, rows[position], 0.0)
        result[shared] = rows[n_ranks:]
        result[:, shared] = rows[n_ranks:].T
        return 0.5 * (result + result.T)

    return hessian
