"""Throughput against fairness between tenants: the Pareto front of allocations of one step.

Throughput is that of the step, tokens a second as in `bayeslat.decisions.throughput`; fairness is
Jain's index of tokens over weight. The front starts from alpha-fair allocations, from most tokens
to nearly max-min: with the SLA alone, and with expected latency below some budgets besides,
because most tokens in a step need not be most tokens a second. From these it is completed by Pareto
local search (Paquete, Chiarandini and Stuetzle, 2004): every allocation that differs by a few
requests of one or two tenants is looked at, until no such one is better in either respect. On
large instances this is no proof that nothing is missed. Where tenants differ in priority only
allocations that respect it count, which are those that the first step finds.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bayeslat.decisions.arguments import check_count
from bayeslat.decisions.fairness import jain_index
from bayeslat.decisions.step_search import SCREEN_DRAWS, screened_rates
from bayeslat.decisions.tenancy.branching import Sharing
from bayeslat.decisions.tenancy.sharing import neighbours
from bayeslat.decisions.tenancy.tenants import (
    Allocation,
    Tenant,
    allocate,
    check_tenants,
    divide_by_priority,
    sharing_of,
)
from bayeslat.decisions.throughput import step_rates
from bayeslat.errors import InputError
from bayeslat.gate import StepGate
from bayeslat.predictive import DeploymentDraws, Estimate, LatencyDistribution
from bayeslat.predictive.draws import Points
from bayeslat.predictive.estimate import check_probability, estimate

__all__ = ["SharedStep", "TenantFront", "pareto_front", "shared_step"]

type Array = NDArray[np.float64]
type Ints = NDArray[np.int64]

ALPHAS: Final = (0.0, 0.5, 1.0, 2.0, 4.0, 16.0)
BUDGETS: Final = (0.25, 0.5, 0.75)
"""Where expected latency is held below, between the fastest step and that with most tokens."""

MAX_PROGRAMS: Final = 40
"""Programs for each start: the local search goes on from where they end."""

MAX_FRONT: Final = 200
"""Allocations from which the local search looks further; more would differ by next to nothing."""


@dataclass(frozen=True)
class SharedStep:
    """A step that tenants share, and what is to be expected of it.

    Parameters
    ----------
    allocation : Allocation
        Requests of each tenant.
    tokens_per_s : Estimate
        Throughput, mean over draws of S / E[T | draw].
    latency_ms : Estimate
        Expected latency of the step.
    p_exceeds : Estimate
        P(T > SLA), from all draws.
    """

    allocation: Allocation
    tokens_per_s: Estimate
    latency_ms: Estimate
    p_exceeds: Estimate


@dataclass(frozen=True)
class TenantFront:
    """Allocations to which no other is better in both throughput and fairness.

    Parameters
    ----------
    tenants : tuple of Tenant
        Who shares the step.
    steps : tuple of SharedStep
        By descending throughput and ascending fairness.
    n_found : int
        Allocations on the front; `steps` are all of them, or as many as were asked for.
    sla_ms, risk : float
        What every step keeps.
    """

    tenants: tuple[Tenant, ...]
    steps: tuple[SharedStep, ...]
    n_found: int
    sla_ms: float
    risk: float

    def table(self) -> pd.DataFrame:
        """One row an allocation.

        Columns ``tokens_per_s``, ``latency_ms`` and ``p_exceeds``, each with ``_lower`` and
        ``_upper``, ``jain``, ``batch_size``, ``total_tokens``, ``context_tokens``, ``alpha`` (NaN
        where the local search found it), and ``requests`` and ``tokens`` of each tenant, named
        ``requests <name>``.
        """
        return pd.DataFrame([_row(step) for step in self.steps])


def pareto_front(
    draws: DeploymentDraws,
    gate: StepGate,
    tenants: Sequence[Tenant],
    *,
    alphas: Sequence[float] = ALPHAS,
    max_points: int = 24,
    credible: float = 0.9,
) -> TenantFront:
    """The Pareto front of throughput against fairness.

    Parameters
    ----------
    draws : DeploymentDraws
        Posterior draws of the deployment.
    gate : StepGate
        Which steps keep the SLA.
    tenants : sequence of Tenant
        Who shares the step.
    alphas : sequence of float
        For which allocations are found to start from.
    max_points : int
        Most allocations that are given back, both ends with them.
    credible : float
        Mass of the intervals.

    Raises
    ------
    InputError
        As `bayeslat.decisions.tenancy.allocate`, without alphas, and for arguments that are out of
        range.
    """
    check_probability("credible", credible)
    check_count("max_points", max_points, at_least=2)
    if not alphas:
        raise InputError("got no alphas, expected at least one; 0 is throughput, 16 fairness")
    tenants = check_tenants(tenants)
    found = {
        one.requests: one
        for one in (allocate(gate, tenants, alpha=a, max_programs=MAX_PROGRAMS) for a in alphas)
    }
    few = draws.thin(SCREEN_DRAWS)
    sharing = sharing_of(tenants, gate)
    starts = [*found, *_within_budgets(few, gate, tenants, alphas, list(found))]
    front = np.unique(np.array(starts, dtype=np.int64), axis=0)
    front = front[_undominated(*_merits(few, sharing, tenants, front))]
    if len({tenant.priority for tenant in tenants}) == 1:
        front = _local_search(few, sharing, tenants, front)
    steps = [
        shared_step(draws, gate, found.get(own) or Allocation(tenants, own), credible=credible)
        for own in map(tuple, front.tolist())
    ]
    merits = np.array([(one.tokens_per_s.value, one.allocation.jain) for one in steps])
    order = _undominated(*merits.T)
    shown = order[np.unique(np.linspace(0, order.size - 1, max_points).round().astype(int))]
    return TenantFront(tenants, tuple(steps[i] for i in shown), order.size, gate.sla_ms, gate.risk)


def shared_step(
    draws: DeploymentDraws, gate: StepGate, allocation: Allocation, *, credible: float = 0.9
) -> SharedStep:
    """What is to be expected of a step that tenants share.

    Parameters
    ----------
    draws : DeploymentDraws
        Posterior draws of the deployment.
    gate : StepGate
        Whose SLA.
    allocation : Allocation
        Who has how many requests in the step.
    credible : float
        Mass of the intervals.
    """
    step = allocation.batch_size, allocation.total_tokens, allocation.context_tokens
    rates = step_rates(draws, Points(*(np.array([float(value)]) for value in step)))[:, 0]
    latency = LatencyDistribution(draws, *map(np.array, step))
    return SharedStep(
        allocation,
        estimate(rates.mean(), rates, credible),
        latency.mean(credible=credible),
        latency.sf(gate.sla_ms, credible=credible),
    )


def _within_budgets(
    few: DeploymentDraws,
    gate: StepGate,
    tenants: tuple[Tenant, ...],
    alphas: Sequence[float],
    found: Sequence[tuple[int, ...]],
) -> list[tuple[int, ...]]:
    """Alpha-fair allocations whose expected latency is below budgets."""

    def latency(batch: Ints, tokens: Ints, context: Ints) -> Array:
        points = Points(batch.astype(float), tokens.astype(float), context.astype(float))
        return few.location(points).mean(axis=0)

    sharing = sharing_of(tenants, gate)
    single = sharing.sums(np.eye(len(tenants), dtype=np.int64))
    fastest = float(latency(*single).min())
    slowest = float(latency(*sharing.sums(np.array(found, dtype=np.int64))).max())
    starts = []
    for share in BUDGETS:
        budget = fastest + share * (slowest - fastest)

        def within(*step: Ints, budget: float = budget) -> NDArray[np.bool_]:
            return latency(*step) <= budget

        held = sharing_of(tenants, gate, within)
        for alpha in alphas:
            own, _ = divide_by_priority(tenants, held, alpha, MAX_PROGRAMS)
            if held.allowed(own[None])[0]:
                starts.append(tuple(own.tolist()))
    return starts


def _merits(
    few: DeploymentDraws, sharing: Sharing, tenants: Sequence[Tenant], requests: Ints
) -> tuple[Array, Array]:
    """Screened throughput, and Jain's index, of allocations, shape (allocation, tenant)."""
    points = Points(*(values.astype(float) for values in sharing.sums(requests)))
    weights = np.array([tenant.weight for tenant in tenants])
    return screened_rates(few, points), jain_index(requests * sharing.tokens / weights)


def _undominated(rates: Array, jain: Array) -> Ints:
    """Places of those to which no other is better, by descending rate."""
    order = np.lexsort((-jain, -rates))
    best = np.maximum.accumulate(np.concatenate([[-np.inf], jain[order][:-1]]))
    return order[jain[order] > best + 1e-12]


def _local_search(
    few: DeploymentDraws, sharing: Sharing, tenants: Sequence[Tenant], front: Ints
) -> Ints:
    """The front after every neighbour of every allocation on it has been looked at."""
    seen: set[tuple[int, ...]] = set()
    while True:
        new = [own for own in map(tuple, front.tolist()) if own not in seen]
        if not new or len(seen) >= MAX_FRONT:
            return front
        seen.update(new)
        around = [neighbours(sharing, np.array(own, dtype=np.int64)) for own in new]
        front = np.unique(np.concatenate([front, *around]), axis=0)
        front = front[_undominated(*_merits(few, sharing, tenants, front))]


def _row(step: SharedStep) -> dict[str, Any]:
    """A row of the table."""
    own = step.allocation
    row: dict[str, Any] = {}
    for name in ("tokens_per_s", "latency_ms", "p_exceeds"):
        value, lower, upper = getattr(step, name)
        row |= {name: value, f"{name}_lower": lower, f"{name}_upper": upper}
    row |= {name: getattr(own, name) for name in ("jain", "batch_size", "total_tokens")}
    row |= {
        "context_tokens": own.context_tokens,
        "alpha": np.nan if own.alpha is None else own.alpha,
    }
    for kind in ("requests", "tokens"):
        pairs = zip(own.tenants, getattr(own, kind), strict=True)
        row |= {f"{kind} {tenant.name}": n for tenant, n in pairs}
    return row
