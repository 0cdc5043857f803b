"""Tenants that share an engine step: who may have how many requests in it under an SLA.

Tenant i takes part in a step with b_i requests of s_i tokens and c_i positions, so that
B = sum b_i, S = sum b_i s_i, C = sum b_i c_i, and a gate (`bayeslat.gate.StepGate`) says whether
such a step keeps P(T > SLA) <= risk. A window of equal steps is divided as one step is.

The allocation that `allocate` finds is alpha-fair (`bayeslat.decisions.tenancy.alpha_fair`) in x_i
/ w_i, the tokens of tenant i in the step over its weight. Quotas are kept first. Then tenants of
the highest priority are served as if those of lower ones had their quotas and no more; their
requests are fixed, and the next priority shares what is left. `max_share` is of the tokens of the
step as it stands when a tenant's priority is served.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bayeslat.decisions.arguments import check_count
from bayeslat.decisions.fairness import jain_index
from bayeslat.decisions.tenancy.alpha_fair import check_alpha, utility_tables
from bayeslat.decisions.tenancy.branching import MAX_PROGRAMS, Sharing
from bayeslat.decisions.tenancy.context_limits import Fits
from bayeslat.decisions.tenancy.sharing import divide
from bayeslat.errors import InputError
from bayeslat.gate import StepGate

__all__ = [
    "Allocation",
    "Tenant",
    "allocate",
    "check_tenants",
    "divide_by_priority",
    "sharing_of",
]

type Ints = NDArray[np.int64]

MAX_REQUESTS: Final = 100_000
MOST_WEIGHT: Final = 1e6
MOST_POSITIONS: Final = 2**31


@dataclass(frozen=True)
class Tenant:
    """Someone whose requests share steps with those of others.

    Parameters
    ----------
    name : str
        For tables.
    tokens_per_request : int
        Tokens that each of its requests computes in a step, s_i.
    context_per_request : int
        KV positions that each attends to, own tokens included, c_i.
    max_requests : int
        Its demand: most requests in a step.
    weight : float
        w_i: service counts by weight.
    priority : int
        Tenants of a higher priority are served first.
    min_requests : int
        Its quota: requests that it has in any case.
    max_share : float
        Largest share of the tokens of the step, in (0, 1].

    Raises
    ------
    InputError
        Where a value is out of its range.
    """

    name: str
    tokens_per_request: int
    context_per_request: int
    max_requests: int
    weight: float = 1.0
    priority: int = 0
    min_requests: int = 0
    max_share: float = 1.0

    def __post_init__(self) -> None:
        if not (isinstance(self.name, str) and self.name.strip()):
            raise InputError(f"got a tenant named {self.name!r}, expected a name; give one")
        try:
            check_count("tokens_per_request", self.tokens_per_request, at_least=1)
            check_count("context_per_request", self.context_per_request, at_least=0)
            check_count("max_requests", self.max_requests, at_least=1)
            check_count("min_requests", self.min_requests, at_least=0)
        except InputError as error:
            raise InputError(f"tenant {self.name!r}: {error}") from None
        if not self.min_requests <= self.max_requests <= MAX_REQUESTS:
            raise InputError(
                f"got tenant {self.name!r} with min_requests={self.min_requests} and"
                f" max_requests={self.max_requests}, expected min_requests <= max_requests <="
                f" {MAX_REQUESTS}; correct the tenant"
            )
        if not (1.0 / MOST_WEIGHT <= self.weight <= MOST_WEIGHT and 0.0 < self.max_share <= 1.0):
            raise InputError(
                f"got tenant {self.name!r} with weight {self.weight} and max_share"
                f" {self.max_share}, expected a weight from {1 / MOST_WEIGHT:g} to {MOST_WEIGHT:g}"
                " and a share in (0, 1]; correct the tenant"
            )
        most = max(self.tokens_per_request, self.context_per_request)
        if most > MOST_POSITIONS:
            raise InputError(
                f"got tenant {self.name!r} with {most} tokens or positions a request, expected at"
                f" most {MOST_POSITIONS}; correct the tenant"
            )


@dataclass(frozen=True)
class Allocation:
    """How many requests of each tenant share a step.

    Parameters
    ----------
    tenants : tuple of Tenant
        Who shares.
    requests : tuple of int
        Requests of each tenant in the step.
    alpha : float or None
        For which the allocation was found; None where it was found beside others.
    gap : float
        How much better any allocation of the same priority could be, as far as is proved: a share
        of the utility at hand. Zero where this one is proved to be the best, as far as numbers tell
        utilities apart.
    """

    tenants: tuple[Tenant, ...]
    requests: tuple[int, ...]
    alpha: float | None = None
    gap: float = 0.0

    @property
    def tokens(self) -> tuple[int, ...]:
        """Tokens of each tenant in the step."""
        pairs = zip(self.requests, self.tenants, strict=True)
        return tuple(n * tenant.tokens_per_request for n, tenant in pairs)

    @property
    def batch_size(self) -> int:
        """B of the step."""
        return sum(self.requests)

    @property
    def total_tokens(self) -> int:
        """S of the step."""
        return sum(self.tokens)

    @property
    def context_tokens(self) -> int:
        """C of the step."""
        pairs = zip(self.requests, self.tenants, strict=True)
        return sum(n * tenant.context_per_request for n, tenant in pairs)

    @property
    def jain(self) -> float:
        """Jain's index of tokens over weight, over all tenants."""
        pairs = zip(self.tokens, self.tenants, strict=True)
        return float(jain_index(np.array([own / tenant.weight for own, tenant in pairs])))


def allocate(
    gate: StepGate,
    tenants: Sequence[Tenant],
    *,
    alpha: float = 1.0,
    max_programs: int = MAX_PROGRAMS,
) -> Allocation:
    """The alpha-fair allocation of a step that a gate lets through.

    Parameters
    ----------
    gate : StepGate
        Which steps keep the SLA.
    tenants : sequence of Tenant
        Who shares the step.
    alpha : float
        0 for most tokens, 1 for proportional fairness, large for max-min fairness.
    max_programs : int
        Mixed-integer programs of one priority after which no proof is sought any longer; the
        allocation then has a gap.

    Raises
    ------
    InputError
        No tenants, two of one name, quotas that cannot be kept, an SLA that the smallest step
        breaks, shares that leave nothing, or an alpha that is out of its range.
    """
    check_alpha(alpha)
    check_count("max_programs", max_programs, at_least=1)
    tenants = check_tenants(tenants)
    sharing = sharing_of(tenants, gate)
    requests, gap = divide_by_priority(tenants, sharing, alpha, max_programs)
    if not sharing.allowed(requests[None])[0]:
        _refuse(gate, tenants, sharing)
    return Allocation(tenants, tuple(requests.tolist()), alpha, gap)


def divide_by_priority(
    tenants: Sequence[Tenant], sharing: Sharing, alpha: float, max_programs: int
) -> tuple[Ints, float]:
    """Requests of each tenant, served by priority, and the largest gap of any priority.

    What is found need not be allowed where no allocation is.
    """
    priorities = np.array([tenant.priority for tenant in tenants])
    fixed, gap = sharing.low, 0.0
    for priority in sorted(set(priorities.tolist()), reverse=True):
        fixed, own_gap = _divided(
            tenants, sharing, priorities == priority, fixed, alpha, max_programs
        )
        gap = max(gap, own_gap)
    return fixed, gap


def _divided(
    tenants: Sequence[Tenant],
    sharing: Sharing,
    own: NDArray[np.bool_],
    fixed: Ints,
    alpha: float,
    max_programs: int,
) -> tuple[Ints, float]:
    """Requests once one priority is served, those of all others being fixed, and its gap.

    Whoever has all that is wanted is fixed, and what is left is divided again: beside the utility
    of a small tenant the gains of others are too small for numbers to tell.
    """
    left, gap = own, 0.0
    while left.any():
        high = np.where(left, sharing.high, fixed)
        part = replace(
            sharing,
            low=np.where(left, sharing.low, fixed),
            high=high,
            max_share=np.where(own, sharing.max_share, 1.0),
        )
        tables = utility_tables(
            sharing.tokens.tolist(), [one.weight for one in tenants], high.tolist(), alpha, left
        )
        found = divide(part, tables, max_programs=max_programs)
        if found is None:
            break
        fixed = found.requests
        if found.bound > found.value:
            served = abs(sum(tables[i][fixed[i]] for i in np.flatnonzero(left)))
            gap = max(gap, float((found.bound - found.value) / max(served, 1e-300)))
        full = left & (fixed == sharing.high)
        if not full.any():
            break
        left = left & ~full
    return _filled(tenants, sharing, own, fixed), gap


def _filled(
    tenants: Sequence[Tenant], sharing: Sharing, own: NDArray[np.bool_], requests: Ints
) -> Ints:
    """The allocation with more for whoever can have more without less for another.

    The one with the least normalised service comes first.
    """
    weights = np.array([one.weight for one in tenants])
    unit = np.eye(requests.size, dtype=np.int64)[own]
    while True:
        more = requests + unit
        more = more[(more <= sharing.high).all(axis=1)]
        more = more[sharing.allowed(more)] if more.size else more
        if not more.size:
            return requests
        served = (more - requests) @ (requests * sharing.tokens / weights)
        requests = more[int(np.argmin(served))]


def check_tenants(tenants: Sequence[Tenant]) -> tuple[Tenant, ...]:
    """The tenants; raises `InputError` where there are none, or two of one name."""
    tenants = tuple(tenants)
    if not tenants:
        raise InputError("got no tenants, expected at least one; name who shares the step")
    names = [tenant.name for tenant in tenants]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(
            f"got more than one tenant named {', '.join(twice)}, expected different names; rename"
            " them"
        )
    return tenants


def sharing_of(tenants: Sequence[Tenant], gate: StepGate, within: Fits | None = None) -> Sharing:
    """What a gate, and whatever else a step has to keep, allows tenants to have."""

    def fits(batch: Ints, tokens: Ints, context: Ints) -> NDArray[np.bool_]:
        held = (batch <= gate.max_batch_size) & (tokens <= gate.max_total_tokens)
        where = np.flatnonzero(held & (batch >= 1) & (tokens >= batch))
        result = np.zeros(batch.size, dtype=bool)
        if where.size:
            step = batch[where], tokens[where], context[where]
            result[where] = gate.fits(*(values.astype(float) for values in step))
            if within is not None:
                result[where] &= within(*step)
        return result

    columns = [
        np.array([getattr(tenant, name) for tenant in tenants], dtype=np.int64)
        for name in ("tokens_per_request", "context_per_request", "min_requests", "max_requests")
    ]
    tokens, context, low, high = columns
    # More than fill the largest step the gate knows of nobody can have.
    room = np.minimum(gate.max_batch_size, gate.max_total_tokens // tokens)
    share = np.array([tenant.max_share for tenant in tenants])
    return Sharing(tokens, context, low, np.maximum(low, np.minimum(high, room)), share, fits)


def _check_floor(gate: StepGate, tenants: Sequence[Tenant], sharing: Sharing) -> None:
    """Refuse an SLA which the smallest step of any tenant breaks."""
    single = np.eye(len(tenants), dtype=np.int64)
    steps = sharing.sums(single)
    if not sharing.fits(*steps).any():
        p = np.asarray(gate.p_exceed(*(values.astype(float) for values in steps)))
        least = int(np.argmin(p))
        raise InputError(
            f"got an SLA of {gate.sla_ms:g} ms, below the floor: the smallest step, one request of"
            f" {tenants[least].name}, breaks it with P = {p[least]:.3g}, expected at most"
            f" {gate.risk:g}; allow more time or risk"
        )


def _refuse(gate: StepGate, tenants: Sequence[Tenant], sharing: Sharing) -> None:
    """Say why no allocation is allowed: the SLA itself, quotas that must give, or shares."""
    _check_floor(gate, tenants, sharing)
    quotas = {t.name: t.min_requests for t in tenants if t.min_requests}
    steps = [np.atleast_1d(values) for values in sharing.sums(sharing.low)]
    if not quotas or sharing.fits(*steps)[0]:
        limited = ", ".join(t.name for t in tenants if t.max_share < 1.0)
        raise InputError(
            f"got max_share of {limited or 'nobody'}, which leaves no allocation within"
            f" {gate.sla_ms:g} ms, expected room for one request; raise the shares"
        )
    ways = [f"{name} to {n}" for name, n in _quotas_that_fit(tenants, sharing).items()]
    p = float(np.asarray(gate.p_exceed(*(values.astype(float) for values in steps)))[0])
    asked = ", ".join(f"{n} of {name}" for name, n in quotas.items())
    advice = " or ".join(ways) if ways else "several of them"
    raise InputError(
        f"got quotas of {asked}, with which P(T > {gate.sla_ms:g} ms) is at least {p:.3g}, expected"
        f" at most {gate.risk:g}; lower {advice}, or allow more time or risk"
    )


def _quotas_that_fit(tenants: Sequence[Tenant], sharing: Sharing) -> dict[str, int]:
    """For each tenant the largest quota with which all others can be kept; only where one is."""
    found = {}
    for i, tenant in enumerate(tenants):
        lower = np.arange(tenant.min_requests)
        quotas = np.tile(sharing.low, (lower.size, 1))
        quotas[:, i] = lower
        batch, tokens, context = sharing.sums(quotas)
        keeps = (batch == 0) | sharing.fits(batch, tokens, context)
        if keeps.any():
            found[tenant.name] = int(lower[keeps].max())
    return found
