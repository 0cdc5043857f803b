"""What is believed of one deployment: draws, and the weights that rows seen since have given them.

Draws stand for a prior times the likelihood of the rows that they were taken with. Rows that come
later multiply their weights (importance sampling), rows that are forgotten divide them. That is
Bayes' rule without sampling anything, for as long as the draws cover where the posterior has gone
to: the shape parameter of the largest weights tells (Vehtari et al., 2024, "Pareto smoothed
importance sampling"). When they no longer do, the draws are exhausted: the last weights that could
be trusted stay in force until draws are taken anew, and rows after them move nothing.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final, Self

import numpy as np
from arviz_stats.base import array_stats
from numpy.typing import NDArray

from bayeslat.online.rows import Rows
from bayeslat.predictive import DeploymentDraws

__all__ = ["Belief", "discounted_likelihood", "largest_pareto_k", "picked"]

type Array = NDArray[np.float64]

BLOCK: Final = 512
"""Rows whose densities are held in memory at once."""

SCORING_DRAWS: Final = 128
"""Draws that rows are scored with: a PIT value is off by a fraction of its own spread."""

ROUNDING: Final = 1e-6
"""Log weights that differ by no more are even."""

LEAST_SHARE: Final = 0.05
"""Effective share of the draws below which weights are not trusted, whatever their tail."""


def largest_pareto_k(n_draws: int) -> float:
    """Shape parameter up to which weights of so many draws are trusted (Vehtari et al., 2024)."""
    return min(1.0 - 1.0 / np.log10(n_draws), 0.7)


def picked(log_weights: Array, n: int) -> NDArray[np.int64]:
    """Which draws stand for weighted ones as `n` of equal weight (systematic resampling)."""
    points = (np.arange(n) + 0.5) / n
    pick = np.searchsorted(np.cumsum(np.exp(log_weights)), points)
    return np.minimum(pick, log_weights.size - 1)


@dataclass(frozen=True, eq=False)
class Belief:
    """Weighted draws of one deployment.

    Parameters
    ----------
    draws : DeploymentDraws
        The support.
    log_taken : array, shape (draw,)
        Discounted log likelihood of the rows that the draws were taken with.
    log_likelihood : array, shape (draw,)
        Discounted log likelihood of the rows that count.
    log_weights : array, shape (draw,)
        Normalised log weights: those of `log_likelihood` over `log_taken`.
    n_seen : int
        Rows of the deployment that had been seen when these weights were made.
    pareto_k : float
        Shape parameter of these weights, or of those with which the draws were exhausted.
    """

    draws: DeploymentDraws
    log_taken: Array
    log_likelihood: Array
    log_weights: Array
    n_seen: int = 0
    pareto_k: float = -np.inf

    @classmethod
    def of(
        cls,
        draws: DeploymentDraws,
        *,
        log_taken: Array | None = None,
        n_seen: int = 0,
    ) -> Self:
        """Equally weighted draws, before any row but those that they were taken with."""
        taken = np.zeros(draws.n_draws) if log_taken is None else log_taken
        even = np.full(draws.n_draws, -np.log(draws.n_draws))
        return cls(draws, taken, taken, even, n_seen)

    @property
    def trusted(self) -> bool:
        """Whether the draws still cover the posterior; if not they are exhausted."""
        return self.pareto_k <= largest_pareto_k(self.draws.n_draws)

    @property
    def effective_draws(self) -> float:
        """Effective number of draws under the weights in force (Kish)."""
        return float(1.0 / np.exp(2.0 * self.log_weights).sum())

    def updated(self, log_likelihood: Array, *, n_seen: int, aged: float = 1.0) -> Self:
        """The belief after more rows; the same one where its draws are exhausted.

        Parameters
        ----------
        log_likelihood : array, shape (draw,)
            Discounted log likelihood of the new rows, less that of rows that no longer count.
        n_seen : int
            Rows of the deployment that have been seen with them.
        aged : float
            What the discounts of all earlier rows are multiplied with.
        """
        if not self.trusted:
            return self
        return self.judged(aged * self.log_likelihood + log_likelihood, n_seen=n_seen)

    def judged(self, log_likelihood: Array, *, n_seen: int) -> Self:
        """The belief under another likelihood, if its draws still cover the posterior then.

        Parameters
        ----------
        log_likelihood : array, shape (draw,)
            Discounted log likelihood of the rows that count.
        n_seen : int
            Rows of the deployment that have been seen with them.
        """
        raw = log_likelihood - self.log_taken
        if np.ptp(raw) < ROUNDING:
            weights, pareto_k = np.full(raw.size, -np.log(raw.size)), -np.inf
        else:
            # ArviZ takes the logarithms of the inverse weights, as leave-one-out has them.
            weights, k = array_stats.psislw(-raw)
            effective = 1.0 / np.exp(2.0 * weights).sum()
            pareto_k = float(k) if effective >= LEAST_SHARE * raw.size else np.inf
        if not pareto_k <= largest_pareto_k(raw.size):  # a NaN is no trust
            return replace(self, pareto_k=pareto_k)
        return replace(
            self,
            log_likelihood=log_likelihood,
            log_weights=weights,
            n_seen=n_seen,
            pareto_k=pareto_k,
        )

    def revived(self) -> Self:
        """The same weights, to be moved again by rows to come, though others had exhausted them."""
        return self if self.trusted else replace(self, pareto_k=-np.inf)

    @cached_property
    def sample(self) -> DeploymentDraws:
        """A few equally weighted draws, to score rows with."""
        self.draws.tables()  # laid out once for all samples of these draws
        return self.draws.take(picked(self.log_weights, min(SCORING_DRAWS, self.draws.n_draws)))

    @cached_property
    def even(self) -> DeploymentDraws:
        """As many equally weighted draws as the support has."""
        if np.ptp(self.log_weights) == 0.0:
            return self.draws
        return self.draws.take(picked(self.log_weights, self.draws.n_draws))


def discounted_likelihood(
    draws: DeploymentDraws, rows: Rows, *, n_seen: int, decay: float
) -> Array:
    """Log likelihood of rows in every draw, each discounted by its age; shape (draw,).

    Parameters
    ----------
    draws : DeploymentDraws
        The draws.
    rows : Rows
        The rows.
    n_seen : int
        Rows seen of the deployment: the newest has age zero.
    decay : float
        Weight of a row is decay to the power of its age.
    """
    total = np.zeros(draws.n_draws)
    for start in range(0, len(rows), BLOCK):
        part = rows[start : start + BLOCK]
        found = draws.log_density(part.latency_ms, part.points)
        total += found @ part.discounts(n_seen=n_seen, decay=decay)
    return total
