"""Value, gradient and exact Hessian at the price of a few gradients.

The likelihood of one deployment does not depend on the parameters of another, so a Hessian-vector
product along "parameter p of every deployment at once" yields one column of every diagonal block:
ten products instead of one for each dimension. The prior couples deployments but not quantities:
there it is the other way round. Of fleets of many deployments nearly all entries are zero, and are
not kept.
"""

from collections.abc import Callable
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


def derivatives(
    function: LogDensity,
    group: Index,
    *,
    held: NDArray[np.bool_] | None = None,
    given: LogDensity | None = None,
) -> Callable[..., Derivatives]:
    """Compile a function that is additive over groups of coordinates, to second order.

    Parameters
    ----------
    function : callable
        Maps a vector, shape (dim,), and data, if it takes any, to a scalar.
    group : array of int, shape (dim,)
        Group of each coordinate: second derivatives across different non-negative groups are zero.
        All of them `SHARED` makes no such assumption.
    held, given : array of bool, shape (dim,), and callable, optional
        Coordinates in which derivatives are dear, such as those that make a matrix which is to be
        factorized, and the function with no derivatives in them, which serves for all others.

    Returns
    -------
    callable
        Maps a point, shape (dim,), and the data to its `Derivatives` with a sparse Hessian; other
        data compile nothing.
    """
    number, n_dear = _numbered(group, np.ones(group.size, bool) if held is None else held)
    tangents = np.arange(number.max() + 1)[:, None] == number
    dear, cheap = np.split(tangents.astype(float), [n_dear])
    row, column, product_of, at = _pattern(group, number, n_dear)
    start_of_row = np.searchsorted(row, np.arange(group.size + 1))

    def along(function: LogDensity, tangents: Array, point: jax.Array, data: Any) -> Any:
        def gradient_and_value(point: jax.Array) -> tuple[jax.Array, jax.Array]:
            value, gradient = jax.value_and_grad(function)(point, *data)
            return gradient, value

        gradient, product, value = jax.linearize(gradient_and_value, point, has_aux=True)
        return value, gradient, jax.lax.map(product, jnp.asarray(tangents))

    @jax.jit
    def products(point: jax.Array, data: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
        value, gradient, found = along(function, dear, point, data)
        if given is not None:
            *_, others = along(given, cheap, point, data)
            found = jnp.concatenate([found, others])
        return value, gradient, found

    def assembled(point: Array, *data: Any) -> Derivatives:
        value, gradient, found = map(np.asarray, products(jnp.asarray(point), data))
        entries = found[product_of, at]
        hessian = sparse.csr_array((entries, column, start_of_row), shape=(group.size, group.size))
        return Derivatives(float(value), gradient, 0.5 * (hessian + hessian.T))

    return assembled


def _numbered(group: Index, held: NDArray[np.bool_]) -> tuple[Index, int]:
    """Product that each coordinate is moved in, -1 for none, and how many of them are dear.

    One product moves a coordinate of every group at once; one that is shared moves alone.
    """
    number, counts = np.full(group.size, -1), []
    grouped = group >= 0
    for own in (grouped & held, group == SHARED, grouped & ~held):
        first = number.max() + 1
        for value in np.unique(group[own]):
            members = np.flatnonzero(own & (group == value))
            number[members] = first + np.arange(members.size)
        counts.append(int(number.max()) + 1)
    return number, counts[1]


def _pattern(group: Index, number: Index, n_dear: int) -> tuple[Index, Index, Index, Index]:
    """Entries that may not be zero, row by row: where they are, and where they are found.

    Returns
    -------
    tuple of array of int
        Row and column in the Hessian; number and position of the product that holds the entry.
    """
    position, is_dear = np.arange(group.size), number < n_dear
    pairs = []
    for value in np.unique(group[group >= 0]):
        members = position[group == value]
        moved, at = (each.ravel() for each in np.meshgrid(members, members, indexing="ij"))
        # What is dear was left out of the products of all others.
        swapped = is_dear[at] & ~is_dear[moved]
        pairs.append((moved, at, np.where(swapped, at, moved), np.where(swapped, moved, at)))
    others, everyone = position[group >= 0], position[group != IGNORED]
    for own in position[group == SHARED]:
        pairs.append((np.full_like(everyone, own), everyone) * 2)
        alone = np.full_like(others, own)
        pairs.append((others, alone, alone, others))
    row, column, moved, at = (np.concatenate(each) for each in zip(*pairs, strict=True))
    order = np.lexsort((column, row))
    return row[order], column[order], number[moved[order]], at[order]
