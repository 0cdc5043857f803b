import numpy as np
import pytest
from by_steps import make_draws
from scipy import special

from bayeslat.decisions import feasible_tokens
from bayeslat.decisions.measuring.targets import (
    LargestTokens,
    LogLatency,
    LogQuantile,
    decision_values,
)
from bayeslat.errors import InputError
from bayeslat.predictive.draws import Points

STEPS = Points(np.array([1.0, 8.0]), np.array([64.0, 300.0]), np.array([64.0, 2_000.0]))


@pytest.mark.parametrize("family", ["student_t", "lognormal"])
def test_largest_tokens_are_those_of_an_exhaustive_search_in_every_draw(family):
    draws = make_draws(40, family=family, nu=5.0, sigma=0.05, spread=0.2, extended=True)
    question = LargestTokens(4, 25.0, 0.02, context_per_request=300.0, max_total_tokens=1_000)
    found = np.exp(question(draws))
    for m in range(draws.n_draws):
        exact = feasible_tokens(
            draws.take([m]), batch_size=4, sla_ms=25.0, risk=0.02, context_per_request=300.0,
            max_total_tokens=1_000,
        ).largest  # fmt: skip
        # The grid is finer than 3 %, and within a cell log latency is nearly a line.
        assert found[m] == pytest.approx(exact or 4, rel=0.005, abs=1.0)


def test_draws_at_the_ends_count_as_the_ends():
    draws = make_draws(100, spread=0.5, sigma=0.02)
    question = LargestTokens(4, 12.0, 0.05, max_total_tokens=64)
    found = np.exp(question(draws))
    assert found.min() == pytest.approx(4.0) and found.max() == pytest.approx(64.0)
    now = question.estimate(draws, credible=0.8)
    assert now.value == pytest.approx(np.median(found))
    assert (now.lower, now.upper) == pytest.approx(tuple(np.quantile(found, [0.1, 0.9])))


def test_quantiles_and_latencies_are_those_of_the_draws():
    draws = make_draws(30, family="student_t", nu=4.0)
    mu, sigma = draws.location_and_scale(STEPS)
    np.testing.assert_allclose(LogLatency(STEPS)(draws), np.log(mu))
    p99 = mu * (1.0 + sigma * special.stdtrit(4.0, 0.99))
    np.testing.assert_allclose(LogQuantile(STEPS)(draws), np.log(p99))


def test_a_decision_is_one_finite_number_or_row_a_draw():
    draws = make_draws(30)
    assert decision_values(lambda d: d.sigma, draws).shape == (30, 1)
    assert decision_values(LogLatency(STEPS), draws).shape == (30, 2)
    for wrong, about in (
        (lambda d: d.sigma[:7], r"shape \(7,\)"),
        (lambda d: np.empty((30, 0)), r"shape \(30, 0\)"),
        (lambda d: np.where(d.sigma > np.median(d.sigma), np.nan, 1.0), "15 values"),
    ):
        with pytest.raises(InputError, match=about):
            decision_values(wrong, draws)


@pytest.mark.parametrize(
    ("wrong", "about"),
    [
        ({"batch_size": 0}, "batch_size=0"),
        ({"sla_ms": -1.0}, "sla_ms=-1.0"),
        ({"sla_ms": np.inf}, "sla_ms=inf"),
        ({"risk": 1.0}, "risk=1.0"),
        ({"max_total_tokens": 4}, "max_total_tokens=4"),
        ({"context_per_request": -1.0}, "context_per_request=-1.0"),
    ],
)
def test_impossible_questions_are_refused(wrong, about):
    with pytest.raises(InputError, match=about) as refusal:
        LargestTokens(**{"batch_size": 4, "sla_ms": 30.0, **wrong})
    assert "\n" not in str(refusal.value)


def test_a_limit_below_the_floor_says_what_would_be_kept():
    with pytest.raises(InputError, match=r"below the floor.* expected .* ms or more"):
        LargestTokens(4, 0.5)(make_draws(20))
    with pytest.raises(InputError, match="q=1"):
        LogQuantile(STEPS, 1.0)
