"""Contraction is high where data decide and low where the posterior repeats the prior."""

import numpy as np
import pytest

from bayeslat.identifiability import combinations, identifiability_table


def test_contraction_is_one_minus_the_variance_ratio_of_logs():
    rng = np.random.default_rng(0)
    prior = {"a": np.exp(rng.standard_normal((4000, 2)))}
    posterior = {"a": np.exp(np.array([0.1, 1.0]) * rng.standard_normal((4000, 2)))}
    table = identifiability_table(posterior, prior, ["x", "y"]).set_index("deployment")
    assert table.contraction["x"] == pytest.approx(0.99, abs=0.005)
    assert table.contraction["y"] == pytest.approx(0.0, abs=0.1)
    assert table.informed["x"] and not table.informed["y"]


def test_combinations_are_what_the_formula_depends_on():
    from bayeslat import saturation

    parameters = {"P_max": 9.0, "k_S": 0.01, "tau_0": 2.0, "w_0": 5.0, "tau_S": 0.02}
    found = combinations(parameters, 1.5)
    flat = {**parameters, "w_1": 1.5}
    far = saturation.latency(flat, 1.0, 1e6) - saturation.latency(flat, 1.0, 1e6 - 1.0)
    assert found["slope"] == pytest.approx(far, rel=1e-6)
    without_overhead = {**flat, "w_0": 0.0}
    assert found["floor"] == pytest.approx(
        saturation.latency(without_overhead, 1.0, 1e-6), rel=1e-5
    )
    assert found["overhead"] == pytest.approx(5.0 / 9.0)
