"""Drawing back the effects that the model integrates out, exactly.

Given the quantities and the pooling scales the feature weights are Gaussian; with
F = features, L = diag(variances), r the residual and s2 the deployments' own variance their
precision is inverse(L) + F'F / s2 and their mean solves it for F'r / s2.
"""

import numpy as np
from numpy.typing import NDArray

from bayeslat.model.design import FleetDesign
from bayeslat.model.pooling import MIN_OWN_VARIANCE, feature_variances, fixed_variances, prior_mean
from bayeslat.model.spec import ModelSpec

__all__ = ["draw_effects"]

type Array = NDArray[np.float64]


def draw_effects(
    quantities: Array,
    scales: dict[str, Array],
    spec: ModelSpec,
    design: FleetDesign,
    rng: np.random.Generator,
) -> Array:
    """One exact draw of the feature weights for each posterior draw.

    Parameters
    ----------
    quantities : array, shape (draw, quantity, deployment)
        Posterior draws.
    scales : dict of str to array, each shape (draw, quantity)
        Pooling scales of every level.
    spec, design : ModelSpec, FleetDesign
        What the fleet was fitted with.
    rng : numpy.random.Generator
        Source of randomness.

    Returns
    -------
    array, shape (draw, quantity, feature)
        Weights of intercept, elasticities and the members of every level, as deviations from their
        prior means.
    """
    features = design.features
    root = np.sqrt(feature_variances(fixed_variances(spec, design), scales, design, np))
    own = np.square(scales["deployment"]) + MIN_OWN_VARIANCE
    residual = quantities - prior_mean(spec, design)
    gram = features.T @ features
    precision = np.eye(features.shape[1]) + (
        root[..., :, None] * gram * root[..., None, :] / own[..., None, None]
    )
    target = root * (residual @ features) / own[..., None]
    factor = np.linalg.cholesky(precision)
    mean = np.linalg.solve(precision, target[..., None])
    noise = rng.standard_normal(target.shape)[..., None]
    deviation = np.linalg.solve(np.swapaxes(factor, -1, -2), noise)
    return root * (mean + deviation)[..., 0]
