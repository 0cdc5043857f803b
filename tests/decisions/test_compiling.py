import numpy as np
import pytest
from scipy import special

from bayeslat.decisions.compiling import TOLERANCE, compile_gate
from bayeslat.errors import InputError
from bayeslat.predictive import DeploymentDraws
from bayeslat.schema import Deployment

QUESTION = {"sla_ms": 40.0, "risk": 0.05, "max_batch_size": 16, "max_total_tokens": 512}


def make_draws(n=200, *, step_ms=20.0, spread=0.05, sigma=0.05, family="normal", **terms):
    """Draws in which every step takes about `step_ms`, and longer with its context."""
    rng = np.random.default_rng(5)
    typical = {"P_max": 1e9, "k_S": 1.0, "w_1": 1.0, "tau_0": step_ms, "tau_C": 1e-3, **terms}
    parameters = {name: value * rng.lognormal(0.0, spread, n) for name, value in typical.items()}
    nothing = np.full(n, np.inf)
    return DeploymentDraws(
        Deployment("H100-80GB", "llama-7b"), parameters, np.full(n, sigma), nothing, family
    )


def test_one_draw_has_a_closed_form():
    """Normal noise of 5 % around 20 ms + C / 1000: the exceedance is a normal tail."""
    gate = compile_gate(make_draws(1, spread=0.0), **QUESTION)
    context = np.array([0, 5_000, 15_000, 18_000, 20_000, 22_000, 30_000, 60_000])
    mu = 20.0 + context / 1e3
    expected = special.ndtr(-(40.0 / mu - 1.0) / 0.05)
    np.testing.assert_allclose(gate.p_exceed(4, 100, context), expected, atol=TOLERANCE)
    edge = (40.0 / (1.0 + 0.05 * special.ndtri(0.95)) - 20.0) * 1e3
    assert gate.fits(4, 100, edge * (1.0 - 1e-3))
    assert not gate.fits(4, 100, edge * (1.0 + 1e-3))


def test_lognormal_noise_has_a_closed_form():
    gate = compile_gate(make_draws(1, spread=0.0, family="lognormal"), **QUESTION)
    context = np.array([0, 15_000, 18_000, 20_000, 22_000, 30_000])
    expected = special.ndtr(-np.log(40.0 / (20.0 + context / 1e3)) / 0.05)
    np.testing.assert_allclose(gate.p_exceed(4, 100, context), expected, atol=TOLERANCE)


def test_a_gate_knows_its_posterior():
    draws = make_draws()
    gate = compile_gate(draws, **QUESTION)
    gate.check(draws.fingerprint)
    assert gate.fingerprint == draws.fingerprint
    other = compile_gate(draws.take(np.arange(1, 200)), **QUESTION)
    assert other.fingerprint != gate.fingerprint
    assert gate.deployment == "H100-80GB/llama-7b/tp1"


def test_token_counts_that_never_fit_are_left_out():
    """Beyond some S no context is short enough; the gate still answers for it."""
    draws = make_draws(P_max=10.0)  # 0.1 ms a token
    gate = compile_gate(draws, **QUESTION | {"max_total_tokens": 8192})
    assert max(np.exp(piece.high) for piece in gate.pieces) < 8000
    assert gate.p_exceed(1, 8000, 8000) == 1.0
    assert not gate.fits(1, 8000, 8000)
    assert gate.max_tokens(1, 0) < 400


def test_a_single_request_at_a_time_can_be_asked_about():
    gate = compile_gate(make_draws(), **QUESTION | {"max_batch_size": 1})
    assert gate.max_batch(1, 10) == 1
    assert gate.p_exceed(2, 2, 2) == 1.0
    assert gate.max_tokens(1, 100) == 512


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"risk": 0.0}, "risk"),
        ({"risk": 1.0}, "risk"),
        ({"risk": 1e-6}, "risk=1e-06"),
        ({"sla_ms": -1.0}, "sla_ms"),
        ({"sla_ms": np.nan}, "sla_ms"),
        ({"sla_ms": 15.0}, "a single token alone needs 2"),
        ({"max_batch_size": 0}, "max_batch_size=0"),
        ({"max_total_tokens": 8}, "max_total_tokens=8"),
    ],
)
def test_impossible_questions_are_refused_in_one_line(change, message):
    with pytest.raises(InputError, match=message) as caught:
        compile_gate(make_draws(), **QUESTION | change)
    assert "\n" not in str(caught.value)


def test_a_risk_that_few_draws_cannot_tell_is_refused():
    """With two draws far apart and little noise the tail is a plateau of one half."""
    draws = make_draws(2, spread=0.5, sigma=1e-4, tau_B=1.0)
    with pytest.raises(InputError, match="2 draws lie too far apart"):
        compile_gate(draws, **QUESTION | {"sla_ms": 60.0, "risk": 2e-4})
