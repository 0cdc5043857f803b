"""Covariances of the pooling prior against the hierarchy of effects written out, and its draws."""

import numpy as np
import pytensor.tensor as pt
import pytest
from scipy import stats

from bayeslat.catalog import load_catalog
from bayeslat.model import ModelSpec
from bayeslat.model.design import fleet_design
from bayeslat.model.pooling import (
    discrepancy_covariance,
    feature_variances,
    fixed_variances,
    marginal_variance,
    median_scales,
    pooled_covariance,
    prior_draws,
    prior_mean,
)
from bayeslat.model.priors import (
    DISCREPANCY_SETTING,
    MIN_OWN_DISCREPANCY,
    OWN_SPREAD,
    POOLING_LEVELS,
)
from bayeslat.schema import Deployment

N_DRAWS = 10_000


def fleet():
    deployments = [
        Deployment("A100-80GB", "llama-7b", engine="vllm"),
        Deployment("A100-80GB@60%", "llama-7b", engine="sglang"),
        Deployment("H100-80GB", "llama-7b", engine="vllm"),
        Deployment("nobody knows", "llama-13b", 2),
    ]
    return fleet_design(deployments, load_catalog())


@pytest.mark.parametrize("xp", [np, pt], ids=["numpy", "pytensor"])
def test_covariance_is_that_of_the_weighted_features(xp):
    spec, design = ModelSpec(), fleet()
    scales = median_scales(spec)
    variances = feature_variances(spec, design, scales)
    found = pooled_covariance(spec, design, scales, xp)
    found = found if xp is np else found.eval()
    for position in range(len(spec.quantities)):
        expected = design.features @ np.diag(variances[position]) @ design.features.T
        expected += OWN_SPREAD**2 * np.eye(len(expected))
        np.testing.assert_allclose(found[position], expected, rtol=1e-12)
        np.testing.assert_allclose(
            marginal_variance(spec, design)[position], np.diag(expected), rtol=1e-12
        )


def test_settings_of_a_site_share_most_of_their_discrepancy():
    shared, own = np.array([0.5, 0.1]), np.array([0.2, 0.3])
    design = fleet_design(
        [
            Deployment("A100-80GB", "llama-7b"),
            Deployment("A100-80GB@60%", "llama-7b"),
            Deployment("H100-80GB", "llama-7b"),
            Deployment("A100-80GB", "llama-13b"),
        ],
        load_catalog(),
    )
    for found, s, o in zip(discrepancy_covariance(design, shared, own), shared, own, strict=True):
        expected = np.diag([s + o + MIN_OWN_DISCREPANCY] * 4)
        expected[0, 1] = expected[1, 0] = s + (1 - DISCREPANCY_SETTING) * o  # one site
        expected[:2, 2] = expected[2, :2] = s  # one stack
        np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_scales_reach_the_features_of_their_own_level_only():
    spec, design = ModelSpec(), fleet()
    fixed = fixed_variances(spec, design)
    for level in POOLING_LEVELS:
        scales = {each: np.zeros(len(spec.quantities)) for each in POOLING_LEVELS}
        scales[level] = np.arange(1.0, len(spec.quantities) + 1)
        added = np.split(feature_variances(spec, design, scales) - fixed, design.bounds, 1)
        for each, found in zip(("intercept", "elasticity", *POOLING_LEVELS), added, strict=True):
            expected = scales[level][:, None] ** 2 if each == level else 0.0
            np.testing.assert_allclose(found, np.broadcast_to(expected, found.shape), atol=1e-12)


def test_prior_draws_are_of_the_formula_and_of_the_marginal_prior():
    spec, design = ModelSpec(terms=("k_B", "tau_B")), fleet()
    draws = prior_draws(spec, design, N_DRAWS, seed=3)
    assert tuple(draws) == spec.parameters
    assert all(values.shape == (N_DRAWS, 4) and (values > 0).all() for values in draws.values())
    # slope = w_1 / P_max and floor = tau_0 + slope / k_S where no token cost is unsaturated.
    slope = design.w_1 / draws["P_max"]
    found = {
        "slope": np.log(slope),
        "floor": np.log(draws["tau_0"] + slope / draws["k_S"]),
        "floor_share": np.log(draws["tau_0"] * draws["k_S"] / slope),
        "k_B": np.log(draws["k_B"]),
        "tau_B": np.log(draws["tau_B"]),
    }
    mean, spread = prior_mean(spec, design), np.sqrt(marginal_variance(spec, design))
    bound = stats.norm.isf(1e-3 / (4 * mean.size))
    for position, name in enumerate(spec.quantities):
        z = (found[name].mean(axis=0) - mean[position]) / spread[position] * np.sqrt(N_DRAWS)
        ratio = found[name].std(axis=0) / spread[position] - 1.0
        assert np.abs(z).max() < bound, name
        assert np.abs(ratio * np.sqrt(2 * N_DRAWS)).max() < bound, name
