"""NUTS of numpyro, compiled once a posterior: a run of another length is the same program.

A run is a sequence of pieces of `PIECE` transitions. So the program does not depend on the length,
a bar can show how far it is, and what a CPU piles up during a long program is given back.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from numpyro.infer import NUTS
from rich.console import Console
from rich.progress import track

from bayeslat.inference.devices import chains_at_once
from bayeslat.inference.samplers.base import (
    LogDensity,
    SamplerDraws,
    SamplerSettings,
    jittered_starts,
)

__all__ = ["sample"]

PIECE = 50
"""Transitions of one piece; chains that run at once wait for each other after each."""


class _Tuning(NamedTuple):
    """What a program depends on, besides the density and the number of chains."""

    tune: int
    target_accept: float
    max_depth: int


def sample(log_density: LogDensity, dim: int, settings: SamplerSettings) -> SamplerDraws:
    """Sample with numpyro; as many chains at once as the device takes.

    The arguments of a `jax.tree_util.Partial` are data: the next call with the same function, other
    data and the same tuning compiles nothing.
    """
    partial = log_density if isinstance(log_density, Partial) else Partial(log_density)
    tuning = _Tuning(settings.tune, settings.target_accept, settings.max_depth)
    begin, advance = _programs(partial.func, tuning)
    starts = jnp.asarray(jittered_starts(dim, settings))
    keys = jax.random.split(jax.random.key(settings.seed), settings.chains)
    at_once = chains_at_once(settings.chains)
    waves = [slice(first, first + at_once) for first in range(0, settings.chains, at_once)]
    n_pieces = -(-(settings.tune + settings.draws) // PIECE)
    plan = [(wave, piece) for wave in waves for piece in range(n_pieces)]
    found = []
    for wave, piece in track(
        plan,
        "sampling",
        console=Console(stderr=True),
        transient=True,
        disable=not settings.progress,
    ):
        if piece == 0:
            state = begin(partial.args, starts[wave], keys[wave])
        state, transitions = advance(partial.args, state)
        found.append([np.asarray(part) for part in transitions])
    return SamplerDraws(*(_joined(part, n_pieces, settings) for part in zip(*found, strict=True)))


def _joined(pieces: tuple[Any, ...], n_pieces: int, settings: SamplerSettings) -> Any:
    """All chains' draws of one quantity, from its pieces, wave after wave."""
    waves = [
        np.concatenate(pieces[first : first + n_pieces], axis=1)
        for first in range(0, len(pieces), n_pieces)
    ]
    return np.concatenate(waves)[:, settings.tune : settings.tune + settings.draws]


@lru_cache(maxsize=1)  # one posterior is sampled at a time, and a program holds on to its data
def _programs(
    function: Callable[..., jax.Array], tuning: _Tuning
) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """The start of several chains, and their next `PIECE` transitions."""

    def kernel(data: tuple[Any, ...]) -> NUTS:
        return NUTS(
            potential_fn=lambda u: -function(*data, u),
            target_accept_prob=tuning.target_accept,
            max_tree_depth=tuning.max_depth,
        )

    def begin(data: tuple[Any, ...], start: jax.Array, key: jax.Array) -> Any:
        return kernel(data).init(key, tuning.tune, start)

    def advance(data: tuple[Any, ...], state: Any) -> Any:
        nuts = kernel(data)
        nuts.init(state.rng_key, tuning.tune, state.z)  # for its schedule; the state is not used

        def transition(state: Any, _: None) -> Any:
            state = nuts.sample(state, (), {})
            return state, (state.z, state.diverging, state.num_steps, state.energy)

        return jax.lax.scan(transition, state, None, length=PIECE)

    def over_chains(program: Callable[..., Any], in_axes: tuple[int | None, ...]) -> Any:
        if jax.default_backend() == "cpu":  # a device each
            return jax.pmap(program, in_axes=in_axes)
        return jax.jit(jax.vmap(program, in_axes=in_axes))

    return over_chains(begin, (None, 0, 0)), over_chains(advance, (None, 0))
