"""The value of sample information: against conjugate algebra, and against likelihoods by scipy."""

from dataclasses import replace

import numpy as np
import pytest
from by_steps import make_draws
from scipy import special, stats

from bayeslat.decisions.measuring.sample_value import Operator, Outcomes
from bayeslat.decisions.measuring.targets import LargestTokens
from bayeslat.predictive import DeploymentDraws
from bayeslat.predictive.draws import Points
from bayeslat.schema import Deployment

SPREAD, NOISE, RISK = 0.3, 0.1, 0.05
POINT = Points(np.array([1.0]), np.array([256.0]), np.array([256.0]))


def common_factor(n=20_000, spread=SPREAD):
    """Draws that differ by a lognormal factor of all latencies: log latency is conjugate."""
    levels = (np.arange(n) + 0.5) / n
    logs = spread * special.ndtri(np.random.default_rng(3).permutation(levels))
    factor = np.exp(logs)
    parameters = {"P_max": 30.0 / factor, "k_S": np.full(n, 0.01), "w_1": np.ones(n),
                  "tau_0": 5.0 * factor, "tau_B": 0.05 * factor}  # fmt: skip
    sigma, nu = np.full(n, NOISE), np.full(n, np.inf)
    where = Deployment("H100-80GB", "llama-7b")
    return DeploymentDraws(where, parameters, sigma, nu, "lognormal"), logs


def exact_value(draws, question):
    """Over quantiles of the outcome of one measurement, with the factor's conjugate posterior."""
    steps = question.steps
    typical = draws.location(steps)[0] / np.exp(np.log(draws.parameters["tau_0"][0] / 5.0))

    def choice(mean, variance):
        z = (np.log(typical / question.sla_ms) + mean) / np.sqrt(variance + NOISE**2)
        rate = np.where(special.ndtr(z) <= question.risk, steps.total_tokens / typical, -np.inf)
        return int(np.argmax(rate)) if np.isfinite(rate).any() else -1

    def rate(step, mean, variance):
        if step < 0:
            return 0.0
        return steps.total_tokens[step] / typical[step] * np.exp(-mean + variance / 2.0)

    before, left = choice(0.0, SPREAD**2), 1.0 / (SPREAD**-2 + NOISE**-2)
    nodes = special.ndtri((np.arange(4_000) + 0.5) / 4_000)
    means = left / NOISE**2 * np.sqrt(SPREAD**2 + NOISE**2) * nodes
    gains = [rate(choice(m, left), m, left) - rate(before, m, left) for m in means]
    return float(np.mean(gains))


def test_value_is_the_exact_one_of_a_conjugate_model():
    draws, _ = common_factor()
    question = LargestTokens(4, 30.0, RISK, max_total_tokens=2_048)
    exact = exact_value(draws, question)
    gains = []
    operator = Operator.of(question, draws.thin(2_000))
    for seed in range(4):
        outcomes = Outcomes.of(draws.thin(2_000), max_outcomes=300, seed=seed).after(POINT)
        gains.append(operator.gains(outcomes).mean())
    error = np.std(gains, ddof=1) / 2.0
    assert exact > 10.0 * error
    assert np.mean(gains) == pytest.approx(exact, abs=5.0 * error + 0.03 * exact)


def test_what_is_nearly_known_is_worth_nearly_nothing_however_coarse_the_steps():
    """A grid that only lets losses pass would make a value of several errors below zero."""
    draws, _ = common_factor(2_000, spread=0.01)
    question = LargestTokens(4, 30.0, RISK, max_total_tokens=2_048)
    gains = Operator.of(question, draws).gains(Outcomes.of(draws).after(POINT))
    assert (gains > 0.0).any() and (gains < 0.0).any()
    assert abs(gains.mean()) < 4.0 * gains.std(ddof=1) / np.sqrt(gains.size)
    assert np.abs(gains).max() < 0.01 * Operator.of(question, draws).throughput.max()


def test_a_choice_that_cannot_change_is_worth_exactly_nothing():
    draws = make_draws(300, family="student_t", nu=5.0)
    # Every step of the search keeps the limit in every draw, and more tokens are ever faster.
    question = LargestTokens(4, 1e6, 0.01, max_total_tokens=512)
    gains = Operator.of(question, draws).gains(Outcomes.of(draws).after(POINT))
    np.testing.assert_array_equal(gains, 0.0)
    hopeless = replace(question, sla_ms=1e-3)
    gains = Operator.of(hopeless, draws).gains(Outcomes.of(draws).after(POINT))
    np.testing.assert_array_equal(gains, 0.0)


def test_nothing_measured_is_worth_nothing():
    draws = make_draws(300, spread=0.3)
    operator = Operator.of(LargestTokens(4, 20.0, 0.05, max_total_tokens=1_024), draws)
    assert operator.choice(np.full((1, 300), 1 / 300))[0] > 0
    # The source of an outcome is left out: one draw in 300, and no more, is missing.
    gains = operator.gains(Outcomes.of(draws))
    assert np.abs(gains.mean()) < 0.05 * operator.throughput.mean()


def test_the_operator_takes_the_most_tokens_within_the_risk():
    rng = np.random.default_rng(2)
    exceedance, throughput = rng.uniform(0.01, 0.4, (50, 30)), rng.uniform(1.0, 2.0, (50, 30))
    operator = Operator(exceedance, throughput, 0.18)
    weights = rng.dirichlet(np.full(50, 0.2), 40)
    places = np.arange(29 * 200 + 1) / 200
    for row, found in zip(weights, operator.choice(weights), strict=True):
        risk = np.exp(np.interp(places, np.arange(30), np.log(row @ exceedance)))
        rate = np.where(risk <= 0.18, np.interp(places, np.arange(30), row @ throughput), -np.inf)
        best = operator.expected(row[None], np.array([found]))[0]
        assert rate.max() <= best < rate.max() + 0.01 * np.ptp(throughput)
        assert np.interp(found, places, risk) <= 0.18 * (1.0 + 1e-4)
    none = Operator(exceedance, throughput, 1e-9).choice(weights)
    assert np.isnan(none).all()
    np.testing.assert_array_equal(operator.expected(weights, none), 0.0)


@pytest.mark.parametrize("family", ["student_t", "normal", "lognormal"])
@pytest.mark.parametrize("n_averaged", [1.0, 4.0])
def test_likelihood_is_that_of_the_noise(family, n_averaged):
    nu = 5.0 if family == "student_t" else np.inf
    draws = make_draws(40, family=family, nu=nu)
    point = replace(POINT, n_averaged=n_averaged)
    outcomes = Outcomes.of(draws, max_outcomes=10, seed=1).after(point)
    mu, sigma = draws.location(point)[:, 0], draws.sigma / np.sqrt(n_averaged)
    again = Outcomes.of(draws, max_outcomes=10, seed=1)
    y = replace(again, n_measured=0)._simulated(mu, sigma, draws.nu * n_averaged)
    law = {
        "student_t": lambda: stats.t.logpdf(y[:, None], nu * n_averaged, mu, mu * sigma),
        "normal": lambda: stats.norm.logpdf(y[:, None], mu, mu * sigma),
        "lognormal": lambda: stats.norm.logpdf(np.log(y)[:, None], np.log(mu), sigma),
    }[family]()
    found = outcomes.log_likelihood
    np.testing.assert_allclose(found - found[:, :1], law - law[:, :1], rtol=1e-9, atol=1e-9)


def test_repeats_share_what_the_features_miss():
    """One more normal of variance missing^2 a (B, S): two steps there tell less than two apart."""
    draws = make_draws(4_000, sigma=0.01, spread=0.1, extended=True)
    far = Points(np.array([1.0]), np.array([5_000.0]), np.array([5_000.0]))
    near = replace(far, total_tokens=np.array([5_001.0]))
    assert draws.discrepancy.missing(draws.discrepancy.features([1.0], [5_000.0]))[0] > 0.9
    values = np.log(draws.location(far))
    same = Outcomes.of(draws, max_outcomes=100).after(far).after(far)
    apart = Outcomes.of(draws, max_outcomes=100).after(far).after(near)
    assert apart.expected_variance(values)[0] < 0.8 * same.expected_variance(values)[0]


def test_weights_leave_out_the_source_and_sum_to_one():
    draws = make_draws(60)
    outcomes = Outcomes.of(draws, max_outcomes=20).after(POINT)
    np.testing.assert_allclose(outcomes.weights.sum(axis=1), 1.0)
    assert (outcomes.weights[np.arange(20), outcomes.source] == 0.0).all()
    assert 1.0 <= outcomes.effective_draws <= 59.0
