"""Prior sensitivity: how far an answer would move if a prior were stronger or weaker.

Power-scaling (Kallioinen, Paananen, Bürkner and Vehtari, 2024): the prior p, or the likelihood, is
raised to a power a near one. The rate at which an answer g then moves needs no new fit and no
weights, it is a covariance over the draws::

    d E[g] / d log a = cov(g, log p)
    d log sd(g) / d log a = cov(((g - E[g]) / sd(g))^2, log p) / 2

``shift`` is the first for a doubled power, in posterior standard deviations of g, and ``share`` is
minus twice the second: in a normal model it is the share of the answer's precision that comes from
the prior. Both have Monte Carlo errors. The cumulative Jensen-Shannon distance that the paper and
ArviZ take instead has no sign and a noise floor that here, with some hundred priors at once, lies
above its own threshold.

In a hierarchical model only what a person has chosen is scaled: priors of global values,
elasticities, pooling scales, and of effects whose scale is fixed. Effects with an estimated scale
follow their scale. The model integrates effects out, and draws them back exactly, so the
covariances are exact as well. Pooling scales are scaled as normals of their logarithms.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd
import xarray as xr
from arviz_stats.base import array_stats
from numpy.typing import NDArray
from scipy import special, stats

from bayeslat.checks import common_rows, log_likelihood, row_points
from bayeslat.errors import InputError
from bayeslat.model.design import FleetDesign, fleet_design
from bayeslat.model.likelihood import NU_OFFSET
from bayeslat.model.pooling import elasticities, feature_variances, median_scales
from bayeslat.model.priors import (
    DISCREPANCY_OWN,
    DISCREPANCY_STACK,
    NOISE_GPU_SPREAD,
    NOISE_MEAN,
    NOISE_SCALE,
    NOISE_SLOPE_MEAN_SPREADS,
    POOLING_LEVELS,
    REGRESSORS,
    STRAY_LOG_ODDS,
)
from bayeslat.observations import Observations
from bayeslat.posterior import FleetPosterior
from bayeslat.schema import Deployment

__all__ = ["INFORMED", "PriorSensitivity", "log_priors", "power_sensitivity", "prior_sensitivity"]

type Array = NDArray[np.float64]

MAX_SHIFT: Final = 0.3
"""Shift, in posterior standard deviations for a doubled power, from which on an answer noticeably
moves: what the threshold of Kallioinen et al. (2024) is for a normal."""

MAX_SHARE: Final = 0.5
"""Share of an answer's precision from which on it is rather the prior's word than the data's."""

CLEAR: Final = 4.0
"""Monte Carlo errors by which a shift or share must differ from zero to count: among a thousand
answers and parts, one in sixteen times by chance."""

BLOCK: Final = 2000
"""Rows whose draws are held in memory at once."""

ALL: Final = "all priors"
LIKELIHOOD: Final = "likelihood"
ANSWERS: Final = ("fastest step", "typical step", "slowest step", "p99 of the typical step")
"""Answers whose sensitivity is asked for: log latency without noise at the measured steps of least,
median and largest latency, and its 99th percentile at the middle one."""


INFORMED: Final = "informed by the data"
"""Diagnosis of an answer that no prior moves."""
_PRIOR: Final = "rather the prior's word than the data's"
_APART: Final = "prior and data pull apart"


@dataclass(frozen=True, eq=False)
class PriorSensitivity:
    """How answers move with priors and with the likelihood.

    Attributes
    ----------
    values : DataFrame
        One row for each deployment, answer and part of the model: columns ``deployment``,
        ``answer``, ``part`` (a prior by its name, ``all priors`` or ``likelihood``), ``shift``,
        ``shift_error``, ``share`` and ``share_error``.
    """

    values: pd.DataFrame

    def table(self) -> pd.DataFrame:
        """One row for each deployment and answer.

        Returns
        -------
        DataFrame
            Columns ``deployment``, ``answer``, ``part``, the prior that decides the diagnosis or,
            where none does, that shifts the answer most, its ``shift``, ``shift_error``, ``share``
            and ``share_error``, and ``diagnosis``.
        """
        values = self.values[self.values["part"] != LIKELIHOOD]
        lines = []
        for _, own in values.groupby(["deployment", "answer"], sort=False):
            told = own.assign(diagnosis=[_diagnosis(row) for _, row in own.iterrows()])
            single, wrong = told["part"] != ALL, told["diagnosis"] != INFORMED
            # A prior by its name says more than all together.
            choices = (single & wrong, wrong, single)
            among = next(told[chosen] for chosen in choices if chosen.any())
            lines.append(among.loc[among["shift"].abs() == among["shift"].abs().max()].iloc[0])
        return pd.DataFrame(lines).reset_index(drop=True)

    @property
    def failures(self) -> pd.DataFrame:
        """Answers that the data do not inform, or that prior and data disagree about."""
        table = self.table()
        return table[table["diagnosis"] != INFORMED].reset_index(drop=True)


def prior_sensitivity(fleet: FleetPosterior, observations: Observations) -> PriorSensitivity:
    """Sensitivity of predicted latencies to priors and likelihood.

    Parameters
    ----------
    fleet : FleetPosterior
        A fitted fleet.
    observations : Observations
        The steps that it was fitted to.

    Raises
    ------
    InputError
        The posterior is a cold start, whose prior is another posterior, or the steps are not those
        that it was fitted to.
    """
    if "intercept" not in fleet.posterior:
        raise InputError(
            "got a posterior that is a cold start, expected a fitted fleet: the prior of a newcomer"
            " is the fleet's posterior; ask the fleet"
        )
    if fleet.tree.attrs["data_fingerprint"] != observations.fingerprint:
        raise InputError(
            "got steps that are not those that the posterior was fitted to, expected the same: the"
            " likelihood is weighed against the prior; give the log of the fit"
        )
    sizes = fleet.posterior.sizes["chain"], fleet.posterior.sizes["draw"]
    common = common_rows(fleet, observations)
    answers = np.stack([_answers(fleet, observations, *found) for found in common], axis=1)
    parts = {name: array.reshape(sizes) for name, array in log_priors(fleet).items()}
    parts[ALL] = np.sum(list(parts.values()), axis=0)
    likelihood = np.sum([_total(fleet, observations, *found) for found in common], axis=0)
    parts[LIKELIHOOD] = likelihood.reshape(sizes)
    answers = answers.reshape(*sizes, len(common), len(ANSWERS))
    names = pd.MultiIndex.from_product(
        [[deployment.label for deployment, _ in common], ANSWERS], names=["deployment", "answer"]
    )
    tables = [
        pd.DataFrame(
            {key: values.ravel() for key, values in power_sensitivity(answers, array).items()},
            names,
        ).assign(part=part)
        for part, array in parts.items()
    ]
    return PriorSensitivity(pd.concat(tables).reset_index())


def power_sensitivity(answers: Array, log_density: Array) -> dict[str, Array]:
    """How answers move as a density is raised to a power near one.

    Parameters
    ----------
    answers : array, shape (chain, draw, ...)
        Draws of the answers.
    log_density : array, shape (chain, draw)
        Logarithm of the density, up to a constant.

    Returns
    -------
    dict of str to array, each shape (...)
        ``shift``, ``share`` (see the module's text) and their Monte Carlo errors, ``shift_error``
        and ``share_error``.
    """
    flat = answers.reshape(*answers.shape[:2], -1)
    z = (flat - flat.mean(axis=(0, 1))) / flat.std(axis=(0, 1))
    weight = (log_density - log_density.mean())[..., None]
    found = {}
    for name, terms in (
        ("shift", np.log(2.0) * z * weight),
        ("share", -(np.square(z) - 1.0) * weight),
    ):
        found[name] = terms.mean(axis=(0, 1))
        found[f"{name}_error"] = array_stats.mcse(terms, chain_axis=0, draw_axis=1)
    return {name: values.reshape(answers.shape[2:]) for name, values in found.items()}


def log_priors(fleet: FleetPosterior) -> dict[str, Array]:
    """Log density of what a person has chosen, by part of the model, each shape (draw,).

    Parameters
    ----------
    fleet : FleetPosterior
        A fitted fleet.

    Returns
    -------
    dict of str to array
        One for each pooled quantity, ``noise``, and ``tails``, ``discrepancy`` and ``strays`` where
        the model has them. Constants are left out.
    """
    posterior = fleet.posterior.stack(sample=("chain", "draw"))
    found = _of_quantities(fleet, posterior)
    noise = _normal(posterior["log_sigma_mean"], np.log(NOISE_MEAN[0]), NOISE_MEAN[1])
    noise = noise + _normal(posterior["log_sigma_gpu"], 0.0, NOISE_GPU_SPREAD)
    noise = noise + _lognormal(posterior["log_sigma_scale"], *NOISE_SCALE)
    slopes = posterior["log_sigma_slopes_mean"].transpose("sample", "noise_feature")
    found["noise"] = noise + stats.norm.logpdf(slopes / np.array(NOISE_SLOPE_MEAN_SPREADS)).sum(1)
    if "nu" in posterior:
        found["tails"] = stats.gamma.logpdf(posterior["nu"] - NU_OFFSET, 2.0, scale=10.0)
    if "discrepancy_own_scale" in posterior:
        found["discrepancy"] = _lognormal(
            posterior["discrepancy_stack_scale"], *DISCREPANCY_STACK
        ) + _lognormal(posterior["discrepancy_own_scale"], *DISCREPANCY_OWN)
    if "stray_share" in posterior:
        odds = xr.apply_ufunc(special.logit, posterior["stray_share"])
        found["strays"] = _normal(odds, *STRAY_LOG_ODDS)
    return found


def _of_quantities(fleet: FleetPosterior, posterior: xr.Dataset) -> dict[str, Array]:
    """Log prior of each pooled quantity: its global value, elasticities, scales, fixed effects."""
    spec = fleet.spec
    design = fleet_design(fleet.deployments, fleet.catalog)
    # Of the features whose variance no sampled scale moves, at the median scales.
    variances = feature_variances(spec, design, median_scales(spec))
    weights = _weights(fleet, posterior, design)
    found = {}
    for name, variance, own in zip(spec.quantities, variances, weights, strict=True):
        scales = {level: spec.prior(name).scale(level) for level in POOLING_LEVELS}
        sizes = [len(design.levels[level].names) for level in POOLING_LEVELS]
        fixed = np.repeat([True, *(scale.spread == 0.0 for scale in scales.values())],
                          [1 + len(REGRESSORS), *sizes])  # fmt: skip
        chosen = fixed & (variance > 0.0)
        spread = np.sqrt(variance[chosen])
        total = stats.norm.logpdf(own[:, chosen], scale=spread).sum(axis=1)
        for level, scale in scales.items():
            if scale.spread > 0.0:
                drawn = posterior[f"{level}_scale"].sel(quantity=name)
                total = total + _lognormal(drawn, scale.median, scale.spread)
        found[name] = total
    return found


def _weights(fleet: FleetPosterior, posterior: xr.Dataset, design: FleetDesign) -> Array:
    """Draws of the feature weights as deviations from their means, (quantity, draw, feature)."""
    slopes = posterior["elasticity"].transpose("quantity", "sample", "regressor").to_numpy()
    columns = [
        posterior["intercept"].transpose("quantity", "sample").to_numpy()[..., None],
        slopes - elasticities(fleet.spec)[:, None, :],
    ]
    for level in POOLING_LEVELS:
        if design.levels[level].names:
            effect = posterior[f"{level}_effect"].transpose("quantity", "sample", level)
            columns.append(effect.to_numpy())
    return np.concatenate(columns, axis=-1)


def _normal(values: xr.DataArray, mean: float, spread: float) -> Array:
    """Log density of normal values, summed over all but the draws."""
    each = xr.apply_ufunc(stats.norm.logpdf, values, mean, spread)
    return each.sum([dim for dim in each.dims if dim != "sample"]).to_numpy()


def _lognormal(values: xr.DataArray, median: float, spread: float) -> Array:
    """Log density of the logarithm of lognormal values."""
    return _normal(xr.apply_ufunc(np.log, values), float(np.log(median)), spread)


def _answers(
    fleet: FleetPosterior,
    observations: Observations,
    deployment: Deployment,
    rows: NDArray[np.int64],
) -> Array:
    """`ANSWERS` of one deployment in every draw, shape (draw, answer)."""
    order = rows[np.argsort(observations.latency_ms[rows], kind="stable")]
    steps = order[[0, order.size // 2, -1]]
    points = row_points(fleet, deployment, observations, steps)
    draws = fleet.draws(deployment)
    high = draws.ppf_draws(np.full(1, 0.99), points[1:2])
    return np.log(np.hstack([draws.location(points), high]))


def _total(
    fleet: FleetPosterior,
    observations: Observations,
    deployment: Deployment,
    rows: NDArray[np.int64],
) -> Array:
    """Log likelihood of all rows of a deployment in every draw, shape (draw,)."""
    n = fleet.draws(deployment).n_draws
    parts = [
        log_likelihood(
            fleet, deployment, observations, rows[start : start + BLOCK], max_draws=n
        ).sum(axis=1)
        for start in range(0, rows.size, BLOCK)
    ]
    return np.sum(parts, axis=0)


def _diagnosis(row: pd.Series) -> str:
    """What the shift and share of a prior say of an answer."""

    def beyond(name: str, bound: float) -> bool:
        value, error = row[name], row[f"{name}_error"]
        return bool(abs(value) > max(bound, CLEAR * error))

    if beyond("share", MAX_SHARE) and row["share"] > 0.0:
        return _PRIOR
    return _APART if beyond("shift", MAX_SHIFT) else INFORMED
