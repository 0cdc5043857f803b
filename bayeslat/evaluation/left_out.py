"""Measured rows next to what a posterior says of them, with and without their own say.

The PIT of a row is the predicted probability of one no longer than it: uniform where the model is
right. A posterior has seen the rows that it was fitted to, which flatters it; LOO-PIT is the PIT
under the posterior without the row, by Pareto-smoothed importance sampling (Vehtari, Gelman and
Gabry, 2017). Both are exact means over draws of the cumulative distribution, no noise is simulated.

Only one row is left out at a time. Rows at the same design point, and the discrepancy that they
share, stay: LOO says nothing of how well a model predicts steps far from every measured one.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd
from arviz_stats.base import array_stats
from numpy.typing import NDArray
from scipy import special

from bayeslat.checks import MAX_DRAWS, common_rows, cumulative, log_likelihood, row_points
from bayeslat.observations import Observations
from bayeslat.posterior import FleetPosterior
from bayeslat.predictive import LatencyDistribution
from bayeslat.schema import Deployment

__all__ = ["RowChecks", "check_rows"]

type Array = NDArray[np.float64]

BLOCK: Final = 2000
"""Rows whose draws are held in memory at once."""

K_BANDS: Final = ("good", "bad", "very bad")
"""Reliability of a left-out row by its k-hat: up to `RowChecks.good_k`, up to one, and above,
where the importance weights have no mean."""


@dataclass(frozen=True, eq=False)
class RowChecks:
    """What a posterior says of each measured row.

    Attributes
    ----------
    rows : DataFrame
        Columns ``deployment`` (label), ``row`` (place in the observations), ``batch_size``,
        ``total_tokens``, ``context_tokens``, ``timestamp``, ``observed`` and ``fitted`` (predictive
        median), both ms, ``pit``, ``loo_pit``, ``elpd`` (log density of the row left out, 1/ms) and
        ``pareto_k``.
    n_draws : int
        Draws behind it.
    """

    rows: pd.DataFrame
    n_draws: int

    @property
    def good_k(self) -> float:
        """Largest k-hat at which so many draws give a reliable answer (Vehtari et al., 2024)."""
        return float(min(1.0 - 1.0 / np.log10(self.n_draws), 0.7))

    @property
    def elpd(self) -> tuple[float, float]:
        """Expected log density of the rows left out, and its standard error."""
        each = self.rows["elpd"]
        return float(each.sum()), float(np.sqrt(len(each)) * each.std(ddof=1))

    def k_table(self) -> pd.DataFrame:
        """Rows in each band of k-hat, one line a deployment.

        Returns
        -------
        DataFrame
            Columns ``deployment``, ``n_rows``, ``elpd``, the three of `K_BANDS`, ``largest_k`` and
            ``worst``, the row of the largest k-hat in words.
        """
        lines = []
        for label, own in self.rows.groupby("deployment", sort=False):
            bands = np.digitize(own["pareto_k"], [self.good_k, 1.0], right=True)
            counts = np.bincount(bands, minlength=len(K_BANDS))
            worst = own.iloc[int(np.argmax(own["pareto_k"]))]
            lines.append(
                {
                    "deployment": label,
                    "n_rows": len(own),
                    "elpd": own["elpd"].sum(),
                    **dict(zip(K_BANDS, counts.tolist(), strict=True)),
                    "largest_k": worst["pareto_k"],
                    "worst": _described(worst),
                }
            )
        return pd.DataFrame(lines)

    def worst(self, n: int = 5) -> pd.DataFrame:
        """The `n` rows of the largest k-hat: those that pull hardest at the posterior."""
        return self.rows.nlargest(n, "pareto_k").reset_index(drop=True)


def check_rows(
    fleet: FleetPosterior,
    observations: Observations,
    *,
    max_rows: int | None = None,
    seed: int = 0,
) -> RowChecks:
    """PIT, LOO-PIT, elpd and k-hat of every measured row.

    Where the model has stray rows they are part of the prediction: what is checked are logged rows.

    Parameters
    ----------
    fleet : FleetPosterior
        The posterior, fitted to these steps. Of steps that it has not seen, ``pit`` is the answer
        and what is left out has no meaning.
    observations, max_rows, seed
        As in `bayeslat.checks.predict_rows`.

    Raises
    ------
    InputError
        The posterior holds none of the deployments.
    """
    parts = [
        _check(fleet, deployment, observations, rows[start : start + BLOCK])
        for deployment, rows in common_rows(fleet, observations, max_rows, seed)
        for start in range(0, rows.size, BLOCK)
    ]
    n_draws = fleet.posterior.sizes["chain"] * fleet.posterior.sizes["draw"]
    return RowChecks(pd.concat(parts, ignore_index=True), min(n_draws, MAX_DRAWS))


def _check(
    fleet: FleetPosterior,
    deployment: Deployment,
    observations: Observations,
    rows: NDArray[np.int64],
) -> pd.DataFrame:
    density = log_likelihood(fleet, deployment, observations, rows)
    below = cumulative(fleet, deployment, observations, rows)
    log_weights, pareto_k = array_stats.psislw(density, r_eff=1.0, axis=0)  # (row, draw)
    log_weights -= special.logsumexp(log_weights, axis=1, keepdims=True)
    points = row_points(fleet, deployment, observations, rows)
    design = points.batch_size, points.total_tokens, points.context_tokens, points.n_averaged
    return pd.DataFrame(
        {
            "deployment": deployment.label,
            "row": rows,
            "batch_size": points.batch_size,
            "total_tokens": points.total_tokens,
            "context_tokens": points.context_tokens,
            "timestamp": observations.timestamp[rows],
            "observed": observations.latency_ms[rows],
            "fitted": _median(fleet, deployment, np.stack(design)),
            "pit": below.mean(axis=0),
            # The smoothed weights sum to one up to rounding.
            "loo_pit": np.clip((np.exp(log_weights) * below.T).sum(axis=1), 0.0, 1.0),
            "elpd": special.logsumexp(log_weights + density.T, axis=1),
            "pareto_k": pareto_k,
        }
    )


def _median(fleet: FleetPosterior, deployment: Deployment, design: Array) -> Array:
    """Predictive medians, shape (row,); rows of one design point share one search."""
    points, index = np.unique(design, axis=1, return_inverse=True)
    draws = fleet.draws(deployment).thin(MAX_DRAWS)
    found: Array = LatencyDistribution(draws, *points).ppf(0.5)[index]
    return found


def _described(row: pd.Series) -> str:
    return (
        f"B = {row['batch_size']:.0f}, S = {row['total_tokens']:.0f},"
        f" C = {row['context_tokens']:.0f}: {row['observed']:.3g} ms measured,"
        f" {row['fitted']:.3g} ms fitted"
    )
