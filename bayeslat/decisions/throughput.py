"""Throughput under an SLA: the step that computes most tokens a second within the risk.

A step of B requests and S tokens that is repeated computes S / E[T | draw] tokens per time in the
long run (renewal reward: the noise of single steps averages out, what is not known about the
deployment does not). The throughput of a step is that rate in each posterior draw; its value is the
mean over draws, which is not S over the mean of T (Jensen).

The SLA is a gate (`bayeslat.gate.StepGate`): a step is a candidate where the gate says that
P(T > SLA) <= risk. Neither the rate nor the gate is monotone in B or S, so every integer is asked
about; `solver="evolution"` is for ranges where that takes too long. Both rank candidates by a few
draws of the latency without noise (`bayeslat.decisions.step_search`). The best of them are compared
by all draws, noise included; one that breaks the risk by all draws, which a gate of a few draws may
let through, is chosen only where they all do.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bayeslat.decisions.arguments import check_count
from bayeslat.decisions.compiling import compile_gate
from bayeslat.decisions.inversion import exceedance
from bayeslat.decisions.step_search import best_of_all, evolve
from bayeslat.decisions.step_space import StepSpace
from bayeslat.errors import InputError
from bayeslat.gate import StepGate
from bayeslat.predictive import DeploymentDraws, Estimate, LatencyDistribution
from bayeslat.predictive.draws import Points
from bayeslat.predictive.estimate import check_probability, estimate

__all__ = [
    "BestStep",
    "Frontier",
    "best_step",
    "compiled_frontier",
    "frontier",
    "sla_range",
    "step_rates",
]

type Array = NDArray[np.float64]
type Solver = Literal["exhaustive", "evolution"]

MAX_CELLS: Final = 2_000_000
"""Draws times points held in memory at once."""


GATE_DRAWS: Final = 1000
"""Draws that gates are compiled from unless one asks for more: seconds for each limit."""


@dataclass(frozen=True)
class BestStep:
    """The step with the largest expected throughput within an SLA.

    Parameters
    ----------
    batch_size, total_tokens : int
        B and S.
    context_tokens : float
        C.
    sla_ms, risk : float
        Limit, and admitted probability of breaking it.
    tokens_per_s : Estimate
        Throughput, mean over draws of S / E[T | draw].
    p_exceeds : Estimate
        P(T > SLA), from all draws: what the gate approximates.
    latency_ms : Estimate
        Expected latency of the step.
    at_end : bool
        Whether B or S is the largest that was asked about, so that more might be better.
    """

    batch_size: int
    total_tokens: int
    context_tokens: float
    sla_ms: float
    risk: float
    tokens_per_s: Estimate
    p_exceeds: Estimate
    latency_ms: Estimate
    at_end: bool


@dataclass(frozen=True)
class Frontier:
    """Throughput against the SLA: what a looser limit buys.

    Parameters
    ----------
    steps : tuple of BestStep
        The Pareto frontier, by ascending limit; throughput ascends along.
    infeasible_ms : tuple of float
        Limits that no step of the space keeps.
    dominated_ms : tuple of float
        Limits whose best step is no better than that of a tighter one.
    """

    steps: tuple[BestStep, ...]
    infeasible_ms: tuple[float, ...] = ()
    dominated_ms: tuple[float, ...] = ()

    def table(self) -> pd.DataFrame:
        """One row a limit: the step, and throughput, latency and P(T > SLA) with their bounds."""
        rows = []
        for step in self.steps:
            row: dict[str, Any] = {
                name: getattr(step, name)
                for name in ("sla_ms", "batch_size", "total_tokens", "context_tokens")
            }
            for name in ("tokens_per_s", "latency_ms", "p_exceeds"):
                value, lower, upper = getattr(step, name)
                row |= {name: value, f"{name}_lower": lower, f"{name}_upper": upper}
            rows.append(row | {"at_end": step.at_end})
        return pd.DataFrame(rows)


def step_rates(draws: DeploymentDraws, points: Points) -> Array:
    """Tokens a second of repeated steps, S / E[T | draw], shape (draw, point).

    Zero where the noise of a draw has no mean.
    """
    return 1e3 * points.total_tokens / _expected_ms(draws, points)


def best_step(
    draws: DeploymentDraws,
    gate: StepGate,
    space: StepSpace | None = None,
    *,
    solver: Solver = "exhaustive",
    credible: float = 0.9,
    seed: int = 0,
) -> BestStep | None:
    """The step of a space with the largest expected throughput that a gate lets through.

    Parameters
    ----------
    draws : DeploymentDraws
        Posterior draws of the deployment.
    gate : StepGate
        Which steps keep the SLA; steps beyond its largest B and S do not.
    space : StepSpace, optional
        Which steps are searched.
    solver : {"exhaustive", "evolution"}
        Every integer, or differential evolution over integers (Storn and Price, 1997) from which a
        search of growing and shrinking steps climbs on. The second need not find the best.
    credible : float
        Mass of the intervals.
    seed : int
        Seed of the evolution.

    Returns
    -------
    BestStep or None
        None where no step keeps the SLA.

    Raises
    ------
    InputError
        If `credible` is not in (0, 1), or the solver is none of the two.
    """
    check_probability("credible", credible)
    space = space or StepSpace()
    if solver == "exhaustive":
        (found,) = best_of_all(draws, [gate], space)
    elif solver == "evolution":
        found = evolve(draws, gate, space, seed)
    else:
        raise InputError(f"got solver={solver!r}, expected exhaustive or evolution; choose one")
    return _decide(draws, gate, space, found, credible)


def frontier(
    draws: DeploymentDraws,
    gates: Sequence[StepGate],
    space: StepSpace | None = None,
    *,
    credible: float = 0.9,
) -> Frontier:
    """The Pareto frontier of throughput against the SLA.

    Parameters
    ----------
    draws, space, credible
        As in `best_step`.
    gates : sequence of StepGate
        One for each limit; their risks are usually the same.

    Raises
    ------
    InputError
        Without gates, or where `credible` is not in (0, 1).
    """
    check_probability("credible", credible)
    if not gates:
        raise InputError("got no gates, expected one for each SLA limit; compile them first")
    space = space or StepSpace()
    gates = sorted(gates, key=lambda gate: gate.sla_ms)
    kept: list[BestStep] = []
    infeasible: list[float] = []
    dominated: list[float] = []
    for gate, found in zip(gates, best_of_all(draws, gates, space), strict=True):
        step = _decide(draws, gate, space, found, credible)
        if step is None:
            infeasible.append(gate.sla_ms)
        elif kept and step.tokens_per_s.value <= kept[-1].tokens_per_s.value:
            dominated.append(gate.sla_ms)
        else:
            kept.append(step)
    return Frontier(tuple(kept), tuple(infeasible), tuple(dominated))


def compiled_frontier(
    draws: DeploymentDraws,
    sla_ms: Sequence[float],
    *,
    risk: float,
    space: StepSpace | None = None,
    gate_draws: int = GATE_DRAWS,
    credible: float = 0.9,
) -> Frontier:
    """The Pareto frontier at some limits, with gates that are compiled on the way.

    Parameters
    ----------
    draws, space, credible
        As in `best_step`.
    sla_ms : sequence of float
        Limits of a step's latency in milliseconds.
    risk : float
        Admitted probability of breaking a limit.
    gate_draws : int
        Most draws that gates are compiled from, evenly spaced. Of the best steps that a gate lets
        through those are chosen from that keep the risk by all draws.

    Raises
    ------
    InputError
        Limits or draws that are no such numbers, and what `compile_gate` refuses.
    """
    check_count("gate_draws", gate_draws, at_least=1)
    space = space or StepSpace()
    if not (len(sla_ms) and all(0.0 < limit < np.inf for limit in sla_ms)):
        raise InputError(
            f"got SLA limits {list(sla_ms)}, expected at least one, all positive finite"
            " milliseconds; correct the limits"
        )
    check_probability("risk", risk)
    few = draws.thin(gate_draws)
    largest = min(space.max_batch_size, space.max_total_tokens)
    tokens = max(2, space.max_total_tokens)
    at: dict[str, Any] = dict.fromkeys(
        ("batch_size", "total_tokens", "context_tokens"), np.arange(1, largest + 1)
    )
    gates, infeasible = [], []
    for limit in sorted(set(sla_ms)):
        if exceedance(few, sla_ms=limit, **at).min() > risk:
            infeasible.append(float(limit))
        else:
            bounds = {"max_batch_size": largest, "max_total_tokens": tokens}
            gates.append(compile_gate(few, sla_ms=limit, risk=risk, **bounds))
    if not gates:
        return Frontier((), tuple(infeasible))
    found = frontier(draws, gates, space, credible=credible)
    return replace(found, infeasible_ms=(*infeasible, *found.infeasible_ms))


def sla_range(
    draws: DeploymentDraws, space: StepSpace, *, risk: float, n: int = 8
) -> tuple[float, ...]:
    """Limits that are worth asking about, evenly spaced on the log scale.

    From the limit that the smallest step of the space just keeps to that which the largest keeps,
    three digits each, rounded up.
    """
    check_probability("risk", risk)
    check_count("n", n, at_least=2)
    low, high = space.batch_range
    ends = np.array([low, high], dtype=float)
    tokens = np.array([space.token_range(low)[0], space.token_range(high)[1]], dtype=float)
    limits = LatencyDistribution(draws, ends, tokens, space.context(ends)).ppf(1.0 - risk)
    if not limits.min() > 0.0:
        raise InputError(
            f"got risk={risk:g}, at which steps take no time at all, expected a smaller one to find"
            " limits by; lower the risk, or give the limits"
        )
    spaced = np.geomspace(limits.min(), limits.max(), n)
    digits = 10.0 ** (np.floor(np.log10(spaced)) - 2.0)
    return tuple(float(f"{limit:.6g}") for limit in np.unique(np.ceil(spaced / digits) * digits))


def _expected_ms(draws: DeploymentDraws, points: Points) -> Array:
    """Expected latency in each draw, shape (draw, point)."""
    mu, sigma = draws.location_and_scale(points)
    return mu * draws.noise.moments(sigma, draws.shape(points))[0]


def _decide(
    draws: DeploymentDraws, gate: StepGate, space: StepSpace, found: Points, credible: float
) -> BestStep | None:
    """The best candidate by all draws, and what is to be said about it."""
    if found.size == 0:
        return None
    rates = np.empty(found.size)
    for where, part in found.chunks(max(1, MAX_CELLS // draws.n_draws)):
        rates[where] = step_rates(draws, part).mean(axis=0)
    kept = _keeping(draws, gate, found)
    top = int(np.argmax(np.where(kept, rates, -np.inf)))
    point = found[top : top + 1]
    batch, tokens = int(point.batch_size[0]), int(point.total_tokens[0])
    own = step_rates(draws, point)[:, 0]
    latency = LatencyDistribution(
        draws, np.array(batch), np.array(tokens), np.array(point.context_tokens[0])
    )
    last_batch = min(space.batch_range[1], gate.max_batch_size)
    last_tokens = min(space.max_total_tokens, gate.max_total_tokens)
    return BestStep(
        batch,
        tokens,
        float(point.context_tokens[0]),
        gate.sla_ms,
        gate.risk,
        estimate(own.mean(), own, credible),
        latency.sf(gate.sla_ms, credible=credible),
        latency.mean(credible=credible),
        batch == last_batch or tokens == last_tokens,
    )


def _keeping(draws: DeploymentDraws, gate: StepGate, found: Points) -> NDArray[np.bool_]:
    """Which candidates keep the risk by all draws too; all of them where none does."""
    step = found.batch_size, found.total_tokens, found.context_tokens
    kept = LatencyDistribution(draws, *step).sf(gate.sla_ms) <= gate.risk
    return kept if kept.any() else np.ones(found.size, dtype=bool)
