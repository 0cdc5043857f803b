"""Drawing back the effects that the model integrates out, exactly.

Given the quantities and the pooling scales the feature weights are Gaussian. Matheron's rule draws
them: weights of the prior, and with them quantities, moved by what the known quantities say more.
With F = features, V = diag(variances) and K = covariance of the quantities the move is
V F' inverse(K) (known - drawn).
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from bayeslat.model.design import FleetDesign
from bayeslat.model.pooling import (
    feature_variances,
    pooled_covariance,
    prior_mean,
)
from bayeslat.model.priors import OWN_SPREAD
from bayeslat.model.spec import ModelSpec

__all__ = ["draw_effects"]

type Array = NDArray[np.float64]

BLOCK: Final = 128
"""Draws whose covariances are held in memory at once."""


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
    variances = feature_variances(spec, design, scales)
    weights = np.sqrt(variances) * rng.standard_normal(variances.shape)
    drawn = prior_mean(spec, design) + weights @ features.T
    drawn += OWN_SPREAD * rng.standard_normal(drawn.shape)
    news = np.empty_like(drawn)
    for start in range(0, len(drawn), BLOCK):
        part = slice(start, start + BLOCK)
        own = {level: values[part] for level, values in scales.items()}
        covariance = pooled_covariance(spec, design, own, np)
        residual = (quantities[part] - drawn[part])[..., None]
        news[part] = np.linalg.solve(covariance, residual)[..., 0]
    moved: Array = weights + variances * (news @ features)
    return moved
