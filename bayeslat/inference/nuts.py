"""NUTS of numpyro in pieces, compiled once a posterior and not once more for every length.

A run is a sequence of pieces of `PIECE` transitions. So the program does not depend on the length,
a bar can show how far it is, and what a CPU piles up during a long program is given back.
"""

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.infer import NUTS
from numpyro.infer.util import ParamInfo

__all__ = ["PIECE", "Piece", "Tuning", "pieces"]

PIECE = 50
"""Transitions of one piece; chains that run at once wait for each other after each."""

UNKNOWN_POTENTIAL = 1e9
"""Above any that sampling meets, and low enough for doubles to tell smaller ones apart."""

type Piece = tuple[Any, ...]
"""Position, divergence, leapfrog steps and energy: arrays, each (chain, `PIECE`) first."""


class Tuning(NamedTuple):
    """What a program depends on, besides the density and the number of chains."""

    tune: int
    target_accept: float
    max_depth: int


def pieces(
    function: Callable[..., jax.Array],
    data: tuple[Any, ...],
    starts: Any,
    keys: Any,
    tuning: Tuning,
    n_pieces: int,
) -> Iterator[Piece]:
    """Run chains next to each other, piece after piece.

    Parameters
    ----------
    function : callable
        Log-density of its data and a vector.
    data : tuple
        Its first arguments: other data compile nothing.
    starts : array, shape (chain, dim)
        Where chains begin.
    keys : array of keys, shape (chain,)
        Seed of each chain.
    tuning : Tuning
        Warm-up, which is part of the run, and tree depth.
    n_pieces : int
        Length of the run.
    """
    begin, advance = _programs(function, tuning)
    state = begin(data, starts, keys)
    for _ in range(n_pieces):
        state, transitions = advance(data, state)
        yield tuple(np.asarray(part) for part in transitions)


@lru_cache(maxsize=1)  # one posterior is sampled at a time, and a program holds on to its data
def _programs(
    function: Callable[..., jax.Array], tuning: Tuning
) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """The start of several chains, and their next `PIECE` transitions."""

    def kernel(data: tuple[Any, ...]) -> NUTS:
        return NUTS(
            potential_fn=lambda u: -function(*data, u),
            target_accept_prob=tuning.target_accept,
            max_tree_depth=tuning.max_depth,
            adapt_mass_matrix=False,  # the map has whitened; a few hundred draws know less
        )

    def begin(data: tuple[Any, ...], start: jax.Array, key: jax.Array) -> Any:
        return kernel(data).init(key, tuning.tune, _unknown(start))

    def advance(data: tuple[Any, ...], state: Any) -> Any:
        nuts = kernel(data)
        # for its schedule; the state is not used
        nuts.init(state.rng_key, tuning.tune, _unknown(state.z))

        def transition(state: Any, _: None) -> Any:
            state = nuts.sample(state, (), {})
            return state, (state.z, state.diverging, state.num_steps, state.energy)

        return jax.lax.scan(transition, state, None, length=PIECE)

    def over_chains(program: Callable[..., Any], in_axes: tuple[int | None, ...]) -> Any:
        if jax.default_backend() == "cpu":  # a device each
            return jax.pmap(program, in_axes=in_axes)
        return jax.jit(jax.vmap(program, in_axes=in_axes))

    return over_chains(begin, (None, 0, 0)), over_chains(advance, (None, 0))


def _unknown(z: jax.Array) -> ParamInfo:
    """A point whose potential nobody has computed.

    The program that did would take as long to compile as all others. Against a potential so high
    the first transition moves to the best point that it comes by, and is one of the warm-up.
    """
    return ParamInfo(z, jnp.asarray(UNKNOWN_POTENTIAL), jnp.zeros_like(z))
