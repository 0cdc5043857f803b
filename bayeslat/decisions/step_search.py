"""Searches for the step with most tokens a second: every integer, or differential evolution.

Candidates are ranked by the mean over `SCREEN_DRAWS` draws of S over the latency without noise. The
`KEPT` best are handed on, to be compared with all draws and the noise included.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import optimize

from bayeslat.decisions.step_space import StepSpace
from bayeslat.gate import StepGate
from bayeslat.predictive import DeploymentDraws
from bayeslat.predictive.draws import Points

__all__ = ["best_of_all", "evolve", "screened_rates"]

type Array = NDArray[np.float64]

SCREEN_DRAWS: Final = 128
"""Draws, evenly spaced, that rank candidates; all draws compare the best of them."""

KEPT: Final = 256
"""Candidates that are compared with all draws."""

MAX_CELLS: Final = 2_000_000
"""Draws times points held in memory at once."""

POPULATION: Final = 64
"""Steps of a generation, log-uniform at the start: the best ones are often far below the bounds."""

GENERATIONS: Final = 150


def screened_rates(draws: DeploymentDraws, points: Points) -> Array:
    """Mean over draws of S over the latency without noise, shape (point,)."""
    rates = np.empty(points.size)
    for where, part in points.chunks(max(1, MAX_CELLS // draws.n_draws)):
        rates[where] = np.mean(part.total_tokens / draws.location(part), axis=0)
    return rates


def best_of_all(
    draws: DeploymentDraws, gates: Sequence[StepGate], space: StepSpace
) -> list[Points]:
    """For each gate the candidates of the whole space that rank best."""
    few = draws.thin(SCREEN_DRAWS)
    found = [(space.points([], []), np.empty(0)) for _ in gates]
    for points in space.chunks():
        at = points.batch_size, points.total_tokens, points.context_tokens
        fits = np.array([gate.fits(*at) for gate in gates], dtype=bool)
        rates = np.full(points.size, -np.inf)
        some = fits.any(axis=0)
        rates[some] = screened_rates(few, points[some])
        found = [
            _leading(space, before, points[own], rates[own])
            for before, own in zip(found, fits, strict=True)
        ]
    return [points for points, _ in found]


def _leading(
    space: StepSpace, before: tuple[Points, Array], points: Points, rates: Array
) -> tuple[Points, Array]:
    """The `KEPT` best of those before and these."""
    batch = np.concatenate([before[0].batch_size, points.batch_size])
    tokens = np.concatenate([before[0].total_tokens, points.total_tokens])
    together = np.concatenate([before[1], rates])
    best = np.argsort(-together, kind="stable")[:KEPT]
    return space.points(batch[best], tokens[best]), together[best]


def evolve(draws: DeploymentDraws, gate: StepGate, space: StepSpace, seed: int) -> Points:
    """Candidates around the best step that differential evolution finds, and climbs on from.

    None where it meets no step that fits.
    """
    few = draws.thin(SCREEN_DRAWS)
    low, high = space.batch_range
    bounds = [(low, high)]
    if not space.decode_only:
        bounds.append((max(low, space.min_total_tokens), space.max_total_tokens))

    def cost(x: Array) -> Array:
        """Less the rate where a step fits, and how far it is from fitting where not."""
        batch = np.rint(np.reshape(x[0], -1))
        tokens = np.rint(np.reshape(x[-1], -1))
        score = _score(few, gate, space, batch, tokens)
        lost = np.flatnonzero(~np.isfinite(score))
        # P(T > SLA) is flat far out; fewer tokens lead back to where it is not.
        far = 1.0 + tokens[lost] / space.max_total_tokens + np.maximum(batch - tokens, 0.0)[lost]
        real = lost[tokens[lost] >= batch[lost]]
        excess = np.zeros(batch.size)
        points = space.points(batch[real], tokens[real])
        at = points.batch_size, points.total_tokens, points.context_tokens
        if real.size:
            excess[real] = np.fmax(np.asarray(gate.p_exceed(*at)) - gate.risk, 0.0)
        score[lost] = -(far + excess[lost])
        return -score

    rng = np.random.default_rng(seed)
    start = [np.exp(rng.uniform(np.log(a), np.log(b), POPULATION)) for a, b in bounds]
    if len(bounds) == 2:
        start[1] = np.maximum(start[0], start[1])
    found = optimize.differential_evolution(
        cost,
        [(a, b if b > a else a + 0.4) for a, b in bounds],  # scipy wants room between bounds
        integrality=[True] * len(bounds),
        init=np.array(start).T,
        maxiter=GENERATIONS,
        tol=0.0,
        rng=rng,
        polish=False,
        updating="deferred",
        vectorized=True,
    )
    return _climb(few, gate, space, float(np.rint(found.x[0])), float(np.rint(found.x[-1])))


def _score(
    draws: DeploymentDraws, gate: StepGate, space: StepSpace, batch: Array, tokens: Array
) -> Array:
    """Screened rate of steps; minus infinity where one is not searched or does not fit."""
    score = np.full(batch.size, -np.inf)
    inside = np.flatnonzero(space.holds(batch, tokens))
    if inside.size == 0:
        return score
    points = space.points(batch[inside], tokens[inside])
    fits = np.asarray(gate.fits(points.batch_size, points.total_tokens, points.context_tokens))
    score[inside[fits]] = screened_rates(draws, points[fits])
    return score


def _climb(
    draws: DeploymentDraws, gate: StepGate, space: StepSpace, batch: float, tokens: float
) -> Points:
    """Candidates around a step, after moves by powers of two in B and S have led nowhere better."""

    def moves(largest: int) -> Array:
        powers = 2.0 ** np.arange(int(np.log2(max(largest, 1))) + 1)
        return np.concatenate([-powers[::-1], [0.0], powers])

    near = np.arange(-3.0, 4.0)
    steps_b = np.union1d(moves(space.max_batch_size), near)
    steps_s = np.zeros(1) if space.decode_only else np.union1d(moves(space.max_total_tokens), near)
    by_b, by_s = (steps.ravel() for steps in np.meshgrid(steps_b, steps_s, indexing="ij"))
    best = -np.inf
    while True:
        around = batch + by_b
        then = around if space.decode_only else tokens + by_s
        score = _score(draws, gate, space, around, then)
        top = int(np.argmax(score))
        if not score[top] > best:
            order = np.argsort(-score, kind="stable")[:KEPT]
            order = order[np.isfinite(score[order])]
            return space.points(around[order], then[order])
        best, batch, tokens = score[top], around[top], then[top]
