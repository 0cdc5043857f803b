"""SLA inversion: which steps keep P(latency > SLA) within a risk.

Latency is not monotone: in B it first falls while the batch factor rises, in S it is U-shaped when
there is work that does not depend on S. What fits is therefore a set, not everything below one
root, and it is found by asking about every integer of the range. Answers near the risk are exact
to the error of the compiled survival function (`bayeslat.predictive.kernels.ERROR`).

The attended context C of a candidate step is ``context_tokens + context_per_request * B``: the
first is a number for the whole step, the second grows with the batch. C >= S is not enforced,
since engines count the attended positions in different ways.

With ``confident=c`` the exceedance is the upper credible bound: what fits is where
P(latency > SLA) <= risk holds with posterior probability c or more. Sets for a greater c lie within
those for a smaller c. They lie within the plain set wherever the bound is no less than the mean
over draws, which is the rule for c well above one half and certain for c > 1 - 1/draws; a few
draws with a large exceedance can lift the mean above the bound, and a step then fits with
confidence c although its mean exceedance breaks the risk.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bayeslat.errors import InputError
from bayeslat.predictive import DeploymentDraws, LatencyDistribution
from bayeslat.predictive.draws import Points
from bayeslat.predictive.estimate import check_probability

__all__ = [
    "FeasibleRegion",
    "FeasibleSet",
    "exceedance",
    "feasible_batches",
    "feasible_region",
    "feasible_tokens",
    "largest_batch",
    "largest_tokens",
    "nearest_tokens",
]

type Array = NDArray[np.float64]

MAX_TOTAL_TOKENS = 16_384
"""Default end of a search over token counts."""

MAX_BATCH_SIZE = 1_024
"""Default end of a search over batch sizes."""

MAX_CELLS = 4_000_000
"""Draws times points held in memory at once."""


@dataclass(frozen=True)
class FeasibleSet:
    """Integers of a searched range that keep the risk.

    Parameters
    ----------
    intervals : tuple of (int, int)
        Disjoint inclusive intervals, ascending and never adjacent.
    searched : tuple of (int, int)
        First and last integer that was asked about.
    """

    intervals: tuple[tuple[int, int], ...]
    searched: tuple[int, int]

    @property
    def empty(self) -> bool:
        """Whether nothing fits."""
        return not self.intervals

    @property
    def smallest(self) -> int | None:
        """The smallest that fits; None where nothing does."""
        return None if self.empty else self.intervals[0][0]

    @property
    def largest(self) -> int | None:
        """The largest that fits; None where nothing does."""
        return None if self.empty else self.intervals[-1][1]

    @property
    def limited(self) -> bool:
        """Whether the end of the search fits, so that more might fit beyond it."""
        return self.largest == self.searched[1]

    def __contains__(self, value: object) -> bool:
        if not isinstance(value, Real):
            return False
        number = float(value)
        return number.is_integer() and any(low <= number <= high for low, high in self.intervals)

    def __len__(self) -> int:
        return sum(high - low + 1 for low, high in self.intervals)

    def __iter__(self) -> Iterator[int]:
        for low, high in self.intervals:
            yield from range(low, high + 1)


@dataclass(frozen=True, eq=False)
class FeasibleRegion:
    """Exceedance over a grid of batch sizes and token counts.

    Parameters
    ----------
    batch_size : array, shape (batch,)
        B of the rows.
    total_tokens : array, shape (tokens,)
        S of the columns.
    probability : array, shape (batch, tokens)
        P(latency > SLA), or its upper credible bound; NaN where S < B, which no step can have.
    feasible : array of bool, shape (batch, tokens)
        Whether the probability is within the risk; False where S < B.
    """

    batch_size: Array
    total_tokens: Array
    probability: Array
    feasible: NDArray[np.bool_]


def exceedance(
    draws: DeploymentDraws,
    *,
    batch_size: ArrayLike,
    total_tokens: ArrayLike,
    context_tokens: ArrayLike = 0.0,
    sla_ms: ArrayLike,
    confident: float | None = None,
) -> Any:
    """P(latency > SLA), or its one-sided upper credible bound.

    Parameters
    ----------
    draws : DeploymentDraws
        Posterior draws of the deployment.
    batch_size, total_tokens, context_tokens, sla_ms : array
        B, S, C and the limit in milliseconds; broadcast against each other.
    confident : float, optional
        Posterior probability of the bound; without it the answer is the mean over draws.

    Returns
    -------
    float or array
        Of the broadcast shape.

    Raises
    ------
    InputError
        If the SLA is not positive, `confident` is not in (0, 1), or B < 1, S < B or C < 0.
    """
    _check_positive("sla_ms", sla_ms)
    latency = LatencyDistribution(
        draws, np.asarray(batch_size), np.asarray(total_tokens), np.asarray(context_tokens)
    )
    if confident is None:
        return latency.sf(sla_ms)
    return latency.sf_upper(sla_ms, confident=confident)


def feasible_tokens(
    draws: DeploymentDraws,
    *,
    batch_size: int,
    sla_ms: float,
    risk: float,
    context_tokens: float = 0.0,
    context_per_request: float = 0.0,
    max_total_tokens: int = MAX_TOTAL_TOKENS,
    confident: float | None = None,
) -> FeasibleSet:
    """Every token count S in [B, max_total_tokens] with P(latency > SLA) <= risk.

    Parameters
    ----------
    draws : DeploymentDraws
        Posterior draws of the deployment.
    batch_size : int
        B requests of the step.
    sla_ms : float
        Limit of the step's latency in milliseconds.
    risk : float
        Admitted probability of breaking the limit, in (0, 1).
    context_tokens, context_per_request : float
        Attended context, for the step and for each request; see the module's text.
    max_total_tokens : int
        Last token count that is asked about.
    confident : float, optional
        Posterior probability with which the risk must hold.

    Raises
    ------
    InputError
        If an argument is out of its range.
    """
    low = _check_count("batch_size", batch_size, at_least=1)
    high = _check_count("max_total_tokens", max_total_tokens, at_least=low)
    tokens = np.arange(low, high + 1)
    context = _context(low, context_tokens, context_per_request)
    fits = _fits(draws, low, tokens, context, sla_ms, risk, confident)
    return FeasibleSet(_intervals(fits, low), (low, high))


def feasible_batches(
    draws: DeploymentDraws,
    *,
    total_tokens: int,
    sla_ms: float,
    risk: float,
    context_tokens: float = 0.0,
    context_per_request: float = 0.0,
    max_batch_size: int = MAX_BATCH_SIZE,
    confident: float | None = None,
) -> FeasibleSet:
    """Every batch size B in [1, min(S, max_batch_size)] with P(latency > SLA) <= risk.

    Arguments and errors as in `feasible_tokens`; ``limited`` is also set where B = S fits.
    """
    tokens = _check_count("total_tokens", total_tokens, at_least=1)
    high = min(tokens, _check_count("max_batch_size", max_batch_size, at_least=1))
    batch = np.arange(1, high + 1)
    context = _context(batch, context_tokens, context_per_request)
    fits = _fits(draws, batch, tokens, context, sla_ms, risk, confident)
    return FeasibleSet(_intervals(fits, 1), (1, high))


def feasible_region(
    draws: DeploymentDraws,
    *,
    batch_sizes: ArrayLike,
    total_tokens: ArrayLike,
    sla_ms: float,
    risk: float,
    context_tokens: float = 0.0,
    context_per_request: float = 0.0,
    confident: float | None = None,
) -> FeasibleRegion:
    """Exceedance and feasibility over the grid of `batch_sizes` times `total_tokens`.

    Other arguments and errors as in `feasible_tokens`.
    """
    check_probability("risk", risk)
    batch = np.atleast_1d(np.asarray(batch_sizes, dtype=float))
    tokens = np.atleast_1d(np.asarray(total_tokens, dtype=float))
    rows, columns = np.meshgrid(batch, tokens, indexing="ij")
    possible = columns >= rows
    probability = np.full(rows.shape, np.nan)
    probability[possible] = exceedance(
        draws,
        batch_size=rows[possible],
        total_tokens=columns[possible],
        context_tokens=_context(rows[possible], context_tokens, context_per_request),
        sla_ms=sla_ms,
        confident=confident,
    )
    return FeasibleRegion(batch, tokens, probability, probability <= risk)


def largest_tokens(draws: DeploymentDraws, **question: Any) -> int | None:
    """The largest S of `feasible_tokens` (same arguments); None where nothing fits.

    Not every smaller S need fit.
    """
    return feasible_tokens(draws, **question).largest


def largest_batch(draws: DeploymentDraws, **question: Any) -> int | None:
    """The largest B of `feasible_batches` (same arguments); None where nothing fits.

    Not every smaller B need fit.
    """
    return feasible_batches(draws, **question).largest


def nearest_tokens(
    draws: DeploymentDraws,
    *,
    batch_size: int,
    target_ms: float,
    context_tokens: float = 0.0,
    context_per_request: float = 0.0,
    max_total_tokens: int = MAX_TOTAL_TOKENS,
) -> int | None:
    """The token count whose expected step time comes nearest to a target from below.

    The step time is the posterior median of the latency without the noise of a step, discrepancy
    included: about half of the steps will take longer. To keep a limit, ask `feasible_tokens`.

    Parameters
    ----------
    draws, batch_size, context_tokens, context_per_request, max_total_tokens
        As in `feasible_tokens`.
    target_ms : float
        Step time to come close to, in milliseconds.

    Returns
    -------
    int or None
        The largest such S where several tie; None where every step takes longer than the target.

    Raises
    ------
    InputError
        If an argument is out of its range.
    """
    _check_positive("target_ms", target_ms)
    low = _check_count("batch_size", batch_size, at_least=1)
    high = _check_count("max_total_tokens", max_total_tokens, at_least=low)
    context = _context(low, context_tokens, context_per_request)
    tokens = np.arange(low, high + 1, dtype=float)
    points = Points(*(np.array(a) for a in np.broadcast_arrays(float(low), tokens, context)))
    typical = np.concatenate(
        [
            np.median(draws.location(part), axis=0)
            for _, part in points.chunks(max(1, MAX_CELLS // draws.n_draws))
        ]
    )
    below = np.where(typical <= target_ms, typical, -np.inf)
    best = below.max()
    return None if best == -np.inf else int(tokens[np.flatnonzero(below == best)[-1]])


def _fits(
    draws: DeploymentDraws,
    batch: ArrayLike,
    tokens: ArrayLike,
    context: ArrayLike,
    sla_ms: float,
    risk: float,
    confident: float | None,
) -> NDArray[np.bool_]:
    """Whether each candidate keeps the risk."""
    check_probability("risk", risk)
    probability = exceedance(
        draws,
        batch_size=batch,
        total_tokens=tokens,
        context_tokens=context,
        sla_ms=sla_ms,
        confident=confident,
    )
    return probability <= risk


def _intervals(fits: NDArray[np.bool_], first: int) -> tuple[tuple[int, int], ...]:
    """Runs of True as inclusive intervals of integers, the first element standing for `first`."""
    edges = np.diff(fits.astype(np.int8), prepend=0, append=0)
    starts, stops = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)
    return tuple((first + int(a), first + int(b) - 1) for a, b in zip(starts, stops, strict=True))


def _context(batch: ArrayLike, context_tokens: float, context_per_request: float) -> Any:
    return context_tokens + context_per_request * np.asarray(batch, dtype=float)


def _check_positive(name: str, value: ArrayLike) -> None:
    array = np.asarray(value, dtype=float)
    if not ((array > 0.0) & np.isfinite(array)).all():
        raise InputError(
            f"got {name}={value!r}, expected positive finite milliseconds; correct the limit"
        )


def _check_count(name: str, value: float, *, at_least: int) -> int:
    if not (np.isfinite(value) and value == int(value) and value >= at_least):
        raise InputError(
            f"got {name}={value}, expected a whole number of at least {at_least};"
            " every request computes at least one token, so correct the query"
        )
    return int(value)
