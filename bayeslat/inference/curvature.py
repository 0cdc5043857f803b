"""Value, gradient and exact Hessian at the price of a few gradients.

The likelihood of one deployment does not depend on the parameters of another, so a Hessian-vector
product along "parameter p of every deployment at once" yields one column of every diagonal block:
ten products instead of one for each dimension. The prior couples deployments but not quantities:
there it is the other way round. Of fleets of many deployments nearly all entries are zero, and are
not kept.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray
from scipy import sparse

__all__ = ["IGNORED", "SHARED", "Derivatives", "derivatives"]

type Array = NDArray[np.float64]
type Index = NDArray[np.int64]
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
    hessian: Any
    """Shape (dim, dim), an array or a sparse one."""

    def plus(self, other: Self) -> Self:
        """The derivatives of a sum."""
        return type(self)(
            self.value + other.value,
            self.gradient + other.gradient,
            self.hessian + other.hessian,
        )


def derivatives(function: LogDensity, group: Index) -> Callable[..., Derivatives]:
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
        Maps a point, shape (dim,), and the data to its `Derivatives` with a sparse Hessian; other
        data compile nothing.
    """
    rank = _rank_in_group(group)
    colours = [(group >= 0) & (rank == position) for position in range(rank.max() + 1)]
    shared = np.flatnonzero(group == SHARED)
    tangents = np.array([*colours, *(np.arange(group.size) == i for i in shared)], dtype=float)
    row, column, product_of, at = _pattern(group, rank, len(colours))
    start_of_row = np.searchsorted(row, np.arange(group.size + 1))

    def gradient_and_value(point: jax.Array, data: Any) -> tuple[jax.Array, jax.Array]:
        value, gradient = jax.value_and_grad(function)(point, *data)
        return gradient, value

    @jax.jit
    def products(point: jax.Array, data: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
        at_data = partial(gradient_and_value, data=data)
        gradient, product, value = jax.linearize(at_data, point, has_aux=True)
        return value, gradient, jax.lax.map(product, jnp.asarray(tangents))

    def assembled(point: Array, *data: Any) -> Derivatives:
        value, gradient, found = map(np.asarray, products(jnp.asarray(point), data))
        entries = found[product_of, at]
        hessian = sparse.csr_array((entries, column, start_of_row), shape=(group.size, group.size))
        return Derivatives(float(value), gradient, 0.5 * (hessian + hessian.T))

    return assembled


def _pattern(group: Index, rank: Index, n_colours: int) -> tuple[Index, Index, Index, Index]:
    """Entries that may not be zero, row by row: where they are, and where they are found.

    Returns
    -------
    tuple of array of int
        Row and column in the Hessian; number and position of the product that holds the entry.
    """
    position = np.arange(group.size)
    entries = []
    for value in np.unique(group[group >= 0]):
        members = position[group == value]
        row, column = (each.ravel() for each in np.meshgrid(members, members, indexing="ij"))
        entries.append((row, column, rank[row], column))
    others = position[group >= 0]
    everyone = position[group != IGNORED]
    for number, own in enumerate(position[group == SHARED], n_colours):
        entries.append(_constant_first(own, everyone, number))
        row, column, product_of, at = _constant_first(own, others, number)
        entries.append((column, row, product_of, at))
    row, column, product_of, at = (np.concatenate(each) for each in zip(*entries, strict=True))
    order = np.lexsort((column, row))
    return row[order], column[order], product_of[order], at[order]


def _constant_first(row: int, columns: Index, number: int) -> tuple[Index, Index, Index, Index]:
    return np.full_like(columns, row), columns, np.full_like(columns, number), columns


def _rank_in_group(group: Index) -> Index:
    """Position of each coordinate among those of its group; -1 for those in none."""
    rank = np.full(group.size, -1)
    for value in np.unique(group[group >= 0]):
        members = np.flatnonzero(group == value)
        rank[members] = np.arange(members.size)
    return rank
