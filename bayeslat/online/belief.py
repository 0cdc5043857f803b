"""What is believed of one deployment: draws, and the weights that rows seen since have given them.

Draws stand for a prior times the likelihood of the rows that they were taken with. Rows that come
later multiply their weights (importance sampling), rows that are forgotten divide them. That is
Bayes' rule without sampling anything, for as long as the draws cover where the posterior has gone
to: the shape parameter of the largest weights tells (Vehtari et al., 2024, "Pareto smoothed
importance sampling"). When they no longer do, the last weights that could be trusted stay in force
until draws are taken anew.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final, Self

import numpy as np
from arviz_stats.base import array_stats
from numpy.typing import NDArray

from bayeslat.online.rows import Rows
from bayeslat.predictive import DeploymentDraws

__all__ = ["Belief", "discounted_likelihood", "largest_pareto_k"]

type Array = NDArray[np.float64]

BLOCK: Final = 512
"""Rows whose densities are held in memory at once."""

SCORING_DRAWS: Final = 128
"""Draws that rows are scored with: a PIT value is off by a fraction of its own spread."""

LEAST_SHARE: Final = 0.05
"""Effective share of the draws below which weights are not trusted, whatever their tail."""


def largest_pareto_k(n_draws: int) -> float:
    """Shape parameter up to which weights of so many draws are trusted (Vehtari et al., 2024)."""
    return min(1.0 - 1.0 / np.log10(n_draws), 0.7)


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
        Discounted log likelihood of the rows that count now.
    log_weights : array, shape (draw,)
        Normalised log weights in force: the last that could be trusted.
    pareto_k : float
        Shape parameter of the weights that the rows now ask for.
    """

    draws: DeploymentDraws
    log_taken: Array
    log_likelihood: Array
    log_weights: Array
    pareto_k: float = -np.inf

    @classmethod
    def of(
        cls,
        draws: DeploymentDraws,
        *,
        log_taken: Array | None = None,
    ) -> Self:
        """Draws before any row but those that they were taken with; fields not given are zero."""
        nothing = np.zeros(draws.n_draws)
        even = np.full(draws.n_draws, -np.log(draws.n_draws))
        taken = nothing if log_taken is None else log_taken
        return cls(draws, taken, taken, even).judged(taken)

    @property
    def trusted(self) -> bool:
        """Whether the weights in force are those that the rows ask for."""
        return self.pareto_k <= largest_pareto_k(self.draws.n_draws)

    @property
    def effective_draws(self) -> float:
        """Effective number of draws under the weights in force (Kish)."""
        return float(1.0 / np.exp(2.0 * self.log_weights).sum())

    def updated(self, log_likelihood: Array, *, aged: float = 1.0) -> Self:
        """The belief after more rows.

        Parameters
        ----------
        log_likelihood : array, shape (draw,)
            Discounted log likelihood of the new rows, less that of rows that no longer count.
        aged : float
            What the discounts of all earlier rows are multiplied with.
        """
        return self.judged(aged * self.log_likelihood + log_likelihood)

    def judged(self, log_likelihood: Array) -> Self:
        """The belief under another likelihood; weights that cannot be trusted are not taken over.

        Parameters
        ----------
        log_likelihood : array, shape (draw,)
            Discounted log likelihood of the rows that count.
        """
        raw = log_likelihood - self.log_taken
        if np.ptp(raw) == 0.0:
            even = np.full(raw.size, -np.log(raw.size))
            return replace(self, log_likelihood=log_likelihood, log_weights=even, pareto_k=-np.inf)
        # ArviZ takes the logarithms of the inverse weights, as leave-one-out has them.
        smoothed, k = array_stats.psislw(-raw)
        effective = 1.0 / np.exp(2.0 * smoothed).sum()
        pareto_k = float(k) if effective >= LEAST_SHARE * raw.size else np.inf
        fine = pareto_k <= largest_pareto_k(raw.size)
        return replace(
            self,
            log_likelihood=log_likelihood,
            log_weights=smoothed if fine else self.log_weights,
            pareto_k=pareto_k,
        )

    def picked(self, n: int) -> NDArray[np.int64]:
        """Which draws stand for the belief as `n` equally weighted ones (systematic resampling)."""
        points = (np.arange(n) + 0.5) / n
        pick = np.searchsorted(np.cumsum(np.exp(self.log_weights)), points)
        return np.minimum(pick, self.draws.n_draws - 1)

    @cached_property
    def sample(self) -> DeploymentDraws:
        """A few equally weighted draws, to score rows with."""
        self.draws.tables()  # laid out once for all samples of these draws
        return self.draws.take(self.picked(min(SCORING_DRAWS, self.draws.n_draws)))

    @cached_property
    def even(self) -> DeploymentDraws:
        """As many equally weighted draws as the support has."""
        if np.ptp(self.log_weights) == 0.0:
            return self.draws
        return self.draws.take(self.picked(self.draws.n_draws))


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
