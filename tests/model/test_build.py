"""The PyMC model against the same density written out with scipy."""

import numpy as np
import pymc as pm
import pytest
from scipy import stats

from bayeslat import saturation
from bayeslat.catalog import load_catalog
from bayeslat.model import ModelSpec, Prior, ScalePrior, build_model
from bayeslat.model.design import fleet_design
from bayeslat.model.pooling import (
    MIN_OWN_VARIANCE,
    feature_variances,
    fixed_variances,
    marginal_variance,
    prior_mean,
)
from bayeslat.model.rows import row_layout

FAMILIES = ("student_t", "normal", "lognormal")


@pytest.fixture(params=FAMILIES)
def spec(request) -> ModelSpec:
    return ModelSpec(likelihood=request.param)


def constrained(model: pm.Model, point: dict) -> dict:
    """Value of every free variable, log-transformed ones by their plain name."""
    values = {}
    for name, value in point.items():
        is_log = name.endswith("_log__")
        values[name.removesuffix("_log__")] = np.exp(value) if is_log else value
    return values


def test_likelihood_is_the_formula_with_relative_noise(tiny_steps, spec):
    model = build_model(tiny_steps, spec)
    point = model.initial_point()
    values = constrained(model, point)
    design = fleet_design(tiny_steps.deployments, load_catalog())
    rows = tiny_steps.deployment_index
    parameters = {
        name: np.exp(values["log_parameters"][i])[rows] for i, name in enumerate(spec.parameters)
    }
    mu = saturation.latency(
        {**parameters, "w_1": design.w_1[rows]},
        tiny_steps.batch_size,
        tiny_steps.total_tokens,
        tiny_steps.context_tokens,
    )
    sigma = np.exp(values["log_sigma"])[rows] / np.sqrt(tiny_steps.n_averaged)
    t = tiny_steps.latency_ms
    expected = {
        "student_t": lambda: stats.t.logpdf(t, 1.0 + values["nu_excess"], mu, sigma * mu),
        "normal": lambda: stats.norm.logpdf(t, mu, sigma * mu),
        "lognormal": lambda: stats.lognorm.logpdf(t, sigma, scale=mu),
    }[spec.likelihood]()
    found = model.compile_logp(vars=model.observed_RVs)(point)
    assert float(found) == pytest.approx(expected.sum(), rel=1e-9)


def test_prior_of_log_parameters_is_the_integrated_hierarchy(tiny_steps):
    spec = ModelSpec()
    model = build_model(tiny_steps, spec)
    design = fleet_design(tiny_steps.deployments, load_catalog())
    point = model.initial_point()
    rng = np.random.default_rng(0)
    mean = prior_mean(spec, design)
    point["log_parameters"] = mean + 0.3 * rng.standard_normal(mean.shape)
    values = constrained(model, point)
    scales = {}
    for level in ("gpu", "model", "deployment"):
        priors = [getattr(spec.prior(name), level) for name in spec.parameters]
        scales[level] = np.array([prior.median for prior in priors])
        scales[level][[prior.spread > 0 for prior in priors]] = values[f"{level}_scale"]
    variances = feature_variances(fixed_variances(spec, design), scales, design, np)
    features = design.features
    expected = 0.0
    for p in range(len(spec.parameters)):
        own = scales["deployment"][p] ** 2 + MIN_OWN_VARIANCE
        covariance = features * variances[p] @ features.T + own * np.eye(len(features))
        expected += stats.multivariate_normal.logpdf(
            point["log_parameters"][p], mean[p], covariance
        )
    found = model.compile_logp(vars=[model["log_parameters"]])(point)
    assert float(found) == pytest.approx(expected, rel=1e-9)


# pytensor says that the draw of a custom distribution runs in Python, which is what is meant.
@pytest.mark.filterwarnings("ignore:Numba will use object mode:UserWarning")
def test_prior_draws_have_the_stated_spread(tiny_steps):
    fixed = {
        name: Prior(1.0, 0.5, gpu=ScalePrior(0.3, 0.0), model=ScalePrior(0.2, 0.0),
                    deployment=ScalePrior(0.1, 0.0))
        for name in ("P_max", "k_S", "tau_0")
    }  # fmt: skip
    spec = ModelSpec(terms=(), priors=fixed)
    design = fleet_design(tiny_steps.deployments, load_catalog())
    with build_model(tiny_steps, spec):
        draws = pm.draw(pm.modelcontext(None)["log_parameters"], 4000, random_seed=1)
    expected = np.sqrt(0.5**2 + 0.3**2 + 0.2**2 + 0.1**2 + MIN_OWN_VARIANCE)
    np.testing.assert_allclose(draws.std(axis=0), expected, rtol=0.06)
    np.testing.assert_allclose(np.sqrt(marginal_variance(spec, design)), expected, rtol=1e-5)


def test_no_deterministic_has_the_row_dimension(tiny_steps):
    model = build_model(tiny_steps)
    layout = row_layout(tiny_steps.deployment_index)
    for variable in model.deterministics:
        assert layout.order.size not in variable.shape.eval()
