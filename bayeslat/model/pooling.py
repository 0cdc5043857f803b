"""The pooling prior: means and variances of the feature weights, and the covariances they imply."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bayeslat.model.design import UNKNOWN_SPREAD, FleetDesign
from bayeslat.model.priors import (
    DISCREPANCY_SETTING,
    ELASTICITY_SPREAD,
    MIN_OWN_DISCREPANCY,
    OWN_SPREAD,
    POOLING_LEVELS,
    REGRESSORS,
)
from bayeslat.model.quantities import link, to_parameters
from bayeslat.model.spec import ModelSpec

__all__ = [
    "discrepancy_covariance",
    "elasticities",
    "feature_variances",
    "fixed_variances",
    "marginal_variance",
    "median_scales",
    "pooled_covariance",
    "prior_draws",
    "prior_mean",
    "prior_medians",
]

type Array = NDArray[np.float64]


def prior_medians(spec: ModelSpec) -> Array:
    """Prior medians at the reference point, as logarithms and logits, shape (quantity,)."""
    return np.array([link(name, spec.prior(name).median) for name in spec.quantities])


def elasticities(spec: ModelSpec) -> Array:
    """Prior mean of the elasticities, shape (quantity, regressor)."""
    return np.array(
        [
            [spec.prior(name).elasticity.get(regressor, 0.0) for regressor in REGRESSORS]
            for name in spec.quantities
        ]
    )


def prior_mean(spec: ModelSpec, design: FleetDesign) -> Array:
    """Prior mean of the pooled quantities, shape (quantity, deployment)."""
    return prior_medians(spec)[:, None] + elasticities(spec) @ design.regressors.T


def fixed_variances(spec: ModelSpec, design: FleetDesign) -> Array:
    """Part of the feature variances that no scale moves, shape (quantity, feature).

    Intercepts and elasticities have constant variances; a GPU or LLM whose datasheet is silent
    gets, on top of its pooled scale, the variance of the unknown quantity times the elasticity.
    """
    spreads = np.array([spec.prior(name).spread for name in spec.quantities])
    means = elasticities(spec)
    slopes = np.where(means != 0.0, ELASTICITY_SPREAD**2, 0.0)
    unknown = np.array([UNKNOWN_SPREAD.get(name, 0.0) for name in REGRESSORS])
    silent = {"gpu": design.gpu_unknown, "model": design.model_unknown}
    members = []
    for level in POOLING_LEVELS:
        found = np.zeros((len(spreads), len(design.levels[level].names)))
        if level in silent:
            found = (means * unknown) ** 2 @ silent[level].T
        members.append(found)
    return np.hstack([spreads[:, None] ** 2, slopes, *members])


def feature_variances(spec: ModelSpec, design: FleetDesign, scales: Mapping[str, Array]) -> Array:
    """Variance of every feature weight, shape (..., quantity, feature).

    Parameters
    ----------
    spec, design : ModelSpec, FleetDesign
        The model and its fleet.
    scales : mapping of str to array, each shape (..., quantity)
        Pooling scales of `POOLING_LEVELS`.
    """
    sizes = [len(design.levels[level].names) for level in POOLING_LEVELS]
    owner = np.repeat(np.arange(-1, len(sizes)), [1 + len(REGRESSORS), *sizes])
    total = fixed_variances(spec, design)
    for position, level in enumerate(POOLING_LEVELS):
        total = total + np.square(scales[level])[..., None] * (owner == position)
    return total


def pooled_covariance(
    spec: ModelSpec, design: FleetDesign, scales: Mapping[str, Any], xp: Any
) -> Any:
    """Covariance of each pooled quantity over the fleet, every effect integrated out.

    It is F diag(v) F' + own variance, with features F and their variances v. A level adds its scale
    squared times which deployments are siblings in it, which costs less than that product.

    Parameters
    ----------
    spec, design : ModelSpec, FleetDesign
        The model and its fleet.
    scales : mapping of str to array, each shape (..., quantity)
        Pooling scales of `POOLING_LEVELS`.
    xp : module
        Array namespace: numpy or ``pytensor.tensor``.

    Returns
    -------
    array, shape (..., quantity, deployment, deployment)
    """
    features = design.features
    fixed = fixed_variances(spec, design)
    total: Any = (features * fixed[:, None]) @ features.T + OWN_SPREAD**2 * np.eye(len(features))
    for level in POOLING_LEVELS:
        total = total + xp.square(scales[level])[..., None, None] * design.levels[level].siblings
    return total


def discrepancy_covariance(design: FleetDesign, stack_variance: Any, own_variance: Any) -> Any:
    """Covariance of a weight of the discrepancy over the fleet.

    Parameters
    ----------
    design : FleetDesign
        The fleet.
    stack_variance, own_variance : array, shape (...)
        What a stack shares, and what a deployment adds: all but `DISCREPANCY_SETTING` of that is
        shared in its site.

    Returns
    -------
    array, shape (..., deployment, deployment)
    """
    apart = np.eye(len(design.deployments))
    of_site = (1.0 - DISCREPANCY_SETTING) * design.levels["site"].siblings
    of_site = of_site + DISCREPANCY_SETTING * apart
    shared = stack_variance[..., None, None] * design.levels["stack"].siblings
    return shared + own_variance[..., None, None] * of_site + MIN_OWN_DISCREPANCY * apart


def median_scales(spec: ModelSpec) -> dict[str, Array]:
    """Prior median of every pooling scale, by level, each shape (quantity,)."""
    return {
        level: np.array([spec.prior(name).scale(level).median for name in spec.quantities])
        for level in POOLING_LEVELS
    }


def marginal_variance(spec: ModelSpec, design: FleetDesign) -> Array:
    """Prior variance of each pooled quantity at the median scales, (quantity, deployment)."""
    covariance = pooled_covariance(spec, design, median_scales(spec), np)
    found: Array = np.diagonal(covariance, axis1=1, axis2=2)
    return found


def prior_draws(spec: ModelSpec, design: FleetDesign, n: int, *, seed: int) -> dict[str, Array]:
    """Draws of every free parameter of the formula from its marginal prior at the median scales.

    Parameters
    ----------
    spec, design : ModelSpec, FleetDesign
        The model and its fleet.
    n : int
        Number of draws.
    seed : int
        Of the draws.

    Returns
    -------
    dict of str to array, each shape (n, deployment)
        In the formula's units.
    """
    mean, spread = prior_mean(spec, design), np.sqrt(marginal_variance(spec, design))
    draws = mean + spread * np.random.default_rng(seed).standard_normal((n, *mean.shape))
    quantities = {name: draws[:, position] for position, name in enumerate(spec.quantities)}
    parameters = to_parameters(quantities, design.w_1)
    return {name: parameters[name] for name in spec.parameters}
