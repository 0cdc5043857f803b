"""The likelihood of rows against compiled kernels and the PyMC model."""

import jax.numpy as jnp
import numpy as np
import pytest

import bayeslat as bl
from bayeslat.model.continued import (
    ContinuedDiscrepancy,
    ContinuedPrior,
    build_continued_model,
)
from bayeslat.online.rowwise import SIZES, log_densities, padded_size, row_data
from bayeslat.online.vectors import discrepancy_scale, from_vectors


def test_densities_are_those_of_the_compiled_kernels(one):
    rows = one.rows[:50]
    draws = from_vectors(one.vectors[:5], one.layout, one.draws)
    data = row_data(rows, one.draws)
    wanted = draws.log_density(rows.latency_ms, rows.points)
    for x, own in zip(one.vectors[:5], wanted, strict=True):
        found = log_densities(one.layout, jnp.asarray(x), data)
        np.testing.assert_allclose(found, own, atol=1e-9)


def test_the_sum_is_the_likelihood_of_the_pymc_model(one, fleet, steps):
    spec, basis = fleet.spec, fleet.basis
    n, scale = len(one.layout.quantities), discrepancy_scale(one.draws)
    own = bl.validate_steps(steps).for_deployment(one.deployment).select(np.arange(80))
    prior = ContinuedPrior(
        mean=np.zeros((n, 1)),
        covariance=np.eye(n),
        log_sigma=(np.zeros(1), np.eye(1)),
        log_sigma_slopes=(np.zeros((3, 1)), np.ones((3, 1, 1))),
        log_nu_excess=(1.0, 1.0),
        discrepancy=ContinuedDiscrepancy(
            basis, np.zeros((basis.size, 1)), np.ones((basis.size, 1, 1)), scale
        ),
    )
    x = one.vectors[3].copy()
    x[-1] = 0.0  # the fit itself knows no power beyond what was measured
    model = build_continued_model(own, spec, one.draws.parameters["w_1"][:1], prior)
    layout = one.layout
    point = {
        "quantities": x[:n, None],
        "log_sigma": x[layout.log_sigma : layout.log_sigma + 1],
        "log_sigma_slopes": x[layout.slopes][:, None],
        "nu_excess_log__": x[layout.slopes.stop],
        "discrepancy": x[layout.loadings][:-1, None],
    }
    wanted = model.compile_logp(vars=model.observed_RVs, mode="FAST_COMPILE")(point)
    found = log_densities(layout, jnp.asarray(x), row_data(one.rows[:80], one.draws)).sum()
    assert float(found) == pytest.approx(float(wanted), rel=1e-9)


def test_padding_repeats_the_last_row_and_changes_no_other(one):
    data = row_data(one.rows[:50], one.draws)
    padded = data.padded(padded_size(50))
    assert padded.latency_ms.size == SIZES[0]
    x = jnp.asarray(one.vectors[0])
    np.testing.assert_allclose(
        log_densities(one.layout, x, padded)[:50], log_densities(one.layout, x, data), rtol=1e-12
    )
    assert padded_size(SIZES[-1] + 1) == SIZES[-1] + 1
