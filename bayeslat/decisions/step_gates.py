"""Gates for an SLA-aware scheduler, made from a posterior: which steps it may run.

Three schedulers that differ in what they know and ask, each as tables for the engine simulator
(`bayeslat.engine.StepGates`):

* `mean_gates`: the expected latency keeps the limit, which is what a point prediction tells;
* `risk_gates`: P(latency > limit) <= risk under the posterior predictive, noise and all that is not
  known about the deployment included;
* `oracle_gates`: the same under a run's true parameters, so that noise alone is left.

The limit is one on the latency of a step itself. The gap between two steps (`StepOverhead`) is not
part of it: no choice of what a step computes changes the gap, and step logs do not hold it. Whoever
has a limit on the time between tokens takes a high quantile of the gap off it.

In each draw latency is linear in C, and so is the scale of its noise: the limit on C is a quotient
for a mean and for known parameters, and a root in C for the mixture over draws.
"""

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bayeslat.engine import StepGates, StepTimes
from bayeslat.errors import InputError
from bayeslat.noise import FAMILIES
from bayeslat.predictive import DeploymentDraws
from bayeslat.predictive.draws import Points
from bayeslat.predictive.estimate import check_probability

__all__ = ["mean_gates", "oracle_gates", "risk_gates"]

type Array = NDArray[np.float64]

LEAST_SLOPE: Final = 1e-9
"""Milliseconds a position below which context counts as free: a million positions are 1 us."""

FAR: Final = 1e6
"""Positions over which the slope by context is taken."""

TOLERANCE: Final = 1e-5
"""Error of a quantile at a root, as a share of the limit."""

MAX_STEPS: Final = 60
"""Bound on the steps of a root's search, which takes about four."""

MOST_DRAWS: Final = 2000
"""Draws that a gate is made from, evenly spaced where there are more."""

NODES_AT_ONCE: Final = 2048


def mean_gates(draws: DeploymentDraws, step_times: StepTimes, *, sla_ms: float) -> StepGates:
    """Steps whose expected latency is within the limit.

    Parameters
    ----------
    draws : DeploymentDraws
        Posterior draws of the deployment, of which `MOST_DRAWS` are used.
    step_times : StepTimes
        Whose nodes the gate has; its times are not looked at.
    sla_ms : float
        Limit of a step's latency in milliseconds.

    Notes
    -----
    The expectation is over draws and noise, but for the clipping of latencies at zero, which is
    left out.
    """
    _check_limit(sla_ms)
    draws = draws.thin(MOST_DRAWS)
    batch, tokens = _grid(step_times)
    older, own = (
        base + (sla_ms - level) / slope
        for base, level, slope in (
            (tokens + 1.0, *_mean_lines(draws, batch, tokens, tokens + 1.0, FAR)),
            (tokens, *_mean_lines(draws, batch, tokens, tokens, -tokens)),
        )
    )
    return _gates(step_times, older, own)


def risk_gates(
    draws: DeploymentDraws, step_times: StepTimes, *, sla_ms: float, risk: float
) -> StepGates:
    """Steps whose posterior predictive exceeds the limit with no more than the risk.

    Parameters
    ----------
    draws, step_times, sla_ms
        As in `mean_gates`.
    risk : float
        Admitted P(latency > limit), in (0, 1).
    """
    _check_limit(sla_ms)
    check_probability("risk", risk)
    draws = draws.thin(MOST_DRAWS)
    batch, tokens = _grid(step_times)
    level = np.full(batch.size, 1.0 - risk)

    def quantile(where: NDArray[np.int64], context: Array) -> Array:
        return draws.ppf_mean(level[where], Points(batch[where], tokens[where], context))

    everywhere, base = np.arange(batch.size), tokens + 1.0
    _, slope = _mean_lines(draws, batch, tokens, base, FAR)
    older = _roots(quantile, base, slope, sla_ms)
    _, own_slope = _mean_lines(draws, batch, tokens, tokens, -tokens)
    own = tokens + (sla_ms - quantile(everywhere, tokens)) / own_slope
    return _gates(step_times, older, own)


def oracle_gates(step_times: StepTimes, *, sla_ms: float, risk: float) -> StepGates:
    """Steps that exceed the limit with no more than the risk when a run's parameters are known.

    Parameters
    ----------
    step_times : StepTimes
        The true step times of each run.
    sla_ms, risk
        As in `risk_gates`; here all that is random is the noise of a step.

    Returns
    -------
    StepGates
        A table for each run.
    """
    _check_limit(sla_ms)
    check_probability("risk", risk)
    family = FAMILIES[step_times.family]
    z = np.broadcast_to(
        family.standard_ppf(np.asarray(1.0 - risk), step_times.nu), step_times.nu.shape
    )
    scaled = step_times.sigma * z[:, None, None]
    allowed = sla_ms / (np.exp(scaled) if family.log_scale else np.maximum(1.0 + scaled, 1e-9))
    assert step_times.per_own_position is not None
    older, own = (
        (allowed - step_times.location) / np.maximum(slope, LEAST_SLOPE)
        for slope in (step_times.per_position, step_times.per_own_position)
    )
    return StepGates(step_times.batch_nodes, step_times.extra_nodes, older, own)


def _gates(step_times: StepTimes, older: Array, own: Array) -> StepGates:
    shape = (1, step_times.batch_nodes.size, step_times.extra_nodes.size)
    nodes = step_times.batch_nodes, step_times.extra_nodes
    return StepGates(*nodes, older.reshape(shape), own.reshape(shape))


def _grid(step_times: StepTimes) -> tuple[Array, Array]:
    """B and S of every node, flat."""
    batch, extra = np.meshgrid(step_times.batch_nodes, step_times.extra_nodes, indexing="ij")
    return batch.ravel().astype(float), (batch + extra).ravel().astype(float)


def _mean_lines(
    draws: DeploymentDraws, batch: Array, tokens: Array, base: Array, apart: Array | float
) -> tuple[Array, Array]:
    """Expected latency at C = `base` and its slope by C, from `apart` positions further on."""
    level, slope = np.empty(batch.size), np.empty(batch.size)
    apart = np.broadcast_to(apart, batch.shape)
    points, beyond = Points(batch, tokens, base), Points(batch, tokens, base + apart)
    for where, part in points.chunks(NODES_AT_ONCE):
        near, noise = draws.location_and_scale(part)
        rise = (draws.location(beyond[where]) - near) / apart[where]
        factor = np.exp(0.5 * np.square(noise)) if draws.noise.log_scale else 1.0
        level[where] = (near * factor).mean(axis=0)
        slope[where] = (rise * factor).mean(axis=0)
    return level, np.maximum(slope, LEAST_SLOPE)


def _roots(
    quantile: Callable[[NDArray[np.int64], Array], Array],
    base: Array,
    slope: Array,
    sla_ms: float,
) -> Array:
    """C at which the quantile reaches the limit; below `base` the line with the given slope.

    The quantile rises with C, nearly linearly: secants through the last two points, kept between
    `base` and a point beyond the root.
    """
    everywhere = np.arange(base.size)
    spare = sla_ms - quantile(everywhere, base)
    roots = base + spare / slope
    left = everywhere[(spare > 0.0) & (slope > LEAST_SLOPE)]
    low, before, f_before = base[left], base[left], spare[left]
    high, f_last = _beyond(quantile, left, low, roots[left], sla_ms)
    last = high
    for _ in range(MAX_STEPS):
        if left.size == 0:
            break
        with np.errstate(divide="ignore", invalid="ignore"):
            x = last - f_last * (last - before) / (f_last - f_before)
        x = np.where((x > low) & (x < high), x, 0.5 * (low + high))
        before, f_before = last, f_last
        last, f_last = x, sla_ms - quantile(left, x)
        roots[left] = x
        low, high = np.where(f_last >= 0.0, x, low), np.where(f_last >= 0.0, high, x)
        more = (np.abs(f_last) > TOLERANCE * sla_ms) & (high - low > 0.5)
        left, low, high = left[more], low[more], high[more]
        before, f_before, last, f_last = before[more], f_before[more], last[more], f_last[more]
    return roots


def _beyond(
    quantile: Callable[[NDArray[np.int64], Array], Array],
    where: NDArray[np.int64],
    low: Array,
    guess: Array,
    sla_ms: float,
) -> tuple[Array, Array]:
    """A C at which the limit is exceeded, and by how much, from a guess that may fall short."""
    high, short = guess.copy(), np.arange(where.size)
    spare = np.empty(where.size)
    for _ in range(MAX_STEPS):
        spare[short] = sla_ms - quantile(where[short], high[short])
        short = short[spare[short] >= 0.0]
        if short.size == 0:
            break
        high[short] = low[short] + 2.0 * (high[short] - low[short])
    return high, spare


def _check_limit(sla_ms: float) -> None:
    if not 0.0 < sla_ms < np.inf:
        raise InputError(
            f"got sla_ms={sla_ms}, expected positive finite milliseconds; correct the limit"
        )
