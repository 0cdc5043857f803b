"""The PyMC model against the same density written out with scipy."""

import numpy as np
import pandas as pd
import pymc as pm
import pytest
from scipy import stats

import bayeslat as bl
from bayeslat import saturation
from bayeslat.catalog import load_catalog
from bayeslat.discrepancy import basis_for
from bayeslat.model import ModelSpec, Prior, ScalePrior, build_model
from bayeslat.model.build import (
    MIN_OWN_DISCREPANCY,
    ContinuedDiscrepancy,
    ContinuedPrior,
    build_continued_model,
    observed_basis,
)
from bayeslat.model.design import fleet_design
from bayeslat.model.likelihood import NU_OFFSET
from bayeslat.model.pooling import (
    MIN_OWN_VARIANCE,
    feature_variances,
    fixed_variances,
    marginal_variance,
    median_scales,
    prior_mean,
)
from bayeslat.model.priors import POOLING_LEVELS
from bayeslat.model.quantities import to_parameters
from bayeslat.model.rows import row_layout

FAMILIES = ("student_t", "normal", "lognormal")
FAST = "FAST_COMPILE"
"""The densities are evaluated once: compiling them well takes longer."""


@pytest.fixture(scope="module")
def steps(tiny_steps) -> bl.Observations:
    """The tiny steps, some of them averages, some at one design point but not in one context."""
    table = tiny_steps.to_frame()
    rng = np.random.default_rng(0)
    twins = table.sample(20, random_state=1)
    twins["context_tokens"] *= 2.0
    table = pd.concat([table, twins], ignore_index=True)
    table["n_averaged"] = rng.choice([1, 4, 10], size=len(table))
    return bl.validate_steps(table, source="tiny fleet", check_floor=False)


def constrained(point: dict) -> dict:
    """Value of every free variable, log-transformed ones by their plain name."""
    values = {}
    for name, value in point.items():
        is_log = name.endswith("_log__")
        values[name.removesuffix("_log__")] = np.exp(value) if is_log else value
    return values


def moved(model: pm.Model, size: float, seed: int = 0) -> dict:
    """A point somewhat away from the initial one, where nothing is zero."""
    rng = np.random.default_rng(seed)
    return {
        name: value + size * rng.standard_normal(np.shape(value))
        for name, value in model.initial_point().items()
    }


def parameters_of_rows(steps: bl.Observations, spec: ModelSpec, quantities) -> dict:
    """The formula's parameters at each row, in the order of the table."""
    w_1 = fleet_design(steps.deployments, load_catalog()).w_1
    named = dict(zip(spec.quantities, quantities, strict=True))
    found = to_parameters(named, w_1)
    return {name: np.asarray(value)[steps.deployment_index] for name, value in found.items()}


def likelihood_of_rows(steps: bl.Observations, spec: ModelSpec, values: dict, basis, scale2: float):
    """Log-likelihood of each row in plain numpy, row by row in the order of the table."""
    rows = steps.deployment_index
    B, S = steps.batch_size, steps.total_tokens
    mu = saturation.latency(
        parameters_of_rows(steps, spec, values["quantities"]), B, S, steps.context_tokens
    )
    log_sigma = values["log_sigma"][rows] + (1.0 - B / S) * values["log_sigma_ratio"][rows]
    variance = np.exp(2.0 * log_sigma) / steps.n_averaged
    if basis is not None:
        features = basis.features(B, S)
        mu = mu * np.exp(np.sum(features * values["discrepancy"].T[rows], axis=1))
        variance = variance + scale2 * (1.0 - np.sum(features**2, axis=1))
    t, sigma = steps.latency_ms, np.sqrt(variance)
    if spec.likelihood == "student_t":
        return stats.t.logpdf(
            t, steps.n_averaged * (NU_OFFSET + values["nu_excess"]), mu, sigma * mu
        )
    if spec.likelihood == "normal":
        return stats.norm.logpdf(t, mu, sigma * mu)
    return stats.lognorm.logpdf(t, sigma, scale=mu)


@pytest.mark.parametrize("discrepancy", [False, True], ids=["formula", "discrepancy"])
@pytest.mark.parametrize("likelihood", FAMILIES)
def test_likelihood_is_the_formula_with_relative_noise(steps, likelihood, discrepancy):
    terms = (*ModelSpec().terms, "w_0", "gamma_B", "m_S") if discrepancy else ModelSpec().terms
    spec = ModelSpec(terms=terms, likelihood=likelihood, discrepancy=discrepancy)
    model = build_model(steps, spec)
    point = moved(model, 0.1)
    values = constrained(point)
    basis, scale2 = observed_basis(steps, spec), 0.0
    if discrepancy:
        features = basis.features(steps.batch_size, steps.total_tokens)
        assert basis.missing(features).max() > 0.02  # else the test says nothing about it
        scale2 = values["discrepancy_stack_scale"] ** 2 + values["discrepancy_own_scale"] ** 2
    expected = likelihood_of_rows(steps, spec, values, basis, scale2).sum()
    found = model.compile_logp(vars=model.observed_RVs, mode=FAST)(point)
    assert float(found) == pytest.approx(expected, rel=1e-9)


def test_latencies_are_observed_in_the_order_of_the_rows(steps):
    model = build_model(steps, ModelSpec(discrepancy=False))
    observed = model.rvs_to_values[model["latency_ms"]].eval()
    np.testing.assert_array_equal(observed, steps.latency_ms[row_layout(steps).order])


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
    variances = feature_variances(fixed_variances(spec, design), scales, design, np)
    features = design.features
    expected = 0.0
    for p in range(len(spec.quantities)):
        own = scales["deployment"][p] ** 2 + MIN_OWN_VARIANCE
        covariance = features * variances[p] @ features.T + own * np.eye(len(features))
        expected += stats.multivariate_normal.logpdf(point["quantities"][p], mean[p], covariance)
    found = model.compile_logp(vars=[model["quantities"]], mode=FAST)(point)
    assert float(found) == pytest.approx(expected, rel=1e-9)


def test_prior_of_everything_else_is_as_stated(steps):
    """Noise, its ratio in prefills, degrees of freedom, the discrepancy, and every scale."""
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
        + normal(values["log_sigma_ratio_mean"], 0.0, 0.5)
        + normal(values["log_sigma_ratio"], values["log_sigma_ratio_mean"], 0.5).sum()
        + stats.gamma.logpdf(values["nu_excess"], 2.0, scale=10.0)
    )


def prior_of_discrepancy(values: dict, steps: bl.Observations) -> float:
    shared, own = values["discrepancy_stack_scale"], values["discrepancy_own_scale"]
    stack = fleet_design(steps.deployments, load_catalog()).levels["stack"].index
    covariance = shared**2 * (stack[:, None] == stack)
    covariance = covariance + (own**2 + MIN_OWN_DISCREPANCY) * np.eye(stack.size)
    return float(
        stats.lognorm.logpdf(shared, 0.4, scale=0.04)
        + stats.lognorm.logpdf(own, 0.4, scale=0.03)
        + stats.multivariate_normal.logpdf(values["discrepancy"], cov=covariance).sum()
    )


# pytensor says that the draw of a custom distribution runs in Python, which is what is meant.
@pytest.mark.filterwarnings("ignore:Numba will use object mode:UserWarning")
def test_prior_draws_have_the_stated_spread(tiny_steps):
    held = {
        "gpu": ScalePrior(0.3, 0.0),
        "model": ScalePrior(0.2, 0.0),
        "engine": ScalePrior(0.25, 0.0),
        "stack": ScalePrior(0.15, 0.0),
        "deployment": ScalePrior(0.1, 0.0),
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
    variance = 0.5**2 + sum(scale.median**2 for scale in held.values()) + MIN_OWN_VARIANCE
    bound = stats.norm.isf(1e-3 / (2 * draws[0].size)) / np.sqrt(2 * n)
    np.testing.assert_allclose(draws.std(axis=0), np.sqrt(variance), rtol=bound)
    np.testing.assert_allclose(marginal_variance(spec, design), variance, rtol=1e-5)


def continued_prior(n_quantities: int, n: int, basis) -> ContinuedPrior:
    """A fleet's summary with correlations of every kind."""
    rng = np.random.default_rng(3)

    def covariance(size: int) -> np.ndarray:
        root = rng.standard_normal((size, size))
        return 0.01 * (root @ root.T + np.eye(size))

    weights = ContinuedDiscrepancy(
        basis,
        0.03 * rng.standard_normal((basis.size, n)),
        np.stack([covariance(n) for _ in range(basis.size)]),
        0.06,
    )
    return ContinuedPrior(
        mean=rng.standard_normal((n_quantities, n)) - 2.0,
        covariance=covariance(n_quantities * n),
        log_sigma=(np.full(n, -3.0), covariance(n)),
        log_sigma_ratio=(np.full(n, 0.5), covariance(n)),
        log_nu_excess=(1.5, 0.4),
        discrepancy=weights,
    )


def test_continued_model_is_the_same_likelihood_under_the_fleets_gaussian(steps):
    spec = ModelSpec()
    n = len(steps.deployments)
    # The features are the fleet's, which has measured elsewhere too.
    basis = basis_for(np.array([1.0, 4.0, 64.0]), np.array([4096.0, 4.0, 64.0]))
    prior = continued_prior(len(spec.quantities), n, basis)
    w_1 = fleet_design(steps.deployments, load_catalog()).w_1
    model = build_continued_model(steps, spec, w_1, prior)
    point = moved(model, 0.05)
    point["quantities"] = point["quantities"] + prior.mean
    values = constrained(point)
    found = model.compile_logp(vars=model.observed_RVs, mode=FAST)(point)
    rows = likelihood_of_rows(steps, spec, values, basis, prior.discrepancy.scale**2)
    assert float(found) == pytest.approx(rows.sum(), rel=1e-9)

    log_normal = stats.multivariate_normal.logpdf

    def log_prior(values: dict) -> float:
        weights = prior.discrepancy
        return float(
            log_normal(values["quantities"].ravel(), prior.mean.ravel(), prior.covariance)
            + log_normal(values["log_sigma"], *prior.log_sigma)
            + log_normal(values["log_sigma_ratio"], *prior.log_sigma_ratio)
            + stats.norm.logpdf(np.log(values["nu_excess"]), *prior.log_nu_excess)
            + sum(
                log_normal(row, mean, covariance)
                for row, mean, covariance in zip(
                    values["discrepancy"], weights.mean, weights.covariance, strict=True
                )
            )
        )

    density = model.compile_logp(vars=[*model.free_RVs, *model.potentials], mode=FAST)
    other = moved(model, 0.05, seed=1)  # the potentials leave constants out
    difference = float(density(point) - density(other))
    assert difference == pytest.approx(log_prior(values) - log_prior(constrained(other)), rel=1e-8)


def test_no_deterministic_has_the_row_dimension(tiny_steps):
    model = build_model(tiny_steps)
    layout = row_layout(tiny_steps)
    for variable in model.deterministics:
        assert layout.order.size not in variable.shape.eval()


def test_without_a_discrepancy_there_is_no_variable_of_it(tiny_steps):
    model = build_model(tiny_steps, ModelSpec(discrepancy=False))
    assert not [name for name in model.named_vars if "discrepancy" in name]
    assert "basis" not in model.coords
