"""Populations on their way from prior to posterior, for posteriors of few steps.

Few steps leave a posterior as wide as its prior in most directions, thin and bent in others, and
often with two modes (either the context or the batch explains a slow step), between which a chain
seldom finds its way. A population that starts in the prior, and sees the likelihood raised to a
power that grows from zero to one, carries every mode along with its weight: sequential Monte Carlo
(Del Moral, Doucet and Jasra, 2006, "Sequential Monte Carlo samplers"). Particles are moved by
Hamiltonian Monte Carlo in coordinates whitened by the population itself. Several populations that
share nothing but these coordinates and the powers are compared as chains are.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray
from scipy import optimize

from bayeslat.inference.density import FlatDensity
from bayeslat.inference.samplers import SamplerDraws, SamplerSettings

__all__ = ["temper"]

type Array = NDArray[np.float64]

KEPT_SHARE = 0.5
"""Effective share of a population that the next power leaves."""

MOVES = 5
"""Moves at each power; as many between two sets of draws that one population gives."""

SETS = 2
"""Sets of draws that each population gives: half the particles, and the same number of draws."""

PATH = 2.4
"""Length of a move in whitened coordinates, between a quarter of an orbit and half of one."""

MAX_LEAPFROGS = 32
STEP = 0.3
"""First step size in whitened coordinates; from then on it follows the acceptance."""

STEP_JITTER = (0.5, 1.2)
"""Factors of the step size, one a particle: modes differ in width."""

ACCEPTANCE = 0.8
DIVERGENT = 1000.0
"""Error of the energy from which on a move counts as divergent."""


class _Population(NamedTuple):
    """Particles of all populations, one after the other."""

    position: jax.Array
    """Shape (particle, dim)."""
    log_likelihood: jax.Array
    """Shape (particle,)."""


class _Moved(NamedTuple):
    """Particles after one move, with one figure a particle of each kind."""

    end: _Population
    acceptance: jax.Array
    energy: jax.Array
    diverging: jax.Array
    leapfrogs: int


def temper(
    density: FlatDensity, starts: Array, settings: SamplerSettings, report: Callable[[str], None]
) -> SamplerDraws:
    """Sample a posterior from draws of its prior.

    Parameters
    ----------
    density : FlatDensity
        Prior and likelihood.
    starts : array, shape (chain, particle, dim)
        Draws of the prior, one population a chain.
    settings : SamplerSettings
        Its seed.
    report : callable
        Told how many powers it took.

    Returns
    -------
    SamplerDraws
        Flat vectors of the model; `SETS` draws a particle.
    """
    chains, size, dim = starts.shape
    rng = np.random.default_rng(settings.seed)
    walk = _Walk(density, rng)
    position = jnp.asarray(starts.reshape(-1, dim))
    log_likelihood = jax.jit(jax.vmap(density.likelihood))(position)
    # In the prior's far tails the formula may overflow.
    known = jnp.where(jnp.isfinite(log_likelihood), log_likelihood, -jnp.inf)
    population = _Population(position, known)
    power, n_powers = 0.0, 0
    while power < 1.0:
        fit = np.asarray(population.log_likelihood).reshape(chains, size)
        rise = _rise(fit, 1.0 - power)
        power = min(1.0, power + rise)
        weights = _weights(fit, rise)
        factor = _factor(np.asarray(population.position), weights.ravel() / chains)
        picks = np.concatenate(
            [chain * size + _systematic(row, rng) for chain, row in enumerate(weights)]
        )
        population = walk(_Population(*(part[picks] for part in population)), power, factor)[-1].end
        n_powers += 1
    report(f"{n_powers} powers of the likelihood, step {walk.step:.2f}")
    sets = []
    for _ in range(SETS):
        factor = _factor(np.asarray(population.position), np.ones(chains * size))
        moves = walk(population, 1.0, factor)
        population = moves[-1].end
        diverging = np.any([move.diverging for move in moves], axis=0)
        leapfrogs = np.full(chains * size, sum(move.leapfrogs for move in moves))
        sets.append((population.position, diverging, leapfrogs, moves[-1].energy))
    # Draws of one particle stand next to each other, where effective sizes see how alike they are.
    return SamplerDraws(
        *(
            np.stack(parts, axis=1).reshape(chains, SETS * size, *np.shape(parts[0])[1:])
            for parts in zip(*sets, strict=True)
        )
    )


class _Walk:
    """Moves of a population, with a step size that remembers how the last ones went."""

    def __init__(self, density: FlatDensity, rng: np.random.Generator) -> None:
        self.step = STEP
        self._rng = rng
        self._move = jax.jit(partial(_move, density))

    def __call__(self, population: _Population, power: float, factor: jax.Array) -> list[_Moved]:
        """`MOVES` moves at one power of the likelihood."""
        found: list[_Moved] = []
        for _ in range(MOVES):
            leapfrogs = int(np.clip(round(PATH / self.step), 1, MAX_LEAPFROGS))
            key = jax.random.key(int(self._rng.integers(2**31)))
            found.append(self._move(population, key, power, factor, self.step, leapfrogs))
            population = found[-1].end
            surplus = float(found[-1].acceptance.mean()) - ACCEPTANCE
            self.step = float(np.clip(self.step * np.exp(surplus), 1e-3, 1.0))
        return found


def _move(
    density: FlatDensity,
    population: _Population,
    key: jax.Array,
    power: Any,
    factor: jax.Array,
    step: Any,
    leapfrogs: Any,
) -> _Moved:
    """One transition of Hamiltonian Monte Carlo of every particle."""
    n = population.position.shape[0]
    of_momentum, of_step, of_choice = jax.random.split(key, 3)
    low, high = STEP_JITTER
    steps = step * jax.random.uniform(of_step, (n, 1), minval=low, maxval=high)

    def tempered(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        log_likelihood = density.likelihood(x)
        return density.prior(x) + power * log_likelihood, log_likelihood

    both = jax.vmap(jax.value_and_grad(tempered, has_aux=True))

    def leap(_: Any, state: tuple[Any, ...]) -> tuple[Any, ...]:
        x, momentum, _, _, force = state
        momentum = momentum + 0.5 * steps * (force @ factor)
        x = x + steps * (momentum @ factor.T)
        (value, log_likelihood), force = both(x)
        return x, momentum + 0.5 * steps * (force @ factor), value, log_likelihood, force

    momentum = jax.random.normal(of_momentum, population.position.shape)
    (value, log_likelihood), force = both(population.position)
    energy = -value + 0.5 * jnp.square(momentum).sum(axis=1)
    start = (population.position, momentum, value, log_likelihood, force)
    x, momentum, value, log_likelihood, _ = jax.lax.fori_loop(0, leapfrogs, leap, start)
    error = -value + 0.5 * jnp.square(momentum).sum(axis=1) - energy
    acceptance = jnp.nan_to_num(jnp.exp(-jnp.maximum(error, 0.0)))
    accepted = jax.random.uniform(of_choice, (n,)) < acceptance
    return _Moved(
        _Population(
            jnp.where(accepted[:, None], x, population.position),
            jnp.where(accepted, log_likelihood, population.log_likelihood),
        ),
        acceptance,
        energy,
        ~(error < DIVERGENT),
        leapfrogs,
    )


def _weights(log_likelihood: Array, rise: float) -> Array:
    """Weights of a rise of the power, shape (chain, particle), each chain's summing to one."""
    relative = rise * (log_likelihood - log_likelihood.max(axis=1, keepdims=True))
    weights = np.exp(relative)
    return weights / weights.sum(axis=1, keepdims=True)


def _rise(log_likelihood: Array, most: float) -> float:
    """The largest rise of the power that keeps every population's effective share."""

    def spare(log_rise: float) -> float:
        effective = 1.0 / np.square(_weights(log_likelihood, np.exp(log_rise))).sum(axis=1)
        return float(effective.min()) / log_likelihood.shape[1] - KEPT_SHARE

    if spare(np.log(most)) >= 0.0:
        return most
    return float(np.exp(optimize.brentq(spare, np.log(most) - 40.0, np.log(most))))


def _systematic(weights: Array, rng: np.random.Generator) -> NDArray[np.int64]:
    """Systematic resampling: the particles of the next population, shape (particle,)."""
    points = (rng.random() + np.arange(weights.size)) / weights.size
    return np.minimum(np.searchsorted(np.cumsum(weights), points), weights.size - 1)


def _factor(position: Array, weights: Array) -> jax.Array:
    """Cholesky factor of the covariance of weighted particles."""
    covariance = np.cov(position, rowvar=False, aweights=weights)
    return jnp.asarray(np.linalg.cholesky(covariance))
