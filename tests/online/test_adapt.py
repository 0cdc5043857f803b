"""When a deployment is refitted, what judges it, and how a burst that has ended is left behind."""

from dataclasses import replace

import numpy as np
import pytest

from bayeslat import online
from bayeslat.online.adapt import GROWTH, LEAST_BETWEEN, MIN_ROWS, SETTLED, is_due
from bayeslat.online.belief import Belief
from bayeslat.online.changes import TERMS, along
from bayeslat.online.judging import Judgement, held_back, log_scores, without
from bayeslat.online.member import Regime
from bayeslat.online.vectors import from_vectors, to_vectors


@pytest.fixture(scope="module")
def one_gpu(steps):
    """Rows of one deployment."""
    return steps[(steps["gpu"] == "H100-80GB") & (steps["model"] == "llama-7b")]


def member_with(fleet, one, n, **changes):
    """The first deployment after `n` rows."""
    member = online.start(fleet).members[0]
    return replace(member, rows=one.rows[:n], n_seen=n, n_looked=n, **changes)


@pytest.mark.parametrize(
    ("n", "regime", "level", "due"),
    [
        (MIN_ROWS - 1, Regime(1, 1, True, None), "drift", False),
        (MIN_ROWS + 1, Regime(1, 1, True, None), "drift", True),
        (int(GROWTH * 40) - 1, Regime(1, 1, True, ("speed",), 40), "adapting", False),
        (int(GROWTH * 40) + 1, Regime(1, 1, True, ("speed",), 40), "adapting", True),
        (SETTLED + 50, Regime(1, 1, True, ("speed",), SETTLED - 1), "quiet", False),
    ],
)
def test_refits_follow_the_rows_of_a_regime(fleet, one, n, regime, level, due):
    assert is_due(member_with(fleet, one, n, regime=regime, level=level), decay=1.0) is due


def test_exhausted_draws_are_renewed_once_there_is_as_much_to_learn_as_there_was(fleet, one):
    spent = replace(Belief.of(one.draws), pareto_k=np.inf)
    few, many = (member_with(fleet, one, n, belief=spent, base_rows=200) for n in (199, 201))
    assert not is_due(few, decay=1.0)
    assert is_due(many, decay=1.0)
    assert not is_due(replace(many, belief=Belief.of(one.draws)), decay=1.0)
    newcomer = member_with(fleet, one, LEAST_BETWEEN + 1, belief=spent, base_rows=0)
    assert is_due(newcomer, decay=1.0)


def test_what_is_forgotten_steadily_is_learnt_steadily(fleet, one):
    spent = replace(Belief.of(one.draws), pareto_k=np.inf)
    member = member_with(fleet, one, 900, belief=spent, base_rows=100, regime=Regime(learnt=700))
    assert is_due(member, decay=0.99)
    assert not is_due(member, decay=1.0)


def test_one_row_in_five_is_held_back_without_a_period(one):
    held = held_back(one.rows, 5)
    assert abs(held.mean() - 0.2) < 4 * np.sqrt(0.16 / held.size)
    for period in (2, 5, 10):
        shares = [held[start::period].mean() for start in range(period)]
        assert max(shares) < 0.35 and min(shares) > 0.08


def test_a_gain_is_summed_and_its_error_is_that_of_a_sum():
    gains = np.array([1.0, 3.0, 2.0, 2.0])
    found = Judgement.of(gains)
    assert found.gain == 8.0
    assert found.standard_error == pytest.approx(2.0 * gains.std(ddof=1))
    assert found.passed and not Judgement(-1.0, 0.9, 4).passed and Judgement(-0.9, 1.0, 4).passed
    assert Judgement.of(np.empty(0)).passed


def test_a_belief_without_rows_is_that_of_before_them(one):
    rows = one.rows[:10]
    before = Belief.of(one.draws)
    seen = one.draws.log_density(rows.latency_ms, rows.points)
    first = before.updated(seen[:, :6].sum(axis=1), n_seen=6)
    both = first.updated(seen[:, 6:].sum(axis=1), n_seen=10)
    back = without(both, rows[6:], decay=1.0)
    np.testing.assert_allclose(back.log_weights, first.log_weights, atol=1e-8)
    # Rows that the weights have not counted are none to be taken out.
    same = without(first, rows[6:], decay=1.0)
    np.testing.assert_allclose(same.log_weights, first.log_weights, atol=1e-8)


def test_log_scores_are_those_of_the_mixture(one):
    rows = one.rows[:7]
    density = np.exp(one.draws.log_density(rows.latency_ms, rows.points))
    found = log_scores(Belief.of(one.draws), rows)
    np.testing.assert_allclose(found, np.log(density.mean(axis=0)), rtol=1e-10)


def test_a_worse_candidate_is_rejected_and_the_belief_stays(fleet, one, one_gpu, monkeypatch):
    """Draws that are three times too fast: the rows held back see it."""
    from bayeslat.online import adapt

    right = adapt.refit

    def wrong(prior, *arguments, **options):
        found = right(prior, *arguments, **options)
        draws = found.belief.draws
        too_fast = to_vectors(draws, one.layout) - 1.1 * along(one.layout, tuple(TERMS))
        return replace(found, belief=Belief.of(from_vectors(too_fast, one.layout, draws)))

    monkeypatch.setattr(adapt, "refit", wrong)
    slower = one_gpu.iloc[:150].assign(latency_ms=1.3 * one_gpu["latency_ms"].iloc[:150])
    state = online.observe(online.start(fleet), slower)
    kinds = [event.kind for event in state.events]
    assert "rejected" in kinds and "accepted" not in kinds
    moved = next(each for each in state.members if each.n_seen)
    assert moved.in_force == Regime()
    assert moved.belief.draws is moved.base_draws
    assert moved.monitor.rejected == kinds.count("rejected")
    # Each time it cries anew a candidate was judged; it does not cry at every row.
    assert kinds.count("continued") < kinds.count("rejected")


def test_a_false_alarm_is_dismissed_and_counts_no_row_twice(fleet, one_gpu, monkeypatch):
    """The detector cries at the fiftieth row, and nothing has happened."""
    from bayeslat.online.detection.eprocess import EProcess

    rightly = EProcess.update

    def cries(self, memory, scores):
        memory, verdict = rightly(self, memory, scores)
        if seen and not cried:
            cried.append(1)
            verdict = replace(verdict, level="drift", kind="slower", row=9, since=9)
        seen.append(len(scores))
        return memory, verdict

    seen, cried = [], []
    monkeypatch.setattr(EProcess, "update", cries)
    state = online.start(fleet)
    kinds = []
    for first in range(0, 160, 20):
        state = online.observe(state, one_gpu.iloc[first : first + 20])
        kinds += [event.kind for event in state.events]
    assert kinds == ["drift", "dismissed"]
    member = next(each for each in state.members if each.n_seen)
    assert member.regime == member.in_force == Regime()
    rows = member.rows[: member.belief.n_seen]
    once = one_density(member, rows)
    np.testing.assert_allclose(member.belief.log_likelihood, once, atol=1e-8)


def one_density(member, rows):
    return member.belief.draws.log_density(rows.latency_ms, rows.points).sum(axis=1)


def test_a_burst_that_has_ended_is_left_behind(fleet, one_gpu):
    """Every fifth row takes five times as long for a while; then all is as before."""
    rng = np.random.default_rng(6)
    burst = one_gpu.iloc[100:400]
    factor = np.where(rng.random(len(burst)) < 0.2, 5.0, 1.0)
    state = online.start(fleet)
    summaries = []
    for rows in (
        one_gpu.iloc[:100],
        *(
            burst.assign(latency_ms=factor * burst["latency_ms"]).iloc[i : i + 100]
            for i in (0, 100, 200)
        ),
        *(one_gpu.iloc[i : i + 100] for i in range(400, 1200, 100)),
    ):
        state = online.observe(state, rows)
        summaries += [event.details.get("summary", "") for event in state.events]
    assert any(text.startswith("moved back") for text in summaries)
    member = next(each for each in state.members if each.n_seen)
    assert member.level == "quiet"
    # The noise is the base's again, not that of the burst.
    sigma = np.median(member.belief.even.sigma) / np.median(member.base_draws.sigma)
    assert 0.7 < sigma < 1.3
