"""NUTS of numpyro: as many chains at once as the device takes."""

from collections.abc import Iterator
from typing import Any, Final

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from rich.console import Console
from rich.progress import track

from bayeslat.inference.crew import crew_for
from bayeslat.inference.devices import chains_at_once, own_cores
from bayeslat.inference.nuts import PIECE, Piece, Tuning, pieces
from bayeslat.inference.samplers.base import (
    LogDensity,
    SamplerDraws,
    SamplerSettings,
    jittered_starts,
)

__all__ = ["sample"]

MIN_CREW_DIM: Final = 150
"""Coordinates from which on processes of their own save more than they take to start."""


def sample(log_density: LogDensity, dim: int, settings: SamplerSettings) -> SamplerDraws:
    """Sample with numpyro.

    The arguments of a `jax.tree_util.Partial` are data: the next call with the same function, other
    data and the same tuning compiles nothing.
    """
    partial = log_density if isinstance(log_density, Partial) else Partial(log_density)
    tuning = Tuning(settings.tune, settings.target_accept, settings.max_depth)
    starts = jnp.asarray(jittered_starts(dim, settings))
    keys = jax.random.split(jax.random.key(settings.seed), settings.chains)
    at_once = chains_at_once(settings.chains)
    n_pieces = -(-(settings.tune + settings.draws) // PIECE)
    n_waves = settings.chains // at_once
    if jax.default_backend() == "cpu" and at_once > 1 and dim >= MIN_CREW_DIM:
        crew = crew_for(partial.func, partial.args, dim, own_cores(at_once))
        order = np.arange(settings.chains).reshape(at_once, n_waves).T.ravel()
        run: Iterator[Piece] = (
            tuple(np.concatenate(part) for part in zip(*each, strict=True))
            for each in crew.run(partial.args, starts, keys, tuning, n_pieces)
        )
    else:
        order = np.arange(settings.chains)
        waves = [slice(first, first + at_once) for first in order[::at_once]]
        run = (
            piece
            for wave in waves
            for piece in pieces(
                partial.func, partial.args, starts[wave], keys[wave], tuning, n_pieces
            )
        )
    found = list(
        track(
            run,
            "sampling",
            total=n_waves * n_pieces,
            console=Console(stderr=True),
            transient=True,
            disable=not settings.progress,
        )
    )
    back = np.argsort(order)
    return SamplerDraws(
        *(_joined(part, n_pieces, settings)[back] for part in zip(*found, strict=True))
    )


def _joined(parts: tuple[Any, ...], n_pieces: int, settings: SamplerSettings) -> Any:
    """All chains' draws of one quantity, from its pieces, wave after wave."""
    waves = [
        np.concatenate(parts[first : first + n_pieces], axis=1)
        for first in range(0, len(parts), n_pieces)
    ]
    return np.concatenate(waves)[:, settings.tune : settings.tune + settings.draws]
