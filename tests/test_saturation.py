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
    "m_S": 1.7,
    "r_F": 2.5,
    "r_B": 0.4,
    "r_C": 1.7,
}
SHARPNESS = [0.05, 0.5, 1.0, 3.0, 60.0, 1e4]
AMOUNTS = [1e-300, 1e-30, 1e-6, 0.1, 0.999, 1.001, 5.0, 1e3, 1e30, 1e300]
STEPS = [(1, 1, 0), (1, 4096, 9e5), (16, 16, 3e4), (37, 512, 1e4), (256, 8192, 5e6)]


def slow_latency(p, b, s, c):
    h = 1.0 - b / s
    floor, m = p.get("r_F", 1.0) ** h, p.get("m_S", 1.0)
    thr = p["P_max"] * (-math.expm1(-((p["k_S"] / floor * s) ** m))) ** (1.0 / m)
    if "k_B" in p:
        thr *= 1.0 - math.exp(-p["k_B"] * b)
    work = p.get("w_0", 0.0) + p["w_1"] * s
    interference = 1.0 + p.get("gamma_B", 0.0) * b + p.get("gamma_S", 0.0) * s
    linear = p.get("tau_B", 0.0) * p.get("r_B", 1.0) ** h * b
    position = p.get("tau_C", 0.0) * (p.get("r_C", 1.0) if c > s > b else 1.0)
    linear += p.get("tau_S", 0.0) * s + position * c
    return p["tau_0"] * floor + work / thr * interference + linear


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
    double = {name: np.float64(value) for name, value in TYPICAL.items()}  # a float is single there
    by_pytensor = pytensor.function(symbols, saturation.latency(double, *symbols, xp=pt))(*steps)
    np.testing.assert_allclose(by_jax, reference, rtol=1e-13)
    np.testing.assert_allclose(by_pytensor, reference, rtol=1e-13)


@pytest.mark.parametrize("absent", [(), *((name,) for name in OPTIONAL_PARAMETERS)])
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
        # Where prefills are charged otherwise the formula jumps at S = B: no difference spans it.
        smooth = (steps[:, 1] > steps[:, 0]) | (column == 2) | ("r_C" not in parameters)
        np.testing.assert_allclose(
            answers[name][smooth], (slope / (2 * width))[smooth], rtol=2e-5, atol=1e-8
        )


def test_saturated_step_is_linear():
    batch, tokens = 1e4, 1e7
    parameters = {n: v for n, v in TYPICAL.items() if not n.startswith(("gamma", "r_"))}
    linear = 5.0 + (20.0 + 1.3 * tokens) / 30.0 + 0.05 * batch + 0.002 * tokens
    assert saturation.latency(parameters, batch, tokens) == pytest.approx(linear, rel=1e-14)


def test_small_step_is_bilinear_without_cancellation():
    parameters = TYPICAL | {"k_B": 1e-9, "k_S": 1e-9}
    assert saturation.throughput(parameters, 1, 1) == pytest.approx(30.0e-18, rel=1e-8)


@pytest.mark.parametrize("step", STEPS)
def test_neutral_values_leave_the_plain_formula(step):
    new = ("m_S", "r_F", "r_B", "r_C")
    plain = {name: value for name, value in TYPICAL.items() if name not in new}
    for names in (("m_S",), ("r_F", "r_B"), ("r_C",), new):
        neutral = plain | dict.fromkeys(names, 1.0)
        assert saturation.latency(neutral, *step) == pytest.approx(
            saturation.latency(plain, *step), rel=1e-14
        )
        for left, right in zip(
            saturation.sensitivity(neutral, *step[:2]).values(),
            saturation.sensitivity(plain, *step[:2]).values(),
            strict=True,
        ):
            assert left == pytest.approx(right, rel=1e-12)


def test_a_decode_step_does_not_know_the_ratios_of_a_prefill():
    batch = np.array([1.0, 7.0, 300.0])
    plain = {name: value for name, value in TYPICAL.items() if not name.startswith("r_")}
    decode = saturation.latency(TYPICAL, batch, batch, 1e4)
    np.testing.assert_array_equal(decode, saturation.latency(plain, batch, batch, 1e4))
    prefill = saturation.latency(TYPICAL, batch, 9 * batch)
    assert (prefill != saturation.latency(plain, batch, 9 * batch)).all()


def test_only_older_positions_beside_a_prefill_cost_the_ratio():
    plain = {name: value for name, value in TYPICAL.items() if name != "r_C"}
    steps = {(8, 8, 9e4): 0.0, (8, 500, 500): 0.0, (8, 500, 9e4): 9e4, (8, 9, 9e4): 9e4}
    for step, positions in steps.items():
        more = saturation.latency(TYPICAL, *step) - saturation.latency(plain, *step)
        extra = TYPICAL["tau_C"] * (TYPICAL["r_C"] - 1.0) * positions
        assert more == pytest.approx(extra, rel=1e-9, abs=1e-12), step


def test_a_long_prefill_has_the_floor_and_the_requests_times_their_ratios():
    batch, tokens = 4.0, 4e12
    alone = {"P_max": 1.0, "k_S": 1e-3, "w_1": 1e-30, "tau_0": 5.0, "tau_B": 0.5}
    answer = saturation.latency(alone | {"r_F": 2.5, "r_B": 0.4}, batch, tokens)
    assert answer == pytest.approx(5.0 * 2.5 + 0.5 * 0.4 * 4.0, rel=1e-10)


def test_work_below_the_knee_takes_the_ratio_of_the_floor_longer():
    alone = {"P_max": 30.0, "k_S": 1e-9, "w_1": 1.0, "tau_0": 0.0}
    floor = saturation.latency(alone | {"r_F": 2.5}, 1.0, 1e3)
    assert floor == pytest.approx(2.5**0.999 / (30.0 * 1e-9), rel=1e-5)


@pytest.mark.parametrize("amount", [0.01, 0.5, 0.9, 1.1, 2.0, 100.0])
def test_a_very_sharp_knee_is_a_corner(amount):
    """The time S / Thr tends to the greater of floor and slope, as in a roofline."""
    parameters = {"P_max": 30.0, "k_S": 0.01, "m_S": 2_000.0}
    tokens = amount / 0.01
    time = tokens / saturation.throughput(parameters, 1.0, tokens)
    assert time == pytest.approx(max(1.0 / (30.0 * 0.01), tokens / 30.0), rel=1e-12)


@pytest.mark.parametrize("sharpness", SHARPNESS)
def test_sharp_saturation_neither_overflows_nor_underflows(sharpness):
    amount = np.array(AMOUNTS)
    parameters = {"P_max": 1.0, "k_S": amount, "m_S": sharpness}
    answer = saturation.throughput(parameters, 1.0, 1.0)
    assert (answer > 0.0).all() and (answer <= np.minimum(1.0, amount) * (1.0 + 1e-12)).all()
    assert (np.diff(answer) >= 0.0).all()
    assert answer[-1] == 1.0
    if sharpness >= 1.0:
        np.testing.assert_allclose(answer[:2], amount[:2], rtol=1e-12)


def _gradients_by_jax(log_rate, log_sharpness):
    def log_throughput(u, v):
        p = {"P_max": 1.0, "k_S": jnp.exp(u), "m_S": jnp.exp(v)}
        return jnp.log(saturation.throughput(p, 1.0, 1.0, xp=jnp))

    return jax.vmap(jax.grad(log_throughput, argnums=(0, 1)))(log_rate, log_sharpness)


def _gradients_by_pytensor(log_rate, log_sharpness):
    u, v = pt.dvectors(2)
    p = {"P_max": 1.0, "k_S": pt.exp(u), "m_S": pt.exp(v)}
    total = pt.log(saturation.throughput(p, 1.0, 1.0, xp=pt)).sum()
    return pytensor.function([u, v], pytensor.grad(total, [u, v]))(log_rate, log_sharpness)


@pytest.mark.parametrize("gradients", [_gradients_by_jax, _gradients_by_pytensor])
def test_gradients_are_finite_and_right_for_extreme_knees(gradients):
    rate, sharpness = (a.ravel() for a in np.meshgrid(np.log(AMOUNTS), np.log(SHARPNESS)))
    by_rate, by_sharpness = map(np.asarray, gradients(rate, sharpness))
    assert np.isfinite(by_rate).all() and np.isfinite(by_sharpness).all()
    with np.errstate(over="ignore", invalid="ignore"):
        power = np.exp(np.clip(np.exp(sharpness) * rate, -700.0, 700.0))
        exact = np.where(power > 700.0, 0.0, power / np.expm1(np.minimum(power, 700.0)))
    np.testing.assert_allclose(by_rate, exact, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("sharpness", SHARPNESS)
def test_sensitivities_are_finite_for_extreme_knees(sharpness):
    parameters = TYPICAL | {"k_S": np.array(AMOUNTS[1:-1]), "m_S": sharpness}
    slopes = saturation.sensitivity(parameters, 2.0, 5.0)
    assert all(np.isfinite(values).all() for values in slopes.values())


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
