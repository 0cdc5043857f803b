import math

import jax
import jax.numpy as jnp
import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest

from bayeslat import saturation
from bayeslat.schema import OPTIONAL_PARAMETERS, PARAMETERS

TYPICAL = {
    "P_max": 30.0,
    "k_B": 0.2,
    "k_S": 0.01,
    "w_0": 20.0,
    "w_1": 1.3,
    "tau_0": 5.0,
    "tau_B": 0.05,
    "tau_S": 0.002,
    "tau_C": 1e-5,
    "gamma_B": 1e-3,
    "gamma_S": 1e-5,
}
STEPS = [(1, 1, 0), (1, 4096, 9e5), (16, 16, 3e4), (37, 512, 1e4), (256, 8192, 5e6)]


def slow_latency(p, b, s, c):
    thr = p["P_max"] * (1.0 - math.exp(-p["k_S"] * s))
    if "k_B" in p:
        thr *= 1.0 - math.exp(-p["k_B"] * b)
    work = p.get("w_0", 0.0) + p["w_1"] * s
    interference = 1.0 + p.get("gamma_B", 0.0) * b + p.get("gamma_S", 0.0) * s
    linear = p.get("tau_B", 0.0) * b + p.get("tau_S", 0.0) * s + p.get("tau_C", 0.0) * c
    return p["tau_0"] + work / thr * interference + linear


@pytest.mark.parametrize("absent", [(), *((name,) for name in OPTIONAL_PARAMETERS)])
@pytest.mark.parametrize("step", STEPS)
def test_latency_is_the_formula_whatever_terms_are_absent(absent, step):
    parameters = {name: value for name, value in TYPICAL.items() if name not in absent}
    assert saturation.latency(parameters, *step) == pytest.approx(
        slow_latency(parameters, *step), rel=1e-12
    )


def test_parameters_and_design_broadcast():
    rng = np.random.default_rng(0)
    parameters = {n: v * rng.lognormal(0, 0.3, (4, 1)) for n, v in TYPICAL.items()}
    steps = np.array(STEPS, dtype=float).T
    table = saturation.latency(parameters, *steps)
    assert table.shape == (4, len(STEPS))
    for m in range(4):
        one = {name: float(values[m, 0]) for name, values in parameters.items()}
        expected = [slow_latency(one, *step) for step in STEPS]
        np.testing.assert_allclose(table[m], expected, rtol=1e-12)


def test_numpy_jax_and_pytensor_agree():
    steps = np.array(STEPS, dtype=float).T
    reference = saturation.latency(TYPICAL, *steps)
    by_jax = saturation.latency(TYPICAL, *map(jnp.asarray, steps), xp=jnp)
    symbols = pt.dvectors(3)
    by_pytensor = pytensor.function(symbols, saturation.latency(TYPICAL, *symbols, xp=pt))(*steps)
    np.testing.assert_allclose(by_jax, reference, rtol=1e-14)
    np.testing.assert_allclose(by_pytensor, reference, rtol=1e-14)


@pytest.mark.parametrize("absent", [(), ("k_B",), ("gamma_B", "gamma_S", "tau_C")])
def test_sensitivities_are_the_derivatives(absent):
    parameters = {name: value for name, value in TYPICAL.items() if name not in absent}

    def latency(step):
        return saturation.latency(parameters, *step, xp=jnp)

    gradients = jax.vmap(jax.grad(latency))(jnp.asarray(STEPS, dtype=float))
    steps = np.array(STEPS, dtype=float)
    answers = saturation.sensitivity(parameters, steps[:, 0], steps[:, 1])
    for column, name in enumerate(("batch_size", "total_tokens", "context_tokens")):
        np.testing.assert_allclose(answers[name], gradients[:, column], rtol=1e-10, err_msg=name)
        width = 1e-4 * np.maximum(steps[:, column], 1.0)
        up, down = steps.copy(), steps.copy()
        up[:, column] += width
        down[:, column] -= width
        slope = saturation.latency(parameters, *up.T) - saturation.latency(parameters, *down.T)
        np.testing.assert_allclose(answers[name], slope / (2 * width), rtol=2e-5, atol=1e-8)


def test_saturated_step_is_linear():
    batch, tokens = 1e4, 1e7
    parameters = {n: v for n, v in TYPICAL.items() if not n.startswith("gamma")}
    linear = 5.0 + (20.0 + 1.3 * tokens) / 30.0 + 0.05 * batch + 0.002 * tokens
    assert saturation.latency(parameters, batch, tokens) == pytest.approx(linear, rel=1e-14)


def test_small_step_is_bilinear_without_cancellation():
    parameters = TYPICAL | {"k_B": 1e-9, "k_S": 1e-9}
    assert saturation.throughput(parameters, 1, 1) == pytest.approx(30.0e-18, rel=1e-8)


@pytest.mark.parametrize("xp", [np, jnp])
def test_huge_rates_neither_overflow_nor_warn(xp):
    parameters = TYPICAL | {"k_B": 1e6, "k_S": 1e6}
    batch = xp.asarray([1.0, 1e9])
    assert xp.isfinite(saturation.latency(parameters, batch, batch, xp=xp)).all()
    slopes = saturation.sensitivity(parameters, batch, batch, xp=xp)
    assert all(xp.isfinite(values).all() for values in slopes.values())


def test_latency_falls_and_then_rises_in_batch_and_in_tokens():
    batch = saturation.latency(TYPICAL | {"tau_B": 0.5}, np.arange(1.0, 257.0), 1024.0)
    assert 0 < np.argmin(batch) < batch.size - 1
    tokens = saturation.latency(TYPICAL | {"w_0": 100.0}, 1.0, np.arange(1.0, 4097.0))
    assert 0 < np.argmin(tokens) < tokens.size - 1


def test_typical_values_cover_every_parameter():
    assert set(TYPICAL) == set(PARAMETERS)
