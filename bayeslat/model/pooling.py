"""The pooling prior: means and variances of the feature weights, and the covariance they imply."""

from typing import Any

import numpy as np
import pymc as pm
import pytensor.tensor as pt
from numpy.typing import NDArray

from bayeslat.model.design import UNKNOWN_SPREAD, WORK_UNIT_PARAMETERS, FleetDesign
from bayeslat.model.priors import ELASTICITY_SPREAD, REGRESSORS
from bayeslat.model.spec import ModelSpec

__all__ = [
    "MIN_OWN_VARIANCE",
    "POOLING_LEVELS",
    "elasticities",
    "feature_variances",
    "fixed_variances",
    "marginal_variance",
    "median_scales",
    "pooled_normal",
    "prior_mean",
]

type Array = NDArray[np.float64]

MIN_OWN_VARIANCE = 0.05**2
"""Added to the variance of a deployment's own effect, so that two deployments always differ by
about 7 %. Without it a small scale leaves a parameter that the data do not inform almost no room,
and samplers diverge in that neck."""

NEGLIGIBLE_VARIANCE = 1e-12
"""In place of zero, whose square root has no derivative."""

POOLING_LEVELS = ("gpu", "model", "deployment")
"""Levels at which a log-parameter may stray from its datasheet mean."""


def elasticities(spec: ModelSpec) -> Array:
    """Prior mean of the elasticities, shape (parameter, regressor)."""
    return np.array(
        [
            [spec.prior(name).elasticity.get(regressor, 0.0) for regressor in REGRESSORS]
            for name in spec.parameters
        ]
    )


def prior_mean(spec: ModelSpec, design: FleetDesign) -> Array:
    """Prior mean of the log-parameters, shape (parameter, deployment)."""
    medians = np.log([spec.prior(name).median for name in spec.parameters])
    return medians[:, None] + elasticities(spec) @ design.regressors.T


def fixed_variances(spec: ModelSpec, design: FleetDesign) -> Array:
    """Part of the feature variances that no scale moves, shape (parameter, feature).

    Intercepts and elasticities have constant variances; a GPU or LLM whose datasheet is silent
    gets, on top of its pooled scale, the variance of the unknown quantity times the elasticity.
    """
    spreads = np.array([spec.prior(name).spread for name in spec.parameters])
    means = elasticities(spec)
    slopes = np.where(means != 0.0, ELASTICITY_SPREAD**2, NEGLIGIBLE_VARIANCE)
    unknown = np.array([UNKNOWN_SPREAD.get(name, 0.0) for name in REGRESSORS])
    in_work_units = np.isin(spec.parameters, WORK_UNIT_PARAMETERS).astype(float)
    gauged = means - np.outer(in_work_units, np.array(REGRESSORS) == "size")
    gpu = (means * unknown) ** 2 @ design.gpu_unknown.T
    model = (gauged * unknown) ** 2 @ design.model_unknown.T
    return np.hstack([spreads[:, None] ** 2, slopes, gpu, model])


def feature_variances(fixed: Array, scales: dict[str, Any], design: FleetDesign, xp: Any) -> Any:
    """Variance of every feature weight, shape (..., parameter, feature).

    Parameters
    ----------
    fixed : array, shape (parameter, feature)
        From `fixed_variances`.
    scales : dict of str to array, each shape (..., parameter)
        Pooling scales of the levels "gpu" and "model".
    design : FleetDesign
        The fleet.
    xp : module
        Array namespace: numpy or ``pytensor.tensor``.
    """
    level = np.array(
        [0] * (1 + len(REGRESSORS)) + [1] * len(design.gpus) + [2] * len(design.models)
    )
    return (
        fixed
        + xp.square(scales["gpu"])[..., None] * (level == 1)
        + xp.square(scales["model"])[..., None] * (level == 2)
    )


def median_scales(spec: ModelSpec) -> dict[str, Array]:
    """Prior median of every pooling scale, by level, each shape (parameter,)."""
    return {
        level: np.array([getattr(spec.prior(name), level).median for name in spec.parameters])
        for level in POOLING_LEVELS
    }


def marginal_variance(spec: ModelSpec, design: FleetDesign) -> Array:
    """Prior variance of each log-parameter at the median scales, (parameter, deployment)."""
    scales = median_scales(spec)
    variances = feature_variances(fixed_variances(spec, design), scales, design, np)
    own = scales["deployment"] ** 2 + MIN_OWN_VARIANCE
    return variances @ np.square(design.features).T + own[:, None]


def pooled_normal(
    name: str, mean: Array, variances: Any, own: Any, features: Array, **kwargs: Any
) -> Any:
    """Independent multivariate normals of low-rank-plus-diagonal covariance, one a parameter.

    Row p has mean ``mean[p]`` and covariance ``features diag(variances[p]) features' + own[p] I``:
    what is left of a Gaussian hierarchy once its effects are integrated out. The density uses the
    Woodbury identity, so its cost grows with the number of features cubed, not of deployments.

    Parameters
    ----------
    name : str
        Name of the variable in the model on the stack.
    mean : array, shape (parameter, deployment)
        Prior means.
    variances : tensor, shape (parameter, feature)
        Variances of the feature weights.
    own : tensor, shape (parameter,)
        Variance of each deployment's own effect.
    features : array, shape (deployment, feature)
        Feature matrix.
    **kwargs
        Passed to `pymc.CustomDist`, for example ``dims``.
    """
    gram = features.T @ features
    n = features.shape[0]

    def logp(value: Any, mean: Any, variances: Any, own: Any) -> Any:
        residual = value - mean
        root = pt.sqrt(variances)
        inner = pt.eye(features.shape[1]) + (
            root[:, :, None] * gram * root[:, None, :] / own[:, None, None]
        )
        factor = pt.linalg.cholesky(inner)
        projected = root * (residual @ features)
        solved = pt.linalg.solve_triangular(factor, projected, lower=True, b_ndim=1)
        quadratic = (pt.square(residual).sum(1) - pt.square(solved).sum(1) / own) / own
        log_det = n * pt.log(own) + 2.0 * pt.log(pt.diagonal(factor, axis1=1, axis2=2)).sum(1)
        return -0.5 * (quadratic + log_det + n * np.log(2.0 * np.pi)).sum()

    def random(
        mean: Array, variances: Array, own: Array, rng: np.random.Generator, size: Any
    ) -> Array:
        weights = np.sqrt(variances) * rng.standard_normal(variances.shape)
        noise = np.sqrt(own)[..., None] * rng.standard_normal(mean.shape)
        return mean + weights @ features.T + noise

    return pm.CustomDist(
        name,
        mean,
        variances,
        own,
        logp=logp,
        random=random,
        signature="(p,d),(p,f),(p)->(p,d)",
        **kwargs,
    )
