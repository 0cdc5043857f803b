"""The model of new deployments against the same density written out with scipy."""

import numpy as np
import pytest
from by_hand import FAST, constrained, likelihood_of_rows, moved
from scipy import stats

from bayeslat.catalog import load_catalog
from bayeslat.discrepancy import basis_for
from bayeslat.model import ModelSpec
from bayeslat.model.continued import (
    ContinuedDiscrepancy,
    ContinuedPrior,
    build_continued_model,
)
from bayeslat.model.design import fleet_design


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
        log_sigma_slopes=(rng.standard_normal((3, n)), np.stack([covariance(n)] * 3)),
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
            + sum(
                log_normal(row, mean, covariance)
                for row, mean, covariance in zip(
                    values["log_sigma_slopes"], *prior.log_sigma_slopes, strict=True
                )
            )
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
