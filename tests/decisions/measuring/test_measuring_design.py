import math
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from by_steps import make_draws

from bayeslat.decisions import LargestTokens, LogLatency, candidate_steps, next_points
from bayeslat.decisions.measuring.information import Belief
from bayeslat.errors import InputError
from bayeslat.predictive.draws import Points

QUESTION = LargestTokens(4, 30.0, 0.02, context_per_request=200.0, max_total_tokens=2_000)
CANDIDATES = candidate_steps(max_batch_size=16, max_total_tokens=1_024)


@pytest.fixture(scope="module")
def draws():
    return make_draws(1_000, family="student_t", nu=5.0, sigma=0.05, spread=0.2, extended=True)


@pytest.fixture(scope="module")
def design(draws):
    return next_points(draws, decision=QUESTION, candidates=CANDIDATES, n=6)


def expected_sd(draws, points):
    values = QUESTION(draws)[:, None]
    belief = Belief.of_draws(draws, values, points)
    for place in range(points.size):
        belief = belief.after(place)
    return math.sqrt(belief.variance)


def test_a_design_is_ordered_and_counts_down(draws, design):
    assert design.sd.shape == (7,)
    assert design.sd[0] == pytest.approx(QUESTION(draws).std(ddof=1))
    assert (np.diff(design.sd) < 0.0).all()
    np.testing.assert_allclose(design.information, -np.diff(np.log(design.sd)))
    assert design.information.argmax() == 0
    np.testing.assert_array_equal(
        design.points.total_tokens, CANDIDATES.total_tokens[design.chosen]
    )
    assert design.sd[-1] == pytest.approx(expected_sd(draws, design.points))


def test_the_first_point_is_the_best_and_two_are_nearly_the_best_two(draws, design):
    few = CANDIDATES[np.arange(0, CANDIDATES.size, 5)]
    found = next_points(draws, decision=QUESTION, candidates=few, n=2)
    singles = [expected_sd(draws, few[[j]]) for j in range(few.size)]
    assert found.chosen[0] == np.argmin(singles)
    pairs = [expected_sd(draws, few[list(pair)]) for pair in combinations(range(few.size), 2)]
    most = found.sd[0] ** 2 - min(pairs) ** 2
    assert found.sd[0] ** 2 - found.sd[2] ** 2 > (1.0 - 1.0 / math.e) * most


def test_a_design_beats_random_points(draws, design):
    rng = np.random.default_rng(0)
    rivals = [rng.choice(CANDIDATES.size, 6, replace=False) for _ in range(60)]
    assert design.sd[-1] < min(expected_sd(draws, CANDIDATES[rival]) for rival in rivals)


def test_points_measured_meanwhile_are_taken_into_account(draws, design):
    first = design.points[:3]
    rest = next_points(draws, decision=QUESTION, candidates=CANDIDATES, n=3, measured=first)
    np.testing.assert_array_equal(rest.chosen, design.chosen[3:])
    np.testing.assert_allclose(rest.sd, design.sd[3:])
    nothing = next_points(
        draws, decision=QUESTION, candidates=CANDIDATES, n=1, measured=design.points[:0]
    )
    assert nothing.chosen[0] == design.chosen[0]
    # What is gained counts from there, and is less than it was at first.
    assert rest.value[0] < design.value[0]


def test_a_step_is_measured_again_only_where_that_is_allowed(draws, design):
    assert len(set(design.chosen)) == design.chosen.size
    few = CANDIDATES[:3]
    once = next_points(draws, decision=QUESTION, candidates=few, n=10)
    assert sorted(once.chosen) == [0, 1, 2]
    often = next_points(draws, decision=QUESTION, candidates=few, n=10, repeats=True)
    assert often.chosen.size == 10 and often.sd[-1] < once.sd[-1]
    left = next_points(draws, decision=QUESTION, candidates=few, n=10, measured=few[:2])
    assert list(left.chosen) == [2]
    # Of all candidates repeats would gain little: their neighbours tell nearly as much.
    free = next_points(draws, decision=QUESTION, candidates=CANDIDATES, n=6, repeats=True)
    assert 0.95 * design.sd[-1] < free.sd[-1] <= design.sd[-1]


def test_means_of_many_steps_tell_more_and_cost_more(draws, design):
    means = next_points(draws, decision=QUESTION, candidates=CANDIDATES, n=2, n_averaged=16)
    assert (means.points.n_averaged == 16.0).all()
    assert means.sd[1] < design.sd[1]
    np.testing.assert_allclose(means.cost_ms, 16.0 * means.latency_ms.value)
    own = replace(CANDIDATES, n_averaged=np.full(CANDIDATES.size, 16.0))
    told = next_points(draws, decision=QUESTION, candidates=own, n=2)
    np.testing.assert_array_equal(told.sd, means.sd)


def test_per_millisecond_it_takes_cheaper_points(draws, design):
    cheap = next_points(draws, decision=QUESTION, candidates=CANDIDATES, n=6, per_ms=True)
    assert cheap.cost_ms.sum() < design.cost_ms.sum()
    assert cheap.sd[-1] > design.sd[-1]
    first = Belief.of_draws(draws, QUESTION(draws)[:, None], CANDIDATES).information
    times = draws.location(CANDIDATES).mean(axis=0)
    assert cheap.chosen[0] == np.argmax(first / times)


def test_several_targets_are_weighed_together(draws):
    ends = Points(np.array([1.0, 8.0]), np.array([1.0, 1_024.0]), np.array([128.0, 1_024.0]))
    found = next_points(draws, decision=LogLatency(ends), candidates=CANDIDATES, n=4)
    near = found.points.total_tokens
    assert near.min() < 64.0 and near.max() > 256.0, "one end alone leaves the other open"
    assert np.isnan(found.value).all()
    assert found.values.shape == (1_000, 2)


def test_a_certain_decision_needs_no_measurement(draws):
    found = next_points(draws, decision=lambda d: np.ones(d.n_draws), candidates=CANDIDATES)
    assert found.chosen.size == 0 and found.table().empty and found.sd.shape == (1,)
    wide = replace(QUESTION, sla_ms=1e5)
    found = next_points(draws, decision=wide, candidates=CANDIDATES, criterion="value")
    assert found.chosen.size == 0


def test_a_choice_that_cannot_change_is_worth_nothing_though_the_latency_is_open(draws):
    # Draws differ in S*, but the fewer tokens the more of them a millisecond, in every draw.
    steep = make_draws(500, sigma=0.02, spread=0.05, tau_0=1e-9, k_S=50.0, tau_B=0.0)
    steep.parameters["w_0"] = np.zeros(500)
    steep.parameters["gamma_S"] = np.full(500, 0.02)
    question = LargestTokens(4, 60.0, 0.02, max_total_tokens=2_000)
    found = next_points(steep, decision=question, candidates=CANDIDATES, n=2, criterion="value")
    assert found.sd[0] > 0.01
    np.testing.assert_array_equal(found.value, 0.0)


def test_value_grows_with_the_points_and_takes_the_most_valuable(draws, design):
    found = next_points(draws, decision=QUESTION, candidates=CANDIDATES, n=3, criterion="value")
    assert found.criterion == "value"
    assert found.value[0] > 3.0 * found.value_error[0]
    assert found.value[0] >= design.value[0]
    again = next_points(draws, decision=QUESTION, candidates=CANDIDATES, n=3, criterion="value")
    np.testing.assert_array_equal(found.value, again.value)
    table = found.table()
    assert list(table["total_tokens"]) == list(found.points.total_tokens)
    assert (table["latency_ms_lower"] < table["latency_ms"]).all()


def test_value_is_not_told_where_too_few_draws_agree(draws):
    few = draws.take(np.arange(40))
    found = next_points(few, decision=QUESTION, candidates=CANDIDATES, n=5, criterion="value")
    assert np.isnan(found.value[-1]) and np.isfinite(found.sd).all()


@pytest.mark.parametrize(
    ("wrong", "about"),
    [
        ({"n": 0}, "n=0"),
        ({"n": 1.5}, "n=1.5"),
        ({"criterion": "luck"}, "criterion='luck'"),
        ({"criterion": "value", "decision": LogLatency(CANDIDATES[:1])}, "no operator"),
        ({"candidates": CANDIDATES[:0]}, "no candidate steps"),
        ({"n_averaged": 0.0}, "mean of 0"),
        ({"decision": lambda d: d.sigma[:3]}, "shape"),
        ({"decision": replace(QUESTION, sla_ms=0.1)}, "below the floor"),
        ({"measured": replace(CANDIDATES[:1], total_tokens=np.zeros(1))}, "S = 0"),
    ],
)
def test_impossible_requests_are_refused(draws, wrong, about):
    with pytest.raises(InputError, match=about) as refusal:
        next_points(draws, **{"decision": QUESTION, "candidates": CANDIDATES, **wrong})
    assert "\n" not in str(refusal.value)
