import numpy as np
import pytest
from by_steps import make_draws

from bayeslat.decisions.compiling import compile_gate
from bayeslat.decisions.inversion import exceedance
from bayeslat.decisions.serving import step_times
from bayeslat.decisions.step_gates import mean_gates, oracle_gates, risk_gates
from bayeslat.engine import StepGates
from bayeslat.errors import InputError
from bayeslat.noise import FAMILIES
from bayeslat.predictive import LatencyDistribution

SLA, RISK = 25.0, 0.05
GRID = {"max_batch_size": 48, "max_total_tokens": 1_500}
NOISES = [("student_t", 4.0), ("normal", np.inf), ("lognormal", np.inf)]


def times_of(draws, **options):
    return step_times(draws, **(GRID | options))


def nodes_of(times):
    """B and S of every node, each of shape (row, column)."""
    batch, extra = np.meshgrid(times.batch_nodes, times.extra_nodes, indexing="ij")
    return batch, batch + extra


def asked(draws, batch, tokens, context):
    return exceedance(
        draws,
        batch_size=batch,
        total_tokens=tokens,
        context_tokens=context,
        sla_ms=SLA,
        confident=None,
    )


@pytest.mark.parametrize(("family", "nu"), NOISES)
@pytest.mark.parametrize("extended", [False, True])
def test_at_nodes_the_risk_is_that_of_the_posterior(family, nu, extended):
    draws = make_draws(60, family=family, nu=nu, sigma=0.08, extended=extended)
    times = times_of(draws)
    gates = risk_gates(draws, times, sla_ms=SLA, risk=RISK)
    batch, tokens = nodes_of(times)
    limit = gates.older[0]
    reached = limit > tokens + 1.0
    assert 0.2 < reached.mean() < 0.95
    found = asked(draws, batch[reached], tokens[reached], limit[reached])
    np.testing.assert_allclose(found, RISK, rtol=2e-3)
    # Elsewhere not even a step that attends to one older token fits.
    assert (asked(draws, batch, tokens, tokens + 1.0)[~reached] >= RISK * (1.0 - 1e-6)).all()
    own = asked(draws, batch, tokens, tokens * 1.0) <= RISK
    np.testing.assert_array_equal(gates.own[0] >= tokens, own)


@pytest.mark.parametrize(("family", "nu"), NOISES)
@pytest.mark.parametrize("extended", [False, True])
def test_at_nodes_the_mean_is_that_of_the_posterior(family, nu, extended):
    draws = make_draws(60, family=family, nu=nu, sigma=0.08, extended=extended)
    times = times_of(draws)
    gates = mean_gates(draws, times, sla_ms=SLA)
    batch, tokens = nodes_of(times)
    for limit, base in ((gates.older[0], tokens + 1.0), (gates.own[0], tokens)):
        reached = limit >= base
        assert 0.2 < reached.mean() < 0.98
        context = limit if base is not tokens else np.broadcast_to(tokens, limit.shape)
        exact = LatencyDistribution(draws, batch, tokens, np.maximum(context, base)).mean()
        # The mean of a clipped latency is larger: by half a per cent at a scale of a quarter.
        error = {"student_t": 5e-3, "normal": 1e-4, "lognormal": 1e-6}[family]
        if base is not tokens:
            np.testing.assert_allclose(exact[reached], SLA, rtol=error)
        clear = np.abs(exact / SLA - 1.0) > 2.0 * error
        np.testing.assert_array_equal((exact < SLA)[clear & ~reached], False)
        np.testing.assert_array_equal((exact > SLA)[clear & reached], False)


@pytest.mark.parametrize(("family", "nu"), NOISES)
def test_an_oracle_knows_its_run_and_not_its_noise(family, nu):
    draws = make_draws(5, family=family, nu=nu, sigma=0.08, extended=True)
    times = times_of(draws)
    gates = oracle_gates(times, sla_ms=SLA, risk=RISK)
    assert gates.n_runs == times.n_runs == 5
    _, tokens = nodes_of(times)
    noise = FAMILIES[family]
    for slope, limit, least in (
        (times.per_position, gates.older, tokens + 1.0),
        (times.per_own_position, gates.own, tokens),
    ):
        reached = limit >= least
        assert 0.1 < reached.mean() < 0.98
        level = times.location + slope * limit
        z = np.log(SLA / level) if noise.log_scale else SLA / level - 1.0
        found = noise.standard_sf(z / times.sigma, times.nu[:, None, None])
        np.testing.assert_allclose(found[reached], RISK, rtol=1e-6)


def test_one_certain_draw_is_its_own_oracle():
    """Without parameters to doubt, the posterior predictive is the truth's own noise."""
    draws = make_draws(1, family="normal", sigma=0.08)
    times = times_of(draws, repeated_share=0.0)
    risk, oracle = (
        risk_gates(draws, times, sla_ms=SLA, risk=RISK),
        oracle_gates(times, sla_ms=SLA, risk=RISK),
    )
    _, tokens = nodes_of(times)
    fits = risk.older[0] > tokens + 1.0
    np.testing.assert_allclose(risk.older[0][fits], oracle.older[0][fits], rtol=1e-4, atol=1.0)
    # Where nothing fits the line goes on with the slope of the mean; its sign is what counts.
    np.testing.assert_array_equal(fits, oracle.older[0] > tokens + 1.0)


def test_doubt_makes_a_scheduler_careful():
    draws = make_draws(60, family="normal", sigma=0.05)
    times = times_of(draws)
    tables = [risk_gates(draws, times, sla_ms=SLA, risk=risk).older for risk in (0.01, 0.1, 0.4)]
    mean = mean_gates(draws, times, sla_ms=SLA).older
    for tighter, wider in zip(tables, [*tables[1:], mean], strict=True):
        assert (tighter < wider).all()


def test_a_model_without_context_has_no_limit_where_steps_fit():
    draws = make_draws(20, family="normal", sigma=0.05)
    del draws.parameters["tau_C"]
    times = times_of(draws)
    batch, tokens = nodes_of(times)
    fits = asked(draws, batch, tokens, tokens * 1.0) <= RISK
    for gates in (
        risk_gates(draws, times, sla_ms=SLA, risk=RISK),
        oracle_gates(times_of(draws.take([0]), repeated_share=0.0), sla_ms=SLA, risk=RISK),
    ):
        assert (np.abs(gates.older[0]) > 1e6).mean() > 0.99
    np.testing.assert_array_equal(
        risk_gates(draws, times, sla_ms=SLA, risk=RISK).older[0] > tokens, fits
    )


def test_a_compiled_gate_becomes_the_same_tables():
    draws = make_draws(60, family="student_t", nu=4.0, sigma=0.05, extended=True)
    times = times_of(draws)
    made = risk_gates(draws, times, sla_ms=SLA, risk=RISK)
    compiled = compile_gate(draws, sla_ms=SLA, risk=RISK, max_batch_size=64, max_total_tokens=2_048)
    read = StepGates.from_gate(compiled, times)
    _, tokens = nodes_of(times)
    fits = made.older[0] > tokens + 1.0
    clear = np.abs(made.older[0] - tokens - 1.0) > 0.02 * tokens + 10.0
    same = (read.older[0] > tokens) == fits
    assert same[clear].mean() > 0.999  # a compiled gate interpolates between nodes of its own
    both = fits & clear & same
    assert both.mean() > 0.2
    off = np.abs(read.older[0][both] / made.older[0][both] - 1.0)
    assert np.median(off) < 0.005 and np.quantile(off, 0.99) < 0.05


@pytest.mark.parametrize("sla", [0.0, -1.0, np.inf, np.nan])
def test_wrong_limits_are_refused(sla):
    draws = make_draws(3, family="normal", sigma=0.05)
    times = times_of(draws)
    for make in (
        lambda: mean_gates(draws, times, sla_ms=sla),
        lambda: risk_gates(draws, times, sla_ms=sla, risk=RISK),
        lambda: oracle_gates(times, sla_ms=sla, risk=RISK),
    ):
        with pytest.raises(InputError, match="sla_ms"):
            make()


@pytest.mark.parametrize("risk", [0.0, 1.0, -0.1, np.nan])
def test_wrong_risks_are_refused(risk):
    draws = make_draws(3, family="normal", sigma=0.05)
    times = times_of(draws)
    with pytest.raises(InputError, match="risk"):
        risk_gates(draws, times, sla_ms=SLA, risk=risk)
    with pytest.raises(InputError, match="risk"):
        oracle_gates(times, sla_ms=SLA, risk=risk)
