"""The prior of the PyMC model against the same density written out with scipy."""

import numpy as np
import pymc as pm
import pytest
from by_hand import FAST, constrained, moved
from scipy import stats

import bayeslat as bl
from bayeslat.catalog import load_catalog
from bayeslat.model import ModelSpec, Prior, ScalePrior, build_model
from bayeslat.model.design import fleet_design
from bayeslat.model.pooling import (
    feature_variances,
    marginal_variance,
    median_scales,
    prior_mean,
)
from bayeslat.model.priors import (
    DISCREPANCY_SETTING,
    MIN_OWN_DISCREPANCY,
    OWN_SPREAD,
    POOLING_LEVELS,
)
from bayeslat.model.rows import row_layout


def test_prior_of_quantities_is_the_integrated_hierarchy(steps):
    spec = ModelSpec(discrepancy=False)
    model = build_model(steps, spec)
    design = fleet_design(steps.deployments, load_catalog())
    point = moved(model, 0.3)
    values = constrained(point)
    scales = median_scales(spec)
    for level in POOLING_LEVELS:
        sampled = [spec.prior(name).scale(level).spread > 0 for name in spec.quantities]
        if any(sampled):
            scales[level][sampled] = values[f"{level}_scale"]
    mean = prior_mean(spec, design)
    variances = feature_variances(spec, design, scales)
    features = design.features
    expected = 0.0
    for p in range(len(spec.quantities)):
        covariance = features * variances[p] @ features.T + OWN_SPREAD**2 * np.eye(len(features))
        expected += stats.multivariate_normal.logpdf(point["quantities"][p], mean[p], covariance)
    found = model.compile_logp(vars=[model["quantities"]], mode=FAST)(point)
    assert float(found) == pytest.approx(expected, rel=1e-9)


def test_prior_of_everything_else_is_as_stated(steps):
    """Noise and its slopes, degrees of freedom, the discrepancy, and every scale."""
    spec = ModelSpec()
    model = build_model(steps, spec)
    point = moved(model, 0.2)
    values = constrained(point)
    expected = prior_of_noise(values, steps) + prior_of_discrepancy(values, steps)
    for level in POOLING_LEVELS:
        priors = [spec.prior(name).scale(level) for name in spec.quantities]
        sampled = [prior for prior in priors if prior.spread > 0]
        assert bool(sampled) == (f"{level}_scale" in values)
        for prior, value in zip(sampled, values.get(f"{level}_scale", ()), strict=True):
            expected += stats.lognorm.logpdf(value, prior.spread, scale=prior.median)
    rest = [variable for variable in model.free_RVs if variable.name != "quantities"]
    found = model.compile_logp(vars=rest, jacobian=False, mode=FAST)(point)
    assert float(found) == pytest.approx(expected, rel=1e-9)


def prior_of_noise(values: dict, steps: bl.Observations) -> float:
    gpus = fleet_design(steps.deployments, load_catalog()).levels["gpu"].index
    normal, lognormal = stats.norm.logpdf, stats.lognorm.logpdf
    centre = values["log_sigma_mean"] + values["log_sigma_gpu"][gpus]
    return float(
        normal(values["log_sigma_mean"], np.log(0.05), 0.7)
        + normal(values["log_sigma_gpu"], 0.0, 0.4).sum()
        + lognormal(values["log_sigma_scale"], 0.4, scale=0.5)
        + normal(values["log_sigma"], centre, values["log_sigma_scale"]).sum()
        + normal(values["log_sigma_slopes_mean"], 0.0, [0.5, 0.1, 0.1]).sum()
        + normal(
            values["log_sigma_slopes"].T, values["log_sigma_slopes_mean"], [0.5, 0.2, 0.2]
        ).sum()
        + stats.gamma.logpdf(values["nu_excess"], 2.0, scale=10.0)
    )


def prior_of_discrepancy(values: dict, steps: bl.Observations) -> float:
    shared, own = values["discrepancy_stack_scale"], values["discrepancy_own_scale"]
    levels = fleet_design(steps.deployments, load_catalog()).levels
    stack, site = levels["stack"].index, levels["site"].index
    covariance = shared**2 * (stack[:, None] == stack)
    covariance = covariance + own**2 * (1 - DISCREPANCY_SETTING) * (site[:, None] == site)
    alone = own**2 * DISCREPANCY_SETTING + MIN_OWN_DISCREPANCY
    covariance = covariance + alone * np.eye(stack.size)
    return float(
        stats.lognorm.logpdf(shared, 0.4, scale=0.04)
        + stats.lognorm.logpdf(own, 0.4, scale=0.03)
        + stats.multivariate_normal.logpdf(values["discrepancy"], cov=covariance).sum()
    )


def test_prior_draws_have_the_stated_spread(tiny_steps):
    held = {
        "gpu": ScalePrior(0.3, 0.0),
        "model": ScalePrior(0.2, 0.0),
        "engine": ScalePrior(0.25, 0.0),
        "stack": ScalePrior(0.15, 0.0),
        "site": ScalePrior(0.1, 0.0),
    }
    fixed = {name: Prior(0.5, 0.5, **held) for name in ("slope", "floor", "floor_share")}
    spec = ModelSpec(terms=(), priors=fixed, discrepancy=False)
    design = fleet_design(tiny_steps.deployments, load_catalog())
    model = build_model(tiny_steps, spec)
    assert not [
        name for name in model.named_vars if name.endswith("_scale") and "sigma" not in name
    ]
    n = 4000
    draws = pm.draw(model["quantities"], n, random_seed=1)
    variance = 0.5**2 + sum(scale.median**2 for scale in held.values()) + OWN_SPREAD**2
    bound = stats.norm.isf(1e-3 / (2 * draws[0].size)) / np.sqrt(2 * n)
    np.testing.assert_allclose(draws.std(axis=0), np.sqrt(variance), rtol=bound)
    np.testing.assert_allclose(marginal_variance(spec, design), variance, rtol=1e-5)


def test_no_deterministic_has_the_row_dimension(tiny_steps):
    model = build_model(tiny_steps)
    layout = row_layout(tiny_steps)
    for variable in model.deterministics:
        assert layout.order.size not in variable.shape.eval()


def test_without_a_discrepancy_there_is_no_variable_of_it(tiny_steps):
    model = build_model(tiny_steps, ModelSpec(discrepancy=False))
    assert not [name for name in model.named_vars if "discrepancy" in name]
    assert "basis" not in model.coords
