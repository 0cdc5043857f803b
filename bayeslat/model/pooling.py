"""The pooling prior: means and variances of the feature weights, and the covariance they imply."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pymc as pm
import pytensor.tensor as pt
from numpy.typing import NDArray

from bayeslat.model.design import GROUP_LEVELS, UNKNOWN_SPREAD, FleetDesign
from bayeslat.model.priors import ELASTICITY_SPREAD, POOLING_LEVELS, REGRESSORS
from bayeslat.model.quantities import link, to_parameters
from bayeslat.model.spec import ModelSpec

__all__ = [
    "MIN_OWN_VARIANCE",
    "elasticities",
    "feature_variances",
    "fixed_variances",
    "marginal_variance",
    "median_scales",
    "nested_normal",
    "pooled_normal",
    "prior_draws",
    "prior_mean",
    "prior_medians",
]

type Array = NDArray[np.float64]

MIN_OWN_VARIANCE = 0.05**2
"""Added to the variance of a deployment's own effect, so that two deployments always differ by
about 7 %. Without it a small scale leaves a quantity that the data do not inform almost no room,
and samplers diverge in that neck."""

NEGLIGIBLE_VARIANCE = 1e-12
"""In place of zero, whose square root has no derivative."""


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
    slopes = np.where(means != 0.0, ELASTICITY_SPREAD**2, NEGLIGIBLE_VARIANCE)
    unknown = np.array([UNKNOWN_SPREAD.get(name, 0.0) for name in REGRESSORS])
    silent = {"gpu": design.gpu_unknown, "model": design.model_unknown}
    members = []
    for level in GROUP_LEVELS:
        found = np.zeros((len(spreads), len(design.levels[level].names)))
        if level in silent:
            found = (means * unknown) ** 2 @ silent[level].T
        members.append(found)
    return np.hstack([spreads[:, None] ** 2, slopes, *members])


def feature_variances(fixed: Array, scales: Mapping[str, Any], design: FleetDesign, xp: Any) -> Any:
    """Variance of every feature weight, shape (..., quantity, feature).

    Parameters
    ----------
    fixed : array, shape (quantity, feature)
        From `fixed_variances`.
    scales : mapping of str to array, each shape (..., quantity)
        Pooling scales of `GROUP_LEVELS`.
    design : FleetDesign
        The fleet.
    xp : module
        Array namespace: numpy or ``pytensor.tensor``.
    """
    sizes = [len(design.levels[level].names) for level in GROUP_LEVELS]
    owner = np.repeat(np.arange(-1, len(sizes)), [1 + len(REGRESSORS), *sizes])
    total = fixed
    for position, level in enumerate(GROUP_LEVELS):
        total = total + xp.square(scales[level])[..., None] * (owner == position)
    return total


def median_scales(spec: ModelSpec) -> dict[str, Array]:
    """Prior median of every pooling scale, by level, each shape (quantity,)."""
    return {
        level: np.array([spec.prior(name).scale(level).median for name in spec.quantities])
        for level in POOLING_LEVELS
    }


def marginal_variance(spec: ModelSpec, design: FleetDesign) -> Array:
    """Prior variance of each pooled quantity at the median scales, (quantity, deployment)."""
    scales = median_scales(spec)
    variances = feature_variances(fixed_variances(spec, design), scales, design, np)
    own = scales["deployment"] ** 2 + MIN_OWN_VARIANCE
    return variances @ np.square(design.features).T + own[:, None]


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


def pooled_normal(
    name: str, mean: Array, variances: Any, own: Any, features: Array, **kwargs: Any
) -> Any:
    """Independent multivariate normals of low-rank-plus-diagonal covariance, one a quantity.

    Row p has mean ``mean[p]`` and covariance ``features diag(variances[p]) features' + own[p] I``:
    what is left of a Gaussian hierarchy once its effects are integrated out. The density uses the
    Woodbury identity, so its cost grows with the number of features cubed, not of deployments.

    Parameters
    ----------
    name : str
        Name of the variable in the model on the stack.
    mean : array, shape (quantity, deployment)
        Prior means.
    variances : tensor, shape (quantity, feature)
        Variances of the feature weights.
    own : tensor, shape (quantity,)
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


def nested_normal(
    name: str, mean: Array, shared: Any, own: Any, group: NDArray[np.int64], **kwargs: Any
) -> Any:
    """Rows of independent normals whose members of one group have a part in common.

    The covariance of a row is ``shared`` within a group, plus ``own`` on the diagonal.

    Parameters
    ----------
    name : str
        Name of the variable in the model on the stack.
    mean : array, shape (row, deployment)
        Prior means.
    shared, own : tensor, scalar
        Variance of what a group shares, and of what each member adds.
    group : array of int, shape (deployment,)
        Group of each deployment.
    **kwargs
        Passed to `pymc.CustomDist`, for example ``dims``.
    """
    indicators = (group[:, None] == np.arange(group.max() + 1)).astype(float)
    counts = indicators.sum(axis=0)
    n_rows, n = mean.shape

    def logp(value: Any, mean: Any, shared: Any, own: Any) -> Any:
        residual = value - mean
        total = own + counts * shared
        sums = pt.dot(residual, indicators)
        quadratic = (pt.square(residual).sum() - (pt.square(sums) * (shared / total)).sum()) / own
        log_det = n_rows * (pt.log(total).sum() + (n - counts.size) * pt.log(own))
        return -0.5 * (quadratic + log_det + n_rows * n * np.log(2.0 * np.pi))

    def random(
        mean: Array, shared: Array, own: Array, rng: np.random.Generator, size: Any
    ) -> Array:
        common = np.sqrt(shared) * rng.standard_normal((n_rows, counts.size))
        return mean + common[:, group] + np.sqrt(own) * rng.standard_normal(mean.shape)

    return pm.CustomDist(
        name,
        mean,
        shared,
        own,
        logp=logp,
        random=random,
        signature="(p,d),(),()->(p,d)",
        **kwargs,
    )
