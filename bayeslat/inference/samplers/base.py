"""What every sampler takes and gives."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import jax
import numpy as np
from numpy.typing import NDArray

__all__ = ["Sampler", "SamplerDraws", "SamplerSettings", "jittered_starts"]

type Array = NDArray[np.float64]
type LogDensity = Callable[[jax.Array], jax.Array]

START_JITTER = 0.1
"""Spread of the starts in whitened coordinates: enough to be dispersed, never in a far tail."""


@dataclass(frozen=True)
class SamplerSettings:
    """How long and how carefully to sample.

    Parameters
    ----------
    draws, tune, chains : int
        Kept draws and warm-up draws of each chain, and chains.
    target_accept : float
        Acceptance that the step size aims at.
    max_depth : int
        Trees have at most 2**max_depth leaves.
    seed : int
        Seed of starts, warm-up and draws.
    progress : bool
        Show a progress bar.
    retry : bool
        Whether a run that does not pass its verdict is followed by a more careful one.
    """

    draws: int = 1000
    tune: int = 200
    chains: int = 4
    target_accept: float = 0.8
    max_depth: int = 8
    seed: int = 0
    progress: bool = False
    retry: bool = True


@dataclass(frozen=True)
class SamplerDraws:
    """What came out, every array (chain, draw) first.

    Parameters
    ----------
    position : array, shape (chain, draw, dim)
        Draws.
    diverging : array of bool
        Divergent transitions.
    n_steps : array of int
        Leapfrog steps of each transition.
    energy : array
        Hamiltonian of each transition.
    """

    position: Array
    diverging: NDArray[np.bool_]
    n_steps: NDArray[np.int64]
    energy: Array


class Sampler(Protocol):
    """A sampler is a function of a log-density, its dimension and settings."""

    def __call__(
        self, log_density: LogDensity, dim: int, settings: SamplerSettings
    ) -> SamplerDraws:
        """Sample a log-density over vectors of length `dim`, starting near zero."""


def jittered_starts(dim: int, settings: SamplerSettings) -> Array:
    """Starting points, shape (chain, dim)."""
    rng = np.random.default_rng(settings.seed)
    return START_JITTER * rng.standard_normal((settings.chains, dim))
