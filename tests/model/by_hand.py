"""The likelihood in plain numpy and scipy, and points at which densities are compared."""

import numpy as np
import pymc as pm
from scipy import special, stats

import bayeslat as bl
from bayeslat import saturation
from bayeslat.catalog import load_catalog
from bayeslat.model import ModelSpec
from bayeslat.model.design import fleet_design
from bayeslat.model.likelihood import NU_OFFSET, STRAY_SPREAD
from bayeslat.model.quantities import to_parameters

FAST = "FAST_COMPILE"
"""The densities are evaluated once: compiling them well takes longer."""


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
    h, slopes = 1.0 - B / S, values["log_sigma_slopes"][:, rows]
    log_sigma = values["log_sigma"][rows] + (S > B) * slopes[0]
    log_sigma += (1.0 - h) * np.log(S / 16.0) * slopes[1] + h * np.log(S / 512.0) * slopes[2]
    variance = np.exp(2.0 * log_sigma) / steps.n_averaged
    if basis is not None:
        features = basis.features(B, S)
        mu = mu * np.exp(np.sum(features * values["discrepancy"].T[rows], axis=1))
        variance = variance + scale2 * (1.0 - np.sum(features**2, axis=1))
    t, sigma = steps.latency_ms, np.sqrt(variance)
    if spec.likelihood == "student_t":
        found = stats.t.logpdf(
            t, steps.n_averaged * (NU_OFFSET + values["nu_excess"]), mu, sigma * mu
        )
    elif spec.likelihood == "normal":
        found = stats.norm.logpdf(t, mu, sigma * mu)
    else:
        found = stats.lognorm.logpdf(t, sigma, scale=mu)
    if not spec.strays:
        return found
    share = special.expit(values["stray_log_odds"][rows])
    strays = stats.lognorm.pdf(t, STRAY_SPREAD, scale=mu)
    return np.log((1.0 - share) * np.exp(found) + share * strays)
