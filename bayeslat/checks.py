"""What a posterior says about steps that were measured, next to what was measured."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import arviz as az
import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray
from scipy import stats

from bayeslat.catalog import Catalog, load_catalog
from bayeslat.errors import InputError
from bayeslat.model.design import fleet_design
from bayeslat.model.likelihood import STRAY_SPREAD
from bayeslat.model.pooling import prior_draws
from bayeslat.model.priors import (
    NOISE_GPU_SPREAD,
    NOISE_MEAN,
    NOISE_SCALE,
    NOISE_SLOPE_MEAN_SPREADS,
    NOISE_SLOPE_SPREADS,
)
from bayeslat.model.spec import ModelSpec
from bayeslat.observations import Observations
from bayeslat.posterior import FleetPosterior
from bayeslat.predictive import DeploymentDraws, LatencyDistribution
from bayeslat.predictive.draws import Points
from bayeslat.schema import Deployment

__all__ = [
    "MAX_DRAWS",
    "PredictionScores",
    "common_rows",
    "cumulative",
    "leave_one_out",
    "log_likelihood",
    "predict_rows",
    "prior_distribution",
    "prior_predictive",
    "row_points",
    "score_predictions",
    "stray_share",
]

type Array = NDArray[np.float64]

LEVELS: Final = (0.05, 0.25, 0.5, 0.75, 0.95)
COLUMNS: Final = ("lower_90", "lower_50", "median", "upper_50", "upper_90")
DESIGN: Final = ("batch_size", "total_tokens", "context_tokens", "n_averaged")
MAX_DRAWS: Final = 1000
"""Draws that `predict_rows` and `leave_one_out` keep: quantiles of steps need no more."""

_PRIOR_SIGMA: Final = (
    np.log(NOISE_MEAN[0]),
    np.linalg.norm([NOISE_MEAN[1], NOISE_GPU_SPREAD, NOISE_SCALE[0]]),
)
_PRIOR_NU: Final = 5.0


@dataclass(frozen=True)
class PredictionScores:
    """How well predicted distributions met measured steps.

    Attributes
    ----------
    n_rows : int
        Measured steps.
    mape : float
        Mean absolute error of the predicted median, as a share of the measured latency.
    coverage_50, coverage_90 : float
        Share of the steps inside the central 50 % and 90 % intervals.
    """

    n_rows: int
    mape: float
    coverage_50: float
    coverage_90: float

    def __str__(self) -> str:
        return (
            f"MAPE {100 * self.mape:.1f} %, coverage of the 50 % interval"
            f" {100 * self.coverage_50:.0f} %, of the 90 % interval {100 * self.coverage_90:.0f} %"
            f" ({self.n_rows} steps)"
        )


def predict_rows(
    fleet: FleetPosterior,
    observations: Observations,
    *,
    max_rows: int | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Predict every measured step of the deployments that the posterior holds.

    A row that is the mean of several steps is predicted as such a mean. Where a row has no recorded
    context the deployment's typical context stands in.

    Parameters
    ----------
    fleet : FleetPosterior
        The posterior.
    observations : Observations
        Measured steps.
    max_rows : int, optional
        Rows to take from each deployment, chosen at random; all by default.
    seed : int
        Seed of that choice.

    Returns
    -------
    DataFrame
        Columns ``deployment`` (label), ``batch_size``, ``total_tokens``, ``context_tokens``,
        ``observed``, ``lower_90``, ``lower_50``, ``median``, ``upper_50``, ``upper_90`` (ms) and
        ``pit``, the predicted probability of a step no longer than the observed one.

    Raises
    ------
    InputError
        The posterior holds none of the deployments.
    """
    tables = [
        _predict(fleet, deployment, observations, rows)
        for deployment, rows in common_rows(fleet, observations, max_rows, seed)
    ]
    return pd.concat(tables, ignore_index=True)


def common_rows(
    fleet: FleetPosterior, observations: Observations, max_rows: int | None = None, seed: int = 0
) -> list[tuple[Deployment, NDArray[np.int64]]]:
    """Rows of each deployment that posterior and steps have in common.

    Parameters
    ----------
    fleet, observations, max_rows, seed
        As in `predict_rows`.

    Raises
    ------
    InputError
        The posterior holds none of the deployments.
    """
    rng = np.random.default_rng(seed)
    found = []
    for deployment in fleet.deployments:
        if deployment not in observations.deployments:
            continue
        own = observations.slice_of(deployment)
        rows = np.arange(own.start, own.stop)
        if max_rows is not None and rows.size > max_rows:
            rows = np.sort(rng.choice(rows, max_rows, replace=False))
        found.append((deployment, rows))
    if not found:
        labels = ", ".join(item.label for item in observations.deployments[:6])
        raise InputError(
            f"got steps of {labels}, none of which this posterior holds, expected steps of its own"
            " deployments; give the steps that it was fitted on or new ones of the same deployments"
        )
    return found


def leave_one_out(
    fleet: FleetPosterior,
    observations: Observations,
    *,
    max_rows: int | None = None,
    seed: int = 0,
) -> az.ELPDDataLOO:
    """Expected log predictive density of left-out steps, by Pareto-smoothed importance sampling.

    Vehtari, Gelman and Gabry (2017). Densities are those of the latency in 1/ms in every noise
    family, so fits of the same steps with different models may be compared, with
    ``arviz.compare({"with": loo, "without": other})`` for instance.

    Parameters
    ----------
    fleet : FleetPosterior
        The posterior, fitted to these steps.
    observations : Observations
        The steps.
    max_rows, seed
        As in `predict_rows`.

    Returns
    -------
    arviz.ELPDDataLOO
        ``elpd``, ``se`` and, for each step, ``elpd_i`` and ``pareto_k``.

    Raises
    ------
    InputError
        The posterior holds none of the deployments.
    """
    columns = [
        log_likelihood(fleet, deployment, observations, rows)
        for deployment, rows in common_rows(fleet, observations, max_rows, seed)
    ]
    density = np.concatenate(columns, axis=1)[None]
    groups = {"log_likelihood": xr.Dataset({"latency_ms": (("chain", "draw", "row"), density)})}
    # Thinned draws are nearly independent.
    return az.loo(xr.DataTree.from_dict(groups), pointwise=True, reff=1.0)


def log_likelihood(
    fleet: FleetPosterior,
    deployment: Deployment,
    observations: Observations,
    rows: NDArray[np.int64],
    *,
    max_draws: int = MAX_DRAWS,
) -> Array:
    """Log density of logged rows in each draw, 1/ms, shape (draw, row); strays are among them.

    Parameters
    ----------
    fleet, deployment, observations
        A posterior, one of its deployments, and steps.
    rows : array of int, shape (row,)
        Rows of that deployment.
    max_draws : int
        Draws to keep.
    """
    draws, points = _draws_at(fleet, deployment, observations, rows, max_draws)
    t_ms = observations.latency_ms[rows]
    density = draws.log_density(t_ms, points)
    share = stray_share(fleet, deployment, n_draws=draws.n_draws)
    if share is None:
        return density
    strays = stats.lognorm.logpdf(t_ms, STRAY_SPREAD, scale=draws.location(points))
    return np.logaddexp(np.log1p(-share) + density, np.log(share) + strays)


def cumulative(
    fleet: FleetPosterior,
    deployment: Deployment,
    observations: Observations,
    rows: NDArray[np.int64],
    *,
    max_draws: int = MAX_DRAWS,
) -> Array:
    """Probability of a logged row no longer than the observed one in each draw, (draw, row).

    Arguments as in `log_likelihood`.
    """
    draws, points = _draws_at(fleet, deployment, observations, rows, max_draws)
    t_ms = observations.latency_ms[rows]
    below = 1.0 - draws.sf_draws(t_ms, points)
    share = stray_share(fleet, deployment, n_draws=draws.n_draws)
    if share is None:
        return below
    strays = stats.lognorm.cdf(t_ms, STRAY_SPREAD, scale=draws.location(points))
    return (1.0 - share) * below + share * strays


def _draws_at(
    fleet: FleetPosterior,
    deployment: Deployment,
    observations: Observations,
    rows: NDArray[np.int64],
    max_draws: int,
) -> tuple[DeploymentDraws, Points]:
    draws = fleet.draws(deployment).thin(max_draws)
    return draws, row_points(fleet, deployment, observations, rows)


def stray_share(
    fleet: FleetPosterior, deployment: Deployment, *, n_draws: int | None = None
) -> Array | None:
    """Share of stray rows in each of so many draws, shape (draw, 1); None where there are none.

    Parameters
    ----------
    fleet, deployment
        A posterior and one of its deployments.
    n_draws : int, optional
        Draws, as `DeploymentDraws.thin` picks them; all by default.
    """
    if "stray_share" not in fleet.posterior:
        return None
    position = fleet.deployments.index(deployment)
    share = fleet.posterior["stray_share"].isel(deployment=position).to_numpy().ravel()
    pick = np.linspace(0, share.size - 1, n_draws or share.size).astype(int)
    return share[pick, None]


def score_predictions(table: pd.DataFrame) -> PredictionScores:
    """Summarise a table of `predict_rows`."""
    observed = table["observed"].to_numpy()

    def coverage(mass: int) -> float:
        lower, upper = table[f"lower_{mass}"], table[f"upper_{mass}"]
        return float(np.mean((lower <= observed) & (observed <= upper)))

    return PredictionScores(
        n_rows=len(table),
        mape=float(np.mean(np.abs(table["median"] - observed) / observed)),
        coverage_50=coverage(50),
        coverage_90=coverage(90),
    )


def prior_predictive(
    deployment: Deployment,
    *,
    batch_size: Any,
    total_tokens: Any,
    context_tokens: Any,
    spec: ModelSpec | None = None,
    catalog: Catalog | None = None,
    n_draws: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """Step latencies that the model expects of a deployment before it has seen any step.

    Pooling scales are at their prior medians, and the tail index of the noise at a typical value.
    This is the formula's prior: a few per cent of discrepancy are left out.

    Parameters
    ----------
    deployment : Deployment
        GPU and LLM decide through their datasheets.
    batch_size, total_tokens, context_tokens : array
        Design points; they broadcast to one dimension.
    spec, catalog : optional
        The model and the datasheets; the defaults where left out.
    n_draws, seed : int
        Draws from the prior and their seed.

    Returns
    -------
    DataFrame
        Columns ``batch_size``, ``total_tokens``, ``context_tokens`` and the quantiles ``lower_90``,
        ``lower_50``, ``median``, ``upper_50``, ``upper_90`` in ms.
    """
    points = np.broadcast_arrays(
        *(np.atleast_1d(np.asarray(a, float)) for a in (batch_size, total_tokens, context_tokens))
    )
    latency = prior_distribution(
        deployment, points, spec=spec, catalog=catalog, n_draws=n_draws, seed=seed
    )
    frame = pd.DataFrame(
        dict(zip(("batch_size", "total_tokens", "context_tokens"), points, strict=True))
    )
    return frame.assign(**_quantiles(latency))


def prior_distribution(
    deployment: Deployment,
    points: Sequence[Any],
    *,
    spec: ModelSpec | None = None,
    catalog: Catalog | None = None,
    n_draws: int = 1000,
    seed: int = 0,
) -> LatencyDistribution:
    """The distribution behind `prior_predictive`, whose other arguments it takes.

    Parameters
    ----------
    points : sequence of array
        B, S, C and perhaps the number of averaged steps; they broadcast.
    """
    spec, catalog = spec or ModelSpec(), catalog or load_catalog()
    design = fleet_design([deployment], catalog)
    rng = np.random.default_rng([seed, 1])  # the parameters have taken the seed itself
    drawn = prior_draws(spec, design, n_draws, seed=seed)
    parameters = {name: values[:, 0] for name, values in drawn.items()}
    parameters["w_1"] = np.full(n_draws, float(design.w_1[0]))
    sigma = np.exp(_PRIOR_SIGMA[0] + _PRIOR_SIGMA[1] * rng.standard_normal(n_draws))
    spreads = np.hypot(NOISE_SLOPE_MEAN_SPREADS, NOISE_SLOPE_SPREADS)
    slopes = spreads * rng.standard_normal((n_draws, spreads.size))
    nu = np.full(n_draws, _PRIOR_NU)
    draws = DeploymentDraws(deployment, parameters, sigma, nu, spec.likelihood, slopes)
    return LatencyDistribution(draws, *points)


def _predict(
    fleet: FleetPosterior,
    deployment: Deployment,
    observations: Observations,
    rows: NDArray[np.int64],
) -> pd.DataFrame:
    draws = fleet.draws(deployment).thin(MAX_DRAWS)
    steps = row_points(fleet, deployment, observations, rows)
    design = np.stack([getattr(steps, name) for name in DESIGN])
    # Repeated measurements of one design point share one prediction.
    points, index = np.unique(design, axis=1, return_inverse=True)
    quantiles = _quantiles(LatencyDistribution(draws, *points))
    observed = observations.latency_ms[rows]
    return pd.DataFrame(
        {
            "deployment": deployment.label,
            **dict(zip(DESIGN[:3], design, strict=False)),
            "observed": observed,
            **{name: values[index] for name, values in quantiles.items()},
            "pit": LatencyDistribution(draws, *design).cdf(observed),
        }
    )


def row_points(
    fleet: FleetPosterior,
    deployment: Deployment,
    observations: Observations,
    rows: NDArray[np.int64],
) -> Points:
    """Design points of measured rows; a context that was not recorded is the typical one."""
    batch, tokens = observations.batch_size[rows], observations.total_tokens[rows]
    context = observations.context_tokens[rows]
    context = np.where(np.isnan(context), fleet.typical_context(deployment) * batch, context)
    return Points(batch, tokens, context, observations.n_averaged[rows].astype(float))


def _quantiles(latency: LatencyDistribution) -> dict[str, NDArray[np.float64]]:
    return {name: latency.ppf(level) for name, level in zip(COLUMNS, LEVELS, strict=True)}
