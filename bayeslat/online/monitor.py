"""How well a deployment has been predicted of late: rolling errors, coverage and updates."""

from dataclasses import dataclass, field, replace
from typing import Final, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special, stats

from bayeslat.errors import InputError
from bayeslat.online.scores import Scores
from bayeslat.predictive.estimate import Estimate

__all__ = ["CREDIBLE", "ROWS_KEPT", "Monitor", "parameter_drift", "share"]

type Array = NDArray[np.float64]

ROWS_KEPT: Final = 1000
"""Rows that rolling figures are of."""

CREDIBLE: Final = 0.9
"""Mass of the interval around every figure."""


@dataclass(frozen=True, eq=False)
class Monitor:
    """The last thousand rows of one deployment, and what became of its updates.

    Parameters
    ----------
    relative_error : array, shape (row,)
        |predicted - measured| / measured of each row that is kept, in the order of their arrival.
    pit : array, shape (row,)
        P(T <= measured), as it was predicted before the row was seen.
    log_score : array, shape (row,)
        Log predictive density of the measured latency, 1/ms.
    n_seen : int
        Rows seen in all, kept or not.
    accepted, rejected : int
        Updates that were taken into force, and those that were not.

    Notes
    -----
    The intervals take rows as independent. Steps of one engine follow each other and their errors
    are alike, so that intervals of a real log are too narrow.
    """

    relative_error: Array = field(default_factory=lambda: np.empty(0))
    pit: Array = field(default_factory=lambda: np.empty(0))
    log_score: Array = field(default_factory=lambda: np.empty(0))
    n_seen: int = 0
    accepted: int = 0
    rejected: int = 0

    @classmethod
    def empty(cls) -> Self:
        """A monitor that has seen nothing."""
        return cls()

    def update(self, scores: Scores) -> Self:
        """The monitor after more rows."""
        error = np.abs(scores.predicted_ms - scores.latency_ms) / scores.latency_ms
        return replace(
            self,
            relative_error=_last(self.relative_error, error),
            pit=_last(self.pit, scores.pit),
            log_score=_last(self.log_score, scores.log_score),
            n_seen=self.n_seen + len(scores),
        )

    def counted(self, *, accepted: int = 0, rejected: int = 0) -> Self:
        """The monitor after more updates, by what became of them."""
        return replace(self, accepted=self.accepted + accepted, rejected=self.rejected + rejected)

    @property
    def n(self) -> int:
        """Rows that the figures are of."""
        return self.pit.size

    @property
    def mean_error(self) -> Estimate:
        """Mean relative error."""
        return _mean(self.relative_error)

    @property
    def p95_error(self) -> Estimate:
        """Relative error that 95 % of the rows stay below."""
        return _quantile(self.relative_error, 0.95)

    @property
    def p99_error(self) -> Estimate:
        """Relative error that 99 % of the rows stay below."""
        return _quantile(self.relative_error, 0.99)

    @property
    def coverage_50(self) -> Estimate:
        """Share of rows within the central 50 % interval: 0.5 where the predictive is right."""
        return self._coverage(0.5)

    @property
    def coverage_90(self) -> Estimate:
        """Share of rows within the central 90 % interval: 0.9 where the predictive is right."""
        return self._coverage(0.9)

    @property
    def exceedance_p99(self) -> Estimate:
        """Share of rows above the predicted p99: 0.01 where the predictive is right."""
        return share(int(np.sum(self.pit > 0.99)), self.n)

    @property
    def mean_log_score(self) -> Estimate:
        """Mean log predictive density, 1/ms; higher is better."""
        return _mean(self.log_score)

    @property
    def failed_updates(self) -> Estimate:
        """Share of updates that were not taken into force."""
        return share(self.rejected, self.accepted + self.rejected)

    def _coverage(self, mass: float) -> Estimate:
        return share(int(np.sum(np.abs(self.pit - 0.5) <= 0.5 * mass)), self.n)


def share(count: int, n: int) -> Estimate:
    """A share with its interval under Jeffreys' prior.

    Parameters
    ----------
    count, n : int
        How many of how many.

    Notes
    -----
    Brown, Cai and DasGupta (2001), "Interval estimation for a binomial proportion", with their
    ends at 0 and 1 where none or all were counted.
    """
    if n == 0:
        return Estimate(np.nan, 0.0, 1.0)
    tail = 0.5 * (1.0 - CREDIBLE)
    ends = count + 0.5, n - count + 0.5
    lower = 0.0 if count == 0 else float(special.betaincinv(*ends, tail))
    upper = 1.0 if count == n else float(special.betaincinv(*ends, 1.0 - tail))
    return Estimate(count / n, lower, upper)


def parameter_drift(now_ms: ArrayLike, base_ms: ArrayLike) -> float:
    """How far predicted latencies have moved from those of the base: mean |log(now / base)|.

    0.1 is about ten per cent. Latencies at reference steps stand for the parameters, which are
    confounded with each other: several of them may move far while no prediction does.

    Parameters
    ----------
    now_ms, base_ms : array, shape (step,)
        Predicted latencies at the same reference steps, ms.

    Raises
    ------
    InputError
        The shapes differ, there is no step, or a latency is not positive and finite.
    """
    now, base = np.asarray(now_ms, dtype=float), np.asarray(base_ms, dtype=float)
    if now.shape != base.shape or now.size == 0:
        raise InputError(
            f"got latencies of shapes {now.shape} and {base.shape}, expected one shape and at"
            " least one step; predict the same reference steps twice"
        )
    both = np.concatenate([now.ravel(), base.ravel()])
    if not ((both > 0.0) & (both < np.inf)).all():
        raise InputError(
            f"got latencies from {both.min():g} to {both.max():g} ms, expected positive finite"
            " numbers; check the reference steps"
        )
    return float(np.mean(np.abs(np.log(now / base))))


def _last(kept: Array, more: Array) -> Array:
    return np.concatenate([kept, np.asarray(more, dtype=float)])[-ROWS_KEPT:]


def _mean(values: Array) -> Estimate:
    """A mean with its t interval."""
    if values.size == 0:
        return Estimate(np.nan, np.nan, np.nan)
    mean = float(np.mean(values))
    if values.size == 1 or not np.isfinite(mean):
        return Estimate(mean, -np.inf, np.inf)
    margin = stats.t.ppf(0.5 * (1.0 + CREDIBLE), values.size - 1)
    margin *= np.std(values, ddof=1) / np.sqrt(values.size)
    return Estimate(mean, mean - float(margin), mean + float(margin))


def _quantile(values: Array, level: float) -> Estimate:
    """A quantile between two order statistics, whatever the distribution.

    The number of values below the quantile is binomial (David and Nagaraja, 2003, "Order
    Statistics", section 7.1). Where too few values are there the interval has no upper end.
    """
    if values.size == 0:
        return Estimate(np.nan, np.nan, np.nan)
    ordered = np.append(np.sort(values), np.inf)
    tail = 0.5 * (1.0 - CREDIBLE)
    low, high = stats.binom.ppf([tail, 1.0 - tail], values.size, level).astype(int)
    lower = ordered[low - 1] if low > 0 else 0.0
    return Estimate(float(np.quantile(values, level)), float(lower), float(ordered[high]))
