"""The pooling distributions against dense multivariate normals of the covariance they state."""

import numpy as np
import pymc as pm
import pytensor.tensor as pt
import pytest
from scipy import stats

from bayeslat.catalog import load_catalog
from bayeslat.model import ModelSpec
from bayeslat.model.design import GROUP_LEVELS, fleet_design
from bayeslat.model.pooling import (
    MIN_OWN_VARIANCE,
    feature_variances,
    fixed_variances,
    marginal_variance,
    median_scales,
    nested_normal,
    pooled_normal,
    prior_draws,
    prior_mean,
)
from bayeslat.schema import Deployment

N_ROWS, N_DRAWS = 3, 10_000
RNG = np.random.default_rng(0)
FEATURES = RNG.standard_normal((5, 7))
VARIANCES = RNG.gamma(2.0, size=(N_ROWS, 7))
OWN = np.array([0.01, 0.5, 3.0])
MEAN = RNG.standard_normal((N_ROWS, 5))
GROUP = np.array([2, 0, 2, 1, 2])
SHARED, EXTRA = 0.7, 0.2

POOLED = [
    (FEATURES * v) @ FEATURES.T + own * np.eye(5) for v, own in zip(VARIANCES, OWN, strict=True)
]
NESTED = [SHARED * (GROUP[:, None] == GROUP) + EXTRA * np.eye(5)] * N_ROWS


def pooled() -> pm.Model:
    with pm.Model() as model:
        pooled_normal("x", MEAN, pt.as_tensor(VARIANCES), pt.as_tensor(OWN), FEATURES)
    return model


def nested() -> pm.Model:
    with pm.Model() as model:
        nested_normal("x", MEAN, pt.as_tensor(SHARED), pt.as_tensor(EXTRA), GROUP)
    return model


CASES = pytest.mark.parametrize(
    ("build", "covariances"), [(pooled, POOLED), (nested, NESTED)], ids=["pooled", "nested"]
)


@CASES
def test_log_density_is_that_of_the_dense_covariance(build, covariances):
    model = build()
    log_density = model.compile_logp(mode="FAST_COMPILE")
    rng = np.random.default_rng(1)
    for size in (0.1, 1.0, 10.0):
        value = MEAN + size * rng.standard_normal(MEAN.shape)
        expected = sum(
            stats.multivariate_normal.logpdf(row, mean, covariance)
            for row, mean, covariance in zip(value, MEAN, covariances, strict=True)
        )
        assert float(log_density({"x": value})) == pytest.approx(expected, rel=1e-10)


# pytensor says that the draw of a custom distribution runs in Python, which is what is meant.
@pytest.mark.filterwarnings("ignore:Numba will use object mode:UserWarning")
@CASES
def test_draws_have_the_dense_moments(build, covariances):
    draws = pm.draw(build()["x"], N_DRAWS, random_seed=2)
    z = []
    for row, (mean, covariance) in enumerate(zip(MEAN, covariances, strict=True)):
        found, variance = draws[:, row], np.diag(covariance)
        z.append((found.mean(axis=0) - mean) / np.sqrt(variance / N_DRAWS))
        # The variance of a Gaussian sample covariance is (v_i v_j + c_ij^2) / N.
        error = np.sqrt((np.outer(variance, variance) + covariance**2) / N_DRAWS)
        z.append(((np.cov(found, rowvar=False) - covariance) / error)[np.triu_indices(5)])
    for one in range(N_ROWS):  # and rows are independent
        for other in range(one):
            left, right = draws[:, one] - MEAN[one], draws[:, other] - MEAN[other]
            scale = np.sqrt(np.outer(np.diag(covariances[one]), np.diag(covariances[other])))
            z.append((left.T @ right / N_DRAWS / (scale / np.sqrt(N_DRAWS))).ravel())
    z = np.concatenate(z)
    assert np.abs(z).max() < stats.norm.isf(1e-3 / (2 * z.size))


def fleet():
    deployments = [
        Deployment("A100-80GB", "llama-7b", engine="vllm"),
        Deployment("A100-80GB@60%", "llama-7b", engine="sglang"),
        Deployment("H100-80GB", "llama-7b", engine="vllm"),
        Deployment("nobody knows", "llama-13b", 2),
    ]
    return fleet_design(deployments, load_catalog())


def test_marginal_variance_is_the_diagonal_of_the_covariance():
    spec, design = ModelSpec(), fleet()
    scales = median_scales(spec)
    variances = feature_variances(fixed_variances(spec, design), scales, design, np)
    for position in range(len(spec.quantities)):
        covariance = design.features @ np.diag(variances[position]) @ design.features.T
        own = scales["deployment"][position] ** 2 + MIN_OWN_VARIANCE
        np.testing.assert_allclose(
            marginal_variance(spec, design)[position], np.diag(covariance) + own, rtol=1e-12
        )


def test_scales_reach_the_features_of_their_own_level_only():
    spec, design = ModelSpec(), fleet()
    fixed = fixed_variances(spec, design)
    for level in GROUP_LEVELS:
        scales = {each: np.zeros(len(spec.quantities)) for each in GROUP_LEVELS}
        scales[level] = np.arange(1.0, len(spec.quantities) + 1)
        added = np.split(feature_variances(fixed, scales, design, np) - fixed, design.bounds, 1)
        for each, found in zip(("intercept", "elasticity", *GROUP_LEVELS), added, strict=True):
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
