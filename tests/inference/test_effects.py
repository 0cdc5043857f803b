"""Effects drawn back have exactly the moments of the Gaussian conditional."""

import numpy as np

from bayeslat.catalog import load_catalog
from bayeslat.inference.effects import draw_effects
from bayeslat.model import ModelSpec
from bayeslat.model.design import fleet_design
from bayeslat.model.pooling import (
    feature_variances,
    fixed_variances,
    median_scales,
    prior_mean,
)
from bayeslat.model.priors import OWN_SPREAD
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
    residual = 0.3 * rng.standard_normal((len(spec.quantities), len(deployments)))
    quantities = np.tile(prior_mean(spec, design) + residual, (N_DRAWS, 1, 1))
    tiled = {name: np.tile(values, (N_DRAWS, 1)) for name, values in scales.items()}
    found = draw_effects(quantities, tiled, spec, design, rng)

    features = design.features
    variances = feature_variances(fixed_variances(spec, design), scales, design)
    for p in range(len(spec.quantities)):
        prior = np.diag(variances[p])
        gain = (
            prior
            @ features.T
            @ np.linalg.inv(
                features @ prior @ features.T + OWN_SPREAD**2 * np.eye(len(deployments))
            )
        )
        covariance = prior - gain @ features @ prior
        error = np.sqrt(np.diag(covariance) / N_DRAWS) + 1e-9
        assert (np.abs(found[:, p].mean(axis=0) - gain @ residual[p]) < 5 * error).all()
        spread = np.sqrt(np.diag(covariance))
        np.testing.assert_allclose(found[:, p].std(axis=0), spread, rtol=0.03, atol=1e-6)
