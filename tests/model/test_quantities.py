"""The pooled quantities against their definitions written out, in every array namespace."""

import jax.numpy as jnp
import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest

from bayeslat.model.quantities import (
    LOGIT_QUANTITIES,
    QUANTITY_OF,
    QUANTITY_UNITS,
    link,
    to_parameters,
)
from bayeslat.saturation import latency
from bayeslat.schema import BASE_PARAMETERS, OPTIONAL_PARAMETERS, PARAMETERS

W_1 = np.array([0.3, 1.0, 9.8])
CENTRES = {
    "P_max": 9.0,
    "k_B": 1.0,
    "k_S": 0.01,
    "w_0": 5.0,
    "tau_0": 3.0,
    "tau_B": 0.05,
    "tau_S": 0.01,
    "tau_C": 3e-4,
    "gamma_B": 1e-3,
    "gamma_S": 1e-5,
    "m_S": 1.5,
    "r_F": 1.3,
    "r_B": 1.5,
    "r_C": 2.5,
}


def parameters(terms: tuple[str, ...], seed: int = 0) -> dict[str, np.ndarray]:
    """Random parameters of three deployments, the gauge included."""
    rng = np.random.default_rng(seed)
    names = [name for name in CENTRES if name in (*BASE_PARAMETERS, *terms)]
    draws = {name: CENTRES[name] * np.exp(rng.standard_normal(W_1.size)) for name in names}
    return {**draws, "w_1": W_1}


def written_out(values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Quantities by their definition: slope and floor, and how each splits in two."""
    a = values["w_1"] / values["P_max"]
    tau_S = values.get("tau_S", 0.0)
    slope, floor = a + tau_S, values["tau_0"] + a / values["k_S"]
    found = {"slope": np.log(slope), "floor": np.log(floor)}
    found["floor_share"] = np.log(values["tau_0"] / (a / values["k_S"]))
    if "tau_S" in values:
        found["slope_share"] = np.log(tau_S / a)
    if "w_0" in values:
        found["overhead"] = np.log(values["w_0"] / values["w_1"])
    if "r_B" in values:
        found["tau_B_prefill"] = np.log(values["tau_B"] * values["r_B"])
    same = [name for name, quantity in QUANTITY_OF.items() if name == quantity]
    return found | {name: np.log(values[name]) for name in same if name in values}


TERMS = [(), ("tau_S",), ("w_0", "k_B"), OPTIONAL_PARAMETERS]


@pytest.mark.parametrize("terms", TERMS, ids=["base", "tau_S", "w_0", "all"])
def test_parameters_come_back_from_their_quantities(terms):
    for seed in range(5):
        truth = parameters(terms, seed)
        found = to_parameters(written_out(truth), W_1)
        assert found.keys() == truth.keys()
        for name, values in truth.items():
            np.testing.assert_allclose(found[name], values, rtol=1e-12, err_msg=name)


@pytest.mark.parametrize("terms", TERMS, ids=["base", "tau_S", "w_0", "all"])
def test_quantities_come_back_from_their_parameters(terms):
    rng = np.random.default_rng(1)
    quantities = {
        name: value + 3.0 * rng.standard_normal(W_1.size)
        for name, value in written_out(parameters(terms)).items()
    }
    again = written_out(to_parameters(quantities, W_1))
    assert again.keys() == quantities.keys()
    for name, values in quantities.items():
        np.testing.assert_allclose(again[name], values, rtol=1e-9, atol=1e-9, err_msg=name)


def test_array_namespaces_agree():
    quantities = written_out(parameters(OPTIONAL_PARAMETERS))
    expected = to_parameters(quantities, W_1)
    by_jax = to_parameters({k: jnp.asarray(v) for k, v in quantities.items()}, W_1, xp=jnp)
    tensors = {name: pt.vector(name, dtype="float64") for name in quantities}
    graph = to_parameters(tensors, pt.as_tensor(W_1), xp=pt)
    compiled = pytensor.function(list(tensors.values()), list(graph.values()))
    by_pytensor = dict(zip(graph, compiled(*quantities.values()), strict=True))
    assert by_jax.keys() == by_pytensor.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(by_jax[name], values, rtol=1e-13, err_msg=name)
        np.testing.assert_allclose(by_pytensor[name], values, rtol=1e-13, err_msg=name)


def test_floor_and_slope_are_those_of_the_latency():
    """Small steps cost the floor at every size, large ones a slope a token."""
    quantities = written_out(parameters(("tau_S",)))
    found = to_parameters(quantities, W_1)
    np.testing.assert_allclose(latency(found, 1.0, 1e-7), np.exp(quantities["floor"]), rtol=1e-6)
    step = latency(found, 1.0, 2e6) - latency(found, 1.0, 1e6)
    np.testing.assert_allclose(step / 1e6, np.exp(quantities["slope"]), rtol=1e-6)


def test_every_parameter_has_one_quantity_with_a_unit():
    assert set(QUANTITY_OF) == set(PARAMETERS) - {"w_1"}
    assert len(set(QUANTITY_OF.values())) == len(QUANTITY_OF)
    assert set(QUANTITY_OF.values()) == set(QUANTITY_UNITS)


def test_links_are_logits_of_shares_and_logarithms_elsewhere():
    for name in QUANTITY_UNITS:
        expected = np.log(0.2 / 0.8) if name in LOGIT_QUANTITIES else np.log(0.2)
        assert link(name, 0.2) == pytest.approx(expected, rel=1e-14)
