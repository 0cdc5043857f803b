"""Dividing one step among tenants: what is allowed, what is better, and the search for the best.

Tenant i takes part with b_i requests of s_i tokens and c_i positions, so that B = sum b_i,
S = sum b_i s_i and C = sum b_i c_i, and an allocation b is allowed where the step fits. The best
one maximises sum_i U_i(b_i), each U_i concave and given at the integers. A climb by exchanges of a
few requests comes first, `bayeslat.decisions.tenancy.branching` then looks everywhere else and says
how much better any allocation could be, and a last climb ends where no neighbour is better.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from bayeslat.decisions.tenancy.branching import MAX_PROGRAMS, Division, Sharing, branch_and_bound

__all__ = ["divide", "neighbours"]

type Array = NDArray[np.float64]
type Ints = NDArray[np.int64]


def divide(
    sharing: Sharing, tables: Sequence[Array], *, max_programs: int = MAX_PROGRAMS
) -> Division | None:
    """The allocation with the largest sum of utilities; None where none is allowed.

    Parameters
    ----------
    sharing : Sharing
        What is allowed.
    tables : sequence of array, shape (1 + most requests of the tenant,)
        Concave utility of 0, 1, ... requests of each tenant.
    max_programs : int
        Mixed-integer programs after which no proof is sought any longer.
    """
    best = _greedy(sharing, tables)
    found = branch_and_bound(sharing, tables, best, max_programs=max_programs)
    if found is None:
        return None
    # Within the tolerances of the programs there may still be a better neighbour.
    climbed = _climb(sharing, tables, found.requests)
    value = _value(tables, climbed)
    return replace(found, requests=climbed, value=value, bound=max(found.bound, value))


def neighbours(sharing: Sharing, requests: Ints) -> Ints:
    """Allocations in which at most two tenants have up to two requests more or less, one of each.

    Returns
    -------
    array of int, shape (allocation, tenant)
        Allowed ones only.
    """
    n = requests.size
    unit = np.eye(n, dtype=np.int64)
    moves = [k * unit for k in (-2, -1, 1, 2)]
    pairs = [(i, j) for i in range(n) for j in range(n) if i != j]
    if pairs:
        give, take = unit[[i for i, _ in pairs]], unit[[j for _, j in pairs]]
        moves += [k * take - m * give for k, m in ((1, 1), (1, 2), (2, 1))]
    around = requests + np.concatenate(moves)
    return around[sharing.allowed(around)]


def _value(tables: Sequence[Array], requests: Ints) -> float:
    return float(sum(table[k] for table, k in zip(tables, requests.tolist(), strict=True)))


def _values(tables: Sequence[Array], requests: Ints) -> Array:
    """Utility of allocations, shape (allocation, tenant)."""
    return np.sum([table[own] for table, own in zip(tables, requests.T, strict=True)], axis=0)


def _greedy(sharing: Sharing, tables: Sequence[Array]) -> Ints | None:
    """Requests added one by one, then exchanged, while that is better; None where that fails."""
    start = sharing.low
    if not sharing.allowed(start[None])[0]:
        single = start + np.eye(start.size, dtype=np.int64)
        single = single[sharing.allowed(single)]
        if single.shape[0] == 0:
            return None
        start = single[int(np.argmax(_values(tables, single)))]
    return _climb(sharing, tables, start)


def _climb(sharing: Sharing, tables: Sequence[Array], requests: Ints) -> Ints:
    """The best neighbour again and again, until none is better."""
    value = _value(tables, requests)
    while (around := neighbours(sharing, requests)).shape[0]:
        values = _values(tables, around)
        top = int(np.argmax(values))
        if not values[top] > value:
            break
        requests, value = around[top], float(values[top])
    return requests
