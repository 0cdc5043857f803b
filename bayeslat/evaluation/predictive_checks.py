"""Predictive checks: PIT values against uniform, replicated against measured steps, the prior.

Replicated steps are drawn at the measured design points; a statistic of the measured ones that
hardly any replication reaches is one that the model gets wrong (Gelman, Meng and Stern, 1996). Such
p-values are conservative, as the posterior has seen the steps.
"""

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from bayeslat.catalog import Catalog
from bayeslat.checks import common_rows, prior_distribution, row_points, stray_share
from bayeslat.evaluation.findings import LEVEL, Finding, Findings, judged, not_done
from bayeslat.evaluation.left_out import RowChecks
from bayeslat.evaluation.uniformity import uniform_band
from bayeslat.model.likelihood import STRAY_SPREAD
from bayeslat.model.spec import ModelSpec
from bayeslat.observations import Observations
from bayeslat.posterior import FleetPosterior
from bayeslat.predictive import DeploymentDraws
from bayeslat.predictive.draws import Points
from bayeslat.schema import Deployment

__all__ = [
    "SANE_MS",
    "STATISTICS",
    "Replicated",
    "pit_curves",
    "pit_tests",
    "prior_check",
    "replicate",
]

type Array = NDArray[np.float64]

NEEDED_PIT: Final = 10
MATERIAL_DISTANCE: Final = 0.05
"""Distance of the curve from the diagonal: a quantile that is exceeded five times in a hundred more
or less than said."""

MATERIAL: Final = {
    "mean": 0.02,
    "sd of log": 0.1,
    "p99 / median": 0.1,
    "largest / fitted": 0.25,
    "beyond twice fitted": 0.005,
}
"""Departure of the measured statistic from the median replication that matters: a share of it, for
the last one, a share itself, the difference."""

STATISTICS: Final = tuple(MATERIAL)
"""Statistics of the steps of one deployment: mean in ms, standard deviation of log latency, ratio
of the 99th percentile to the median, largest ratio of a step to its predictive median, and share of
steps of more than twice that."""

SANE_MS: Final = (0.1, 60_000.0)
"""Latencies that a prior may expect: from a tenth of a millisecond to a minute."""

BATCH: Final = 50
"""Replications drawn at once."""


def pit_tests(checked: RowChecks, *, left_out: bool = True, level: float = LEVEL) -> Findings:
    """Whether PIT values are uniform, by deployment.

    Parameters
    ----------
    checked : RowChecks
        From `bayeslat.evaluation.left_out.check_rows`.
    left_out : bool
        Whether to take LOO-PIT, for steps that the posterior was fitted to.
    level : float
        Probability that any deployment of a right model fails.
    """
    column = "loo_pit" if left_out else "pit"
    groups = checked.rows.groupby("deployment", sort=False)
    return judged([_uniform(str(label), own[column]) for label, own in groups], level=level)


def pit_curves(checked: RowChecks, *, left_out: bool = True, mass: float = 0.95) -> pd.DataFrame:
    """Distribution of PIT values less that of uniform ones, with its simultaneous band.

    Parameters
    ----------
    checked, left_out
        As in `pit_tests`.
    mass : float
        Probability that the whole curve of a right model stays inside.

    Returns
    -------
    DataFrame
        Columns ``deployment``, ``at``, ``difference``, ``lower`` and ``upper``, on a grid.
    """
    column = "loo_pit" if left_out else "pit"
    parts = []
    for label, own in checked.rows.groupby("deployment", sort=False):
        band = uniform_band(len(own), mass=mass)
        parts.append(
            pd.DataFrame(
                {
                    "deployment": label,
                    "at": band.at,
                    "difference": band.shares(own[column].to_numpy()) - band.at,
                    "lower": band.lower - band.at,
                    "upper": band.upper - band.at,
                }
            )
        )
    return pd.concat(parts, ignore_index=True)


def _uniform(label: str, values: pd.Series) -> Finding:
    pit = values.to_numpy()
    if pit.size < NEEDED_PIT:
        why = f"got {pit.size} rows, expected at least {NEEDED_PIT}"
        return not_done(label, "calibration", pit.size, why)
    distance = float(stats.kstest(pit, "uniform").statistic)
    inside = {mass: np.mean(np.abs(pit - 0.5) <= mass / 200.0) for mass in (50, 90)}
    beyond = float(np.mean(pit > 0.99))
    sentence = (
        f"{100 * inside[50]:.0f} % of steps in 50 % intervals, {100 * inside[90]:.0f} % in 90 %,"
        f" {100 * beyond:.1f} % beyond the predicted p99, {100 * np.mean(pit > 0.5):.0f} % slower"
        " than the predicted median"
    )
    p = uniform_band(pit.size).p_value(pit)
    return Finding(
        label, "calibration", pit.size, distance, p, distance, "largest distance",
        distance > MATERIAL_DISTANCE, sentence,
    )  # fmt: skip


@dataclass(frozen=True, eq=False)
class Replicated:
    """Statistics of measured and of replicated steps.

    Attributes
    ----------
    deployments : tuple of str
        Labels.
    n_rows : tuple of int
        Measured steps of each.
    observed : array, shape (deployment, statistic)
        Of the measured steps, in the order of `STATISTICS`.
    replicated : array, shape (deployment, statistic, replication)
        Of replicated ones.
    """

    deployments: tuple[str, ...]
    n_rows: tuple[int, ...]
    observed: Array
    replicated: Array

    @property
    def p_values(self) -> Array:
        """Two-sided, shape (deployment, statistic); ties count half on either side."""
        observed = self.observed[..., None]
        above = (self.replicated > observed).sum(axis=-1)
        ties = (self.replicated == observed).sum(axis=-1)
        share = (above + 0.5 * ties + 0.5) / (self.replicated.shape[-1] + 1.0)
        p: Array = np.minimum(2.0 * np.minimum(share, 1.0 - share), 1.0)
        return p

    def table(self) -> pd.DataFrame:
        """One row for each deployment and statistic.

        Returns
        -------
        DataFrame
            Columns ``deployment``, ``statistic``, ``observed``, ``median``, ``lower``, ``upper``
            (99 % of replications) and ``p_value``.
        """
        lower, median, upper = np.quantile(self.replicated, [0.005, 0.5, 0.995], axis=-1)
        p = self.p_values
        return pd.DataFrame(
            [
                {
                    "deployment": label,
                    "statistic": name,
                    "observed": self.observed[i, j],
                    "median": median[i, j],
                    "lower": lower[i, j],
                    "upper": upper[i, j],
                    "p_value": p[i, j],
                }
                for i, label in enumerate(self.deployments)
                for j, name in enumerate(STATISTICS)
            ]
        )

    def findings(self, *, level: float = LEVEL) -> Findings:
        """Every statistic as a check: measured apart from nearly all replications, and far."""
        found = []
        table = self.table().to_dict("records")
        for position, row in enumerate(table):
            n = self.n_rows[position // len(STATISTICS)]
            check = f"replicated {row['statistic']}"
            if n < 2:
                found.append(not_done(row["deployment"], check, n, "got 1 row, expected 2"))
                continue
            sentence = (
                f"{row['observed']:.3g} measured, {row['lower']:.3g} to {row['upper']:.3g} in 99 %"
                " of replications"
            )
            effect = row["observed"] - row["median"]
            if row["statistic"] != STATISTICS[-1]:
                effect /= row["median"]
            found.append(
                Finding(
                    deployment=row["deployment"],
                    check=check,
                    n_rows=n,
                    statistic=row["observed"],
                    p_value=row["p_value"],
                    effect=effect,
                    effect_name="measured less replicated",
                    material=abs(effect) > MATERIAL[row["statistic"]],
                    sentence=sentence,
                )
            )
        return judged(found, level=level)


def replicate(
    fleet: FleetPosterior,
    observations: Observations,
    *,
    n: int | None = None,
    max_rows: int | None = None,
    seed: int = 0,
) -> Replicated:
    """Posterior predictive check: statistics of steps replicated at the measured design points.

    Each replication takes one posterior draw for all rows, so that what rows have in common is in
    it too.

    Parameters
    ----------
    fleet, observations, max_rows
        As in `bayeslat.checks.predict_rows`.
    n : int, optional
        Replications. By default as many as Holm's correction needs to find anything at `LEVEL`,
        which is more than two a deployment over the level, and at least 1,000.
    seed : int
        Of the choice of rows and of the noise.

    Raises
    ------
    InputError
        The posterior holds none of the deployments.
    """
    rng = np.random.default_rng(seed)
    common = common_rows(fleet, observations, max_rows, seed)
    n = n or max(1000, math.ceil(2.5 * len(common) / LEVEL))
    labels, counts, observed, replicated = [], [], [], []
    for deployment, rows in common:
        points = row_points(fleet, deployment, observations, rows)
        draws = fleet.draws(deployment)
        pick = rng.integers(draws.n_draws, size=n)
        share = stray_share(fleet, deployment)
        fitted = np.median(draws.thin(200).location(points), axis=0)
        parts = []
        for start in range(0, n, BATCH):
            chosen = pick[start : start + BATCH]
            strays = None if share is None else share[chosen]
            parts.append(_statistics(_steps(draws.take(chosen), points, strays, rng), fitted))
        labels.append(deployment.label)
        counts.append(rows.size)
        observed.append(_statistics(observations.latency_ms[rows][None], fitted)[:, 0])
        replicated.append(np.concatenate(parts, axis=1))
    return Replicated(tuple(labels), tuple(counts), np.array(observed), np.array(replicated))


def _steps(
    draws: DeploymentDraws, points: Points, share: Array | None, rng: np.random.Generator
) -> Array:
    """Logged rows of each draw, strays among them, shape (draw, row)."""
    mu, sigma = draws.location_and_scale(points)
    noise = sigma * draws.noise.standard_rvs(draws.shape(points), mu.shape, rng)
    steps = mu * (np.exp(noise) if draws.noise.log_scale else np.maximum(1.0 + noise, 1e-3))
    if share is not None:
        stray = rng.uniform(size=mu.shape) < share
        steps = np.where(stray, mu * np.exp(STRAY_SPREAD * rng.standard_normal(mu.shape)), steps)
    return steps


def _statistics(t_ms: Array, fitted: Array) -> Array:
    """`STATISTICS` of steps of shape (replication, row), shape (statistic, replication)."""
    ratio = t_ms / fitted
    return np.stack(
        [
            t_ms.mean(axis=1),
            np.log(t_ms).std(axis=1),
            np.quantile(t_ms, 0.99, axis=1) / np.median(t_ms, axis=1),
            ratio.max(axis=1),
            np.mean(ratio > 2.0, axis=1),
        ]
    )


def prior_check(
    observations: Observations,
    spec: ModelSpec | None = None,
    *,
    catalog: Catalog | None = None,
    max_rows: int = 200,
    n_draws: int = 1000,
    sane_ms: tuple[float, float] = SANE_MS,
    seed: int = 0,
) -> pd.DataFrame:
    """Prior predictive check: what the model expects of the measured steps before it sees them.

    Parameters
    ----------
    observations : Observations
        Steps.
    spec, catalog : optional
        The model and the datasheets; the defaults where left out.
    max_rows, n_draws, seed : int
        Rows to take from each deployment at random, draws from the prior, and their seed.
    sane_ms : tuple of float
        Latencies that are not absurd, in ms.

    Returns
    -------
    DataFrame
        Columns ``deployment``, ``n_rows``, ``sane`` (prior probability of a latency within
        `sane_ms`, mean over the rows), ``inside_99`` (share of the measured rows within the central
        99 % of the prior predictive), ``median_ratio`` (median of measured over expected latency),
        ``failed`` (less than 99 % sane, or less than 90 % inside) and ``sentence``.
    """
    rng = np.random.default_rng(seed)
    lines = []
    for deployment in observations.deployments:
        own = observations.slice_of(deployment)
        rows = np.arange(own.start, own.stop)
        if rows.size > max_rows:
            rows = np.sort(rng.choice(rows, max_rows, replace=False))
        lines.append(
            _prior_line(observations, deployment, rows, spec, catalog, n_draws, sane_ms, seed)
        )
    return pd.DataFrame(lines)


def _prior_line(
    observations: Observations,
    deployment: Deployment,
    rows: NDArray[np.int64],
    spec: ModelSpec | None,
    catalog: Catalog | None,
    n_draws: int,
    sane_ms: tuple[float, float],
    seed: int,
) -> dict[str, object]:
    # The likelihood, too, counts a context that was not recorded as none.
    context = np.nan_to_num(observations.context_tokens[rows])
    points = (
        observations.batch_size[rows],
        observations.total_tokens[rows],
        context,
        observations.n_averaged[rows],
    )
    latency = prior_distribution(
        deployment, points, spec=spec, catalog=catalog, n_draws=n_draws, seed=seed
    )
    measured = observations.latency_ms[rows]
    sane = float(np.mean(latency.cdf(sane_ms[1]) - latency.cdf(sane_ms[0])))
    pit = latency.cdf(measured)
    inside = float(np.mean((pit >= 0.005) & (pit <= 0.995)))
    ratio = float(np.median(measured / latency.median()))
    return {
        "deployment": deployment.label,
        "n_rows": rows.size,
        "sane": sane,
        "inside_99": inside,
        "median_ratio": ratio,
        "failed": sane < 0.99 or inside < 0.9,
        "sentence": (
            f"the prior puts {100 * sane:.1f} % of steps between {sane_ms[0]:g} and"
            f" {sane_ms[1]:g} ms; {100 * inside:.0f} % of the measured ones lie within its central"
            f" 99 %, the median one takes {ratio:.2f} times what it expects"
        ),
    }
