"""Effects drawn back have exactly the moments of the Gaussian conditional."""

import numpy as np

from bayeslat.catalog import load_catalog
from bayeslat.inference.effects import draw_effects
from bayeslat.model import ModelSpec
from bayeslat.model.design import fleet_design
from bayeslat.model.pooling import (
    feature_variances,
    median_scales,
    prior_mean,
)
from bayeslat.model.priors import OWN_SPREAD, POOLING_LEVELS
from bayeslat.schema import Deployment

N_DRAWS = 20_000


def test_moments_of_effects_equal_the_dense_conditional():
    spec = ModelSpec(terms=())
    deployments = [
        Deployment(gpu, llm, engine=engine)
        for gpu in ("A100-80GB", "A100-80GB@60%", "H100-80GB")
        for llm, engine in (("llama-7b", "vllm"), ("opt-30b", "vllm"), ("opt-30b", "sglang"))
    ]
    design = fleet_design(deployments, load_catalog())
    scales = median_scales(spec)
    rng = np.random.default_rng(0)
    # Draws of two kinds take turns, so that none may be given the quantities or scales of another.
    residuals = 0.3 * rng.standard_normal((2, len(spec.quantities), len(deployments)))
    kinds = [scales, {level: 2.0 * values for level, values in scales.items()}]
    quantities = np.tile(prior_mean(spec, design) + residuals, (N_DRAWS, 1, 1))
    mixed = {
        level: np.tile([kind[level] for kind in kinds], (N_DRAWS, 1)) for level in POOLING_LEVELS
    }
    found = draw_effects(quantities, mixed, spec, design, rng)
    for turn, (kind, residual) in enumerate(zip(kinds, residuals, strict=True)):
        check_moments(found[turn::2], spec, design, kind, residual)


def check_moments(found, spec, design, scales, residual):
    """Draws of the weights, shape (draw, quantity, feature), against the dense conditional."""
    features = design.features
    variances = feature_variances(spec, design, scales)
    for p in range(len(spec.quantities)):
        prior = np.diag(variances[p])
        gain = (
            prior
            @ features.T
            @ np.linalg.inv(features @ prior @ features.T + OWN_SPREAD**2 * np.eye(len(features)))
        )
        covariance = prior - gain @ features @ prior
        error = np.sqrt(np.diag(covariance) / N_DRAWS) + 1e-9
        assert (np.abs(found[:, p].mean(axis=0) - gain @ residual[p]) < 5 * error).all()
        spread = np.sqrt(np.diag(covariance))
        np.testing.assert_allclose(found[:, p].std(axis=0), spread, rtol=0.03, atol=1e-6)
