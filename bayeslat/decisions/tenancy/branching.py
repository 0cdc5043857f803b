"""The best division of a step among tenants: branch and bound with mixed-integer programs.

A program (`scipy.optimize.milp`, HiGHS) maximises sum_i U_i(b_i) over integers b_i, each U_i
concave, given at the integers, and met there exactly by one linear inequality for each of its
slopes. What keeps the SLA is not linear. It is held between two sides. From outside: over a box of
(B, S, C) linear constraints that no step which fits breaks
(`bayeslat.decisions.tenancy.context_limits`), so that the program bounds all allocations of the
box. From inside: an allocation counts only if it fits itself. Boxes are split at allocations that
the program finds and that do not fit, best bound first, until no box promises more than the best
allocation known (spatial branch and bound, Horst and Tuy, 1996), or enough programs were solved;
what may be missed is then told.
"""

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import optimize

from bayeslat.decisions.tenancy.context_limits import NONE, Box, ContextLimits, Fits, Line
from bayeslat.decisions.tenancy.quiet import silenced

__all__ = ["Division", "Sharing", "branch_and_bound"]

type Array = NDArray[np.float64]
type Ints = NDArray[np.int64]

MAX_PROGRAMS: Final = 400
"""Programs of a search unless it is told otherwise: seconds."""

SCALE: Final = 1e3
"""Range of all utilities in a program: its tolerances are absolute, about 1e-7."""

RESOLUTION: Final = 1e-5
"""Least gain, where all utilities range over `SCALE`, for which a box is looked into."""

SLACK: Final = 4.0
"""Rows are so much smaller than what an error of one in a whole number changes: HiGHS accepts
integers to 1e-6, rounds them, and has to repair what then breaks a row by more than that."""

WINDOW: Final = 20
"""Half the width in S of the box around an allocation that does not fit: small enough that every
integer of it is sampled."""


@dataclass(frozen=True, eq=False)
class Sharing:
    """Who may have how much of a step.

    Parameters
    ----------
    tokens, context : array of int, shape (tenant,)
        s_i and c_i of one request.
    low, high : array of int, shape (tenant,)
        Fewest and most requests.
    max_share : array, shape (tenant,)
        Largest share of the tokens of the step; 1 for no limit.
    fits : callable
        Whether steps (B, S, C) may be run, integer arrays of shape (step,).
    """

    tokens: Ints
    context: Ints
    low: Ints
    high: Ints
    max_share: Array
    fits: Fits

    def sums(self, requests: Ints) -> tuple[Ints, Ints, Ints]:
        """B, S and C of allocations, shape (..., tenant)."""
        return requests.sum(axis=-1), requests @ self.tokens, requests @ self.context

    def allowed(self, requests: Ints) -> NDArray[np.bool_]:
        """Which allocations, shape (allocation, tenant), keep bounds, shares and the SLA."""
        batch, total, context = self.sums(requests)
        inside = ((requests >= self.low) & (requests <= self.high)).all(axis=1) & (batch > 0)
        most = np.where(self.max_share < 1.0, self.max_share * total[:, None], np.inf)
        inside &= (requests * self.tokens <= most).all(axis=1)
        where = np.flatnonzero(inside)
        if where.size:
            inside[where] = self.fits(batch[where], total[where], context[where])
        return inside


@dataclass(frozen=True, eq=False)
class Division:
    """An allocation, and how good any other could be.

    Parameters
    ----------
    requests : array of int, shape (tenant,)
        b_i.
    value, bound : float
        Its utility, and the most that any allocation can have as far as is proved.
    n_programs : int
        Mixed-integer programs that were solved.
    """

    requests: Ints
    value: float
    bound: float
    n_programs: int


def branch_and_bound(
    sharing: Sharing,
    tables: Sequence[Array],
    start: Ints | None,
    *,
    max_programs: int = MAX_PROGRAMS,
) -> Division | None:
    """The allocation with the largest sum of utilities; None where none is allowed.

    Parameters
    ----------
    sharing : Sharing
        What is allowed.
    tables : sequence of array, shape (1 + most requests of the tenant,)
        Concave utility of 0, 1, ... requests of each tenant.
    start : array of int, shape (tenant,), optional
        An allowed allocation that is to be improved upon.
    max_programs : int
        After how many programs no proof is sought any longer.
    """
    low = _worth_having(sharing, tables, start)
    program = _Program(sharing, tables, low)
    first, last = sharing.sums(low), sharing.sums(sharing.high)
    limits = ContextLimits(sharing.fits, int(first[2]), int(last[2]))
    batch = max(int(first[0]), 1), int(last[0])
    root = Box(batch, (max(int(first[1]), 1), int(last[1])), (limits.low, limits.high))
    best, value = start, -np.inf if start is None else program.value(start)
    order, solved = count(), 0
    open_: list[tuple[float, int, Box, Ints]] = []
    waiting, promised = [root], np.inf
    while solved < max_programs:
        for box in waiting:
            above = limits.above(box)
            if above is None:
                continue
            solved += 1
            found = program.solve(*above)
            if found is not None and found[0] > value + RESOLUTION:
                heapq.heappush(open_, (-found[0], next(order), above[0], found[1]))
        while open_ and -open_[0][0] <= value + RESOLUTION:
            heapq.heappop(open_)
        waiting, promised = [], value
        if not open_:
            break
        promised, _, box, requests = heapq.heappop(open_)
        promised = -promised
        if sharing.allowed(requests[None])[0]:
            own = program.value(requests)
            if own > value:
                best, value = requests, own
        else:
            waiting = list(_split(box, sharing.sums(requests), limits))
    if best is None:
        return None
    bound = max(value, promised if waiting else value, *(-entry[0] for entry in open_))
    return Division(best, program.unscaled(value), program.unscaled(bound), solved)


def _worth_having(sharing: Sharing, tables: Sequence[Array], start: Ints | None) -> Ints:
    """Fewest requests that a tenant has in any allocation as good as the one that is known.

    With fewer it would lose more than all others could win.
    """
    if start is None:
        return sharing.low
    own = np.array([table[k] for table, k in zip(tables, start.tolist(), strict=True)])
    most = np.array([table[k] for table, k in zip(tables, sharing.high.tolist(), strict=True)])
    needed = own - ((most - own).sum() - (most - own))
    low = [
        int(np.searchsorted(table[: k + 1], least - 1e-9 * abs(least)))
        for table, least, k in zip(tables, needed.tolist(), start.tolist(), strict=True)
    ]
    return np.maximum(sharing.low, np.minimum(low, start))


class _Program:
    """The mixed-integer program of a box: requests b_i, then utilities y_i above those at `low`."""

    def __init__(self, sharing: Sharing, tables: Sequence[Array], low: Ints) -> None:
        self.tables = tables
        n = low.size
        pairs = list(zip(low.tolist(), sharing.high.tolist(), strict=True))
        self._base = [table[a] for table, (a, _) in zip(tables, pairs, strict=True)]
        ends = [table[b] for table, (_, b) in zip(tables, pairs, strict=True)]
        gains = np.subtract(ends, self._base)
        self._factor = SCALE / gains.sum() if gains.sum() > 0.0 else 1.0
        rows, least = [], []
        for i, (a, b) in enumerate(pairs):
            own = self._factor * (tables[i][a : b + 1] - self._base[i])
            for k in _corners(own):
                slope = float(own[k + 1] - own[k])
                row = np.zeros(2 * n)
                row[i], row[n + i] = slope, -1.0
                size = SLACK * max(slope, 1.0)
                rows.append(row / size)
                least.append((slope * (a + k) - own[k]) / size)
        self._n, self._context = n, sharing.context
        unit = np.maximum(sharing.tokens, 1) * sharing.max_share
        self._sums = np.stack([np.ones(n), sharing.tokens, sharing.context]).astype(float)
        for i in np.flatnonzero(sharing.max_share < 1.0).tolist():
            row = np.zeros(2 * n)
            row[:n] = sharing.max_share[i] * sharing.tokens
            row[i] -= sharing.tokens[i]
            rows.append(row / unit.max())
            least.append(0.0)
        self._rows = np.array(rows).reshape(-1, 2 * n)
        self._least = np.array(least)
        upper = np.concatenate([sharing.high, self._factor * np.maximum(gains, 0.0)])
        self._bounds = optimize.Bounds(np.concatenate([low, np.zeros(n)]), upper)

    def value(self, requests: Ints) -> float:
        """Utility of an allocation, in the units of the program."""
        pairs = zip(self.tables, requests.tolist(), self._base, strict=True)
        return self._factor * float(sum(table[k] - base for table, k, base in pairs))

    def unscaled(self, value: float) -> float:
        """A utility of the program in the units of the tables."""
        return value / self._factor + float(sum(self._base))

    def solve(self, box: Box, lines: Sequence[Line]) -> tuple[float, Ints] | None:
        """Bound and best allocation of a box under lines above C; None where it holds none."""
        n = self._n
        _, total, context = self._sums
        outer = np.array([line.slope * total - context for line in lines])
        floor = np.array([line.slope * line.tokens - line.value for line in lines])
        rows = np.vstack([outer, self._sums])
        low = np.concatenate([floor, [ends[0] for ends in box]])
        high = np.concatenate([np.full(len(lines), np.inf), [ends[1] for ends in box]])
        size = SLACK * np.maximum(np.abs(rows).sum(axis=1), 1.0)
        rows, low, high = rows / size[:, None], low / size, high / size
        with silenced():
            found = optimize.milp(
                -np.concatenate([np.zeros(n), np.ones(n)]),
                integrality=np.concatenate([np.ones(n), np.zeros(n)]),
                bounds=self._bounds,
                constraints=[
                    optimize.LinearConstraint(self._rows, self._least, np.inf),
                    optimize.LinearConstraint(np.pad(rows, ((0, 0), (0, n))), low, high),
                ],
                options={"mip_rel_gap": 0.0, "presolve": False},
            )
        if found.x is None:
            return None
        requests = np.rint(found.x[:n]).astype(np.int64)
        return max(-float(found.fun), self.value(requests)), requests


def _corners(values: Array) -> list[int]:
    """Where a concave function at integers begins a slope of its own."""
    slopes = np.diff(values)
    new = np.abs(np.diff(slopes)) > 1e-12 * (np.abs(slopes[:-1]) + 1e-300)
    return [0, *(np.flatnonzero(new) + 1).tolist()] if slopes.size else []


def _split(box: Box, sums: Sequence[Ints], limits: ContextLimits) -> Iterator[Box]:
    """Boxes without a step (B, S, C) that does not fit: what is left of this one."""
    batch, total, context = (int(own) for own in sums)
    if box.batch[0] < box.batch[1]:
        for ends in _around(box.batch, batch, 0):
            yield box._replace(batch=ends)
    elif box.tokens[0] < box.tokens[1]:
        wide = box.tokens[1] - box.tokens[0] > 2 * WINDOW
        for ends in _around(box.tokens, total, WINDOW if wide else 0):
            yield box._replace(tokens=ends)
    else:
        most = int(limits.largest(np.array([batch]), np.array([total]))[0])
        if most == NONE:
            return
        # Below the largest C that fits a step may still not fit: at C = S, where T may jump.
        first, last = box.context
        for ends in _around((first, min(last, most)), context, 0):
            if ends != (context, context):
                yield box._replace(context=ends)


def _around(ends: tuple[int, int], middle: int, width: int) -> Iterator[tuple[int, int]]:
    """A range in three pieces: below, around and above `middle`; those that are not empty."""
    first, last = ends
    for a, b in (
        (first, min(middle - width - 1, last)),
        (max(middle - width, first), min(middle + width, last)),
        (max(middle + width + 1, first), last),
    ):
        if a <= b:
            yield a, b
