"""Gaussians whose precision is an arrow: a dense core, and leaves that meet only in the core.

The weights of the discrepancy are many, and those of one software stack depend on those of another
through the parameters of their deployments alone. With H the precision, c the core and l a leaf::

    leaf given core:   mean -inverse(H_ll) H_lc c,  precision H_ll
    core:              precision H_cc - sum over leaves of H_cl inverse(H_ll) H_lc

so that a linear map from white noise costs the square of the core and of each leaf, not of their
sum. Leaves are batched by their size; without leaves everything is dense.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

__all__ = ["ArrowFactor", "ArrowLayout", "LeafIndex", "arrow_layout"]

type Array = NDArray[np.float64]
type Index = NDArray[np.int64]

MIN_TAIL_PRECISION = 4.0
"""Least precision of what scales the rest: priors of log scales have deviations of a half."""

MIN_EIGENVALUE = 0.02
"""Relative floor of a precision that is not definite, after diagonal scaling."""


class LeafIndex(NamedTuple):
    """Leaves of one size.

    Parameters
    ----------
    own : array of int, shape (leaf, q)
        Coordinates of each leaf.
    near : array of int, shape (leaf, p)
        Positions within the core of what each leaf depends on.
    """

    own: Index
    near: Index


@dataclass(frozen=True)
class ArrowLayout:
    """Which coordinates are core and which are leaves.

    Parameters
    ----------
    dim : int
        Number of coordinates.
    core : array of int, shape (n,)
        Coordinates of the core.
    tail : array of bool, shape (n,)
        Which of the core scale the rest: in a hierarchy the precision need not be definite in them.
    leaves : tuple of LeafIndex
        One entry a size of leaf.
    """

    dim: int
    core: Index
    tail: NDArray[np.bool_]
    leaves: tuple[LeafIndex, ...] = ()

    @property
    def order(self) -> Index:
        """Where each coordinate lies when the core and then the leaves are laid end to end."""
        joined = np.concatenate([self.core, *(leaf.own.ravel() for leaf in self.leaves)])
        order = np.empty(self.dim, dtype=np.int64)
        order[joined] = np.arange(self.dim)
        return order

    def factor(self, precision: Array) -> "ArrowFactor":
        """Factor of the covariance.

        Given all else the tail has a precision of at least `MIN_TAIL_PRECISION` in any direction.

        Parameters
        ----------
        precision : array, shape (dim, dim)
            Only the arrow's entries are read.
        """
        core = precision[np.ix_(self.core, self.core)].copy()
        gains, roots = [], []
        for leaf in self.leaves:
            held = precision[leaf.own[:, :, None], leaf.own[:, None, :]]
            cross = precision[leaf.own[:, :, None], self.core[leaf.near][:, None, :]]
            root = inverse_root(held)
            white = np.swapaxes(root, 1, 2) @ cross
            np.add.at(
                core,
                (leaf.near[:, :, None], leaf.near[:, None, :]),
                -np.swapaxes(white, 1, 2) @ white,
            )
            gains.append(-root @ white)
            roots.append(root)
        return ArrowFactor(
            inverse_root(_with_held_tail(core, self.tail)),
            tuple(gains),
            tuple(roots),
            tuple(leaf.near for leaf in self.leaves),
            self.order,
        )


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ArrowFactor:
    """A linear map from white noise u to coordinates y; a pytree, so that programs take it as data.

    u is laid end to end: core first, then leaves.

    Parameters
    ----------
    core : array, shape (n, n)
        Factor of the core's covariance.
    gains : tuple of array, each shape (leaf, q, p)
        Regression of leaves on the core coordinates near them.
    roots : tuple of array, each shape (leaf, q, q)
        Factors of the leaves' covariance given the core.
    near : tuple of array of int, each shape (leaf, p)
        Positions within the core.
    order : array of int, shape (dim,)
        Where each coordinate lies end to end.
    """

    core: Array
    gains: tuple[Array, ...]
    roots: tuple[Array, ...]
    near: tuple[Index, ...]
    order: Index

    def apply(self, u: jax.Array) -> jax.Array:
        """Map white noise, shape (dim,), to coordinates (JAX)."""
        core = jnp.asarray(self.core) @ u[: self.core.shape[0]]
        parts = [core]
        start = self.core.shape[0]
        for gain, root, near in zip(self.gains, self.roots, self.near, strict=True):
            stop = start + root.shape[0] * root.shape[1]
            own = u[start:stop].reshape(root.shape[0], root.shape[1])
            moved = jnp.einsum("gqp,gp->gq", gain, core[near])
            parts.append((moved + jnp.einsum("gqr,gr->gq", root, own)).ravel())
            start = stop
        return jnp.concatenate(parts)[self.order]

    def map(self, draws: Array) -> Array:
        """Map draws, shape (..., dim)."""
        flat = jnp.asarray(draws.reshape(-1, draws.shape[-1]))
        return np.asarray(_apply_all(self, flat)).reshape(draws.shape)

    def pull_back(self, gradient: Array) -> Array:
        """The transposed map: a gradient in y, shape (dim,), as one in u."""
        zero = jnp.zeros(self.order.size)
        return np.asarray(jax.vjp(self.apply, zero)[1](jnp.asarray(gradient))[0])

    def whitened(self, y: Array) -> Array:
        """The inverse map of the core alone: draws, shape (draw, dim), to (draw, n)."""
        end_to_end = np.empty_like(y)
        end_to_end[:, self.order] = y
        n = self.core.shape[0]
        return np.linalg.solve(self.core, end_to_end[:, :n].T).T

    def stretched(self, linear: Array) -> Self:
        """The map after a linear map of the core's white noise."""
        return type(self)(self.core @ linear, self.gains, self.roots, self.near, self.order)


@jax.jit
def _apply_all(factor: ArrowFactor, draws: jax.Array) -> jax.Array:
    return jax.lax.map(factor.apply, draws, batch_size=64)


def arrow_layout(
    dim: int, leaves: Sequence[Index], near: Sequence[Index], tail: Sequence[int] | Index = ()
) -> ArrowLayout:
    """Lay coordinates out.

    Parameters
    ----------
    dim : int
        Number of coordinates.
    leaves : sequence of array of int
        Coordinates of each leaf.
    near : sequence of array of int
        Core coordinates that each leaf depends on; leaves of one size have as many.
    tail : sequence of int
        Core coordinates that scale the rest.
    """
    inside = np.zeros(dim, dtype=bool)
    for own in leaves:
        inside[own] = True
    core = np.flatnonzero(~inside)
    position = np.full(dim, -1)
    position[core] = np.arange(core.size)
    batches = []
    for size in sorted({own.size for own in leaves}):
        chosen = [i for i, own in enumerate(leaves) if own.size == size]
        batches.append(
            LeafIndex(
                np.stack([leaves[i] for i in chosen]), np.stack([position[near[i]] for i in chosen])
            )
        )
    return ArrowLayout(dim, core, np.isin(core, tail), tuple(batches))


def _with_held_tail(core: Array, tail: NDArray[np.bool_]) -> Array:
    """The core's precision, what is left of the tail given the others clipped from below."""
    if not tail.any():
        return core
    others = core[np.ix_(~tail, ~tail)]
    white = inverse_root(others).T @ core[np.ix_(~tail, tail)]
    left = core[np.ix_(tail, tail)] - white.T @ white
    values, vectors = np.linalg.eigh(left)
    held = core.copy()
    held[np.ix_(tail, tail)] += (vectors * np.maximum(MIN_TAIL_PRECISION - values, 0.0)) @ vectors.T
    return held


def inverse_root(precision: Array) -> Array:
    """A factor F with F F' = inverse(precision); leading axes are a batch.

    Where the precision is not definite, its eigenvalues are clipped after scaling by the diagonal,
    so that units make no difference (short of 1e4 between standard deviations).
    """
    try:
        lower = np.linalg.cholesky(precision)
    except np.linalg.LinAlgError:
        return _clipped_inverse_root(precision)
    return np.swapaxes(np.linalg.inv(lower), -1, -2)


def _clipped_inverse_root(precision: Array) -> Array:
    diagonal = np.abs(np.diagonal(precision, axis1=-2, axis2=-1))
    scale = np.sqrt(np.maximum(diagonal, 1e-8 * diagonal.max(axis=-1, keepdims=True)))
    values, vectors = np.linalg.eigh(precision / (scale[..., :, None] * scale[..., None, :]))
    root = vectors / np.sqrt(np.maximum(values, MIN_EIGENVALUE))[..., None, :]
    return root @ np.swapaxes(vectors, -1, -2) / scale[..., :, None]
