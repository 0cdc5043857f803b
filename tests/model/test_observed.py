"""The likelihood of measured steps against the same density written out with scipy."""

import numpy as np
import pytest
from by_hand import FAST, constrained, likelihood_of_rows, moved

from bayeslat.model import ModelSpec, build_model
from bayeslat.model.observed import observed_basis
from bayeslat.model.rows import row_layout

FAMILIES = ("student_t", "normal", "lognormal")


@pytest.mark.parametrize("strays", [False, True], ids=["steps", "strays"])
@pytest.mark.parametrize("discrepancy", [False, True], ids=["formula", "discrepancy"])
@pytest.mark.parametrize("likelihood", FAMILIES)
def test_likelihood_is_the_formula_with_relative_noise(steps, likelihood, discrepancy, strays):
    terms = (*ModelSpec().terms, "w_0", "gamma_B", "m_S") if discrepancy else ModelSpec().terms
    spec = ModelSpec(terms=terms, likelihood=likelihood, discrepancy=discrepancy, strays=strays)
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
