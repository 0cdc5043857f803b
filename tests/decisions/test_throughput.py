from itertools import pairwise

import numpy as np
import pytest
from exact_gate import ExactGate, random_draws

from bayeslat.decisions import StepSpace, best_step, compiled_frontier, frontier
from bayeslat.decisions.throughput import sla_range, step_rates
from bayeslat.errors import InputError
from bayeslat.predictive import LatencyDistribution
from bayeslat.predictive.draws import Points

SEEDS = range(8)


def every_step(space):
    """All (B, S, C) of a space, by two loops."""
    steps = [
        (b, s, space.context_tokens + space.context_per_request * b)
        for b in range(space.min_batch_size, space.max_batch_size + 1)
        for s in range(max(b, space.min_total_tokens), space.max_total_tokens + 1)
        if not space.decode_only or s == b
    ]
    return np.array(steps, dtype=float)


def brute(draws, gate, space):
    """Rates of all steps that fit, and the steps; all of them with all draws."""
    steps = every_step(space)
    steps = steps[gate.fits(*steps.T)]
    mu, sigma = draws.location_and_scale(Points(*steps.T))
    latency = mu * draws.noise.moments(sigma, draws.nu[:, None])[0]
    return np.mean(1e3 * steps[:, 1] / latency, axis=0), steps


def space_of(seed):
    rng = np.random.default_rng(50 + seed)
    return StepSpace(
        max_batch_size=int(rng.integers(8, 25)),
        max_total_tokens=int(rng.integers(120, 300)),
        min_batch_size=int(rng.integers(1, 4)),
        min_total_tokens=int(rng.integers(1, 20)),
        decode_only=seed % 4 == 3,
        context_tokens=100.0 * (seed % 2),
        context_per_request=float(rng.uniform(0, 500)),
    )


def limit_of(draws, batch, tokens):
    """The limit that a step just keeps at a risk of 5 %."""
    return float(LatencyDistribution(draws, *map(np.array, (batch, tokens, 0))).ppf(0.95))


def limit_inside(draws, space, share):
    """A limit that part of the steps keeps."""
    steps = every_step(space)
    return float(np.quantile(draws.location(Points(*steps.T)).mean(axis=0), share)) * 1.6


@pytest.mark.parametrize("seed", SEEDS)
def test_the_best_step_is_that_of_two_loops(seed):
    draws, space = random_draws(seed), space_of(seed)
    gate = ExactGate(draws, limit_inside(draws, space, 0.5))
    rates, steps = brute(draws, gate, space)
    found = best_step(draws, gate, space)
    assert found.tokens_per_s.value == pytest.approx(rates.max(), rel=1e-12)
    top = steps[np.argmax(rates)]
    assert (found.batch_size, found.total_tokens, found.context_tokens) == pytest.approx(tuple(top))
    assert found.p_exceeds.value == pytest.approx(gate.p_exceed(*top), rel=1e-9)
    assert found.tokens_per_s.lower < found.tokens_per_s.value < found.tokens_per_s.upper


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("share", [0.2, 0.7])
def test_evolution_agrees_with_the_exhaustive_search(seed, share):
    draws, space = random_draws(seed), space_of(seed)
    gate = ExactGate(draws, limit_inside(draws, space, share))
    both = [best_step(draws, gate, space, solver=name) for name in ("exhaustive", "evolution")]
    assert both[0] == both[1]


def test_evolution_finds_a_small_feasible_corner_of_a_large_range():
    draws = random_draws(1)
    space = StepSpace(max_batch_size=4096, max_total_tokens=200_000)
    small = StepSpace(max_batch_size=64, max_total_tokens=1500)
    gate = ExactGate(draws, 30.0, max_batch_size=4096, max_total_tokens=200_000)
    corner = best_step(draws, gate, small)
    assert not corner.at_end, "the best is inside the corner"
    found = best_step(draws, gate, space, solver="evolution")
    assert (found.batch_size, found.total_tokens) == (corner.batch_size, corner.total_tokens)


def test_throughput_is_the_mean_of_the_rates_and_not_the_rate_of_the_mean():
    draws = random_draws(1, n=400)
    points = Points(np.array([4.0]), np.array([100.0]), np.array([50.0]))
    rates = step_rates(draws, points)[:, 0]
    mean = (1e5 / rates).mean()
    assert rates.mean() > 1e5 / mean, "Jensen"
    space = StepSpace(4, 100, min_batch_size=4, min_total_tokens=100, context_tokens=50.0)
    found = best_step(draws, ExactGate(draws, 1e4), space, credible=0.8)
    assert found.tokens_per_s == pytest.approx((rates.mean(), *np.quantile(rates, [0.1, 0.9])))
    assert found.latency_ms.value == pytest.approx(mean)


def test_noise_without_a_mean_has_no_throughput():
    draws = random_draws(1)
    draws.nu[:3] = 1.0
    rates = step_rates(draws, Points(np.array([4.0]), np.array([9.0]), np.array([0.0])))
    assert (rates[:3] == 0.0).all()
    assert (rates[3:] > 0.0).all()


def test_nothing_fits_and_the_end_of_the_search_are_told():
    draws, space = random_draws(1), StepSpace(8, 50)
    for solver in ("exhaustive", "evolution"):
        assert best_step(draws, ExactGate(draws, 0.1), space, solver=solver) is None
        assert best_step(draws, ExactGate(draws, 1e5), space, solver=solver).at_end
    tight = best_step(draws, ExactGate(draws, limit_of(draws, 1, 25)), space)
    assert not tight.at_end
    held = ExactGate(draws, 1e5, max_total_tokens=20)
    assert best_step(draws, held, space).at_end, "the gate ends before the space"


def test_a_gate_of_a_few_draws_gives_no_step_that_breaks_the_risk_by_all():
    draws, space = random_draws(1, n=400), StepSpace(12, 250)
    limit = limit_of(draws, 2, 150)
    # The fastest draws let longer steps through than all do.
    few = draws.take(np.argsort(draws.parameters["P_max"])[-380:])
    hopeful = ExactGate(few, limit)
    exact = best_step(draws, ExactGate(draws, limit), space)
    longest = best_step(few, hopeful, space)
    assert longest.total_tokens > exact.total_tokens
    found = best_step(draws, hopeful, space)
    assert found.p_exceeds.value <= 0.05
    assert found.total_tokens == exact.total_tokens


@pytest.mark.parametrize("seed", SEEDS)
def test_the_frontier_ascends_and_holds_the_best_step_of_each_limit(seed):
    draws, space = random_draws(seed), space_of(seed)
    limits = [limit_inside(draws, space, share) for share in (0.2, 0.5, 0.8)]
    limits = [*limits, 100.0 * limits[-1], 200.0 * limits[-1], 0.1]
    found = frontier(draws, [ExactGate(draws, limit) for limit in limits], space)
    assert found.infeasible_ms == (0.1,)
    assert found.dominated_ms[-1] == 200.0 * limits[2], "nothing is left to gain"
    steps = found.steps
    assert len(steps) + len(found.infeasible_ms) + len(found.dominated_ms) == len(limits)
    for before, after in pairwise(steps):
        assert before.sla_ms < after.sla_ms
        assert before.tokens_per_s.value < after.tokens_per_s.value
    for step in steps:
        assert step == best_step(draws, ExactGate(draws, step.sla_ms), space)
    table = found.table()
    assert list(table["tokens_per_s"]) == [step.tokens_per_s.value for step in steps]
    assert (table["tokens_per_s_lower"] < table["tokens_per_s_upper"]).all()


def test_a_frontier_with_compiled_gates_is_near_the_exact_one():
    draws, space = random_draws(1), StepSpace(16, 300, context_per_request=100.0)
    limits = [limit_inside(draws, space, share) for share in (0.3, 0.7)]
    found = compiled_frontier(draws, [*limits, 1e-3], risk=0.05, space=space)
    exact = frontier(draws, [ExactGate(draws, limit) for limit in limits], space)
    assert found.infeasible_ms == (1e-3,)
    for step, best in zip(found.steps, exact.steps, strict=True):
        assert step.p_exceeds.value <= 0.05
        # A gate is right to 1e-4, which the slope of P by S makes a few tokens of a hundred.
        assert 0.97 * best.tokens_per_s.value <= step.tokens_per_s.value
        assert step.tokens_per_s.value <= best.tokens_per_s.value * (1 + 1e-12)


def test_the_range_of_limits_goes_from_the_smallest_step_to_the_largest():
    draws, space = random_draws(1), StepSpace(16, 300)
    limits = sla_range(draws, space, risk=0.05, n=5)
    assert len(limits) == 5
    assert list(limits) == sorted(limits)
    first, last = ExactGate(draws, limits[0]), ExactGate(draws, limits[-1])
    assert first.fits(1, 1, 0)
    assert last.fits(16, 300, 0)
    assert not ExactGate(draws, 0.99 * limits[-2]).fits(16, 300, 0)


def test_steps_of_a_space_are_each_given_once():
    for seed in SEEDS:
        space = space_of(seed)
        found = np.concatenate(
            [np.stack([p.batch_size, p.total_tokens, p.context_tokens]).T for p in space.chunks(50)]
        )
        np.testing.assert_allclose(found, every_step(space))
        assert space.holds(found[:, 0], found[:, 1]).all()
        assert not space.holds(found[:, 0], found[:, 0] - 1).any()


@pytest.mark.parametrize(
    ("arguments", "about"),
    [
        ({"max_batch_size": 0}, "max_batch_size"),
        ({"max_total_tokens": 2.5}, "max_total_tokens"),
        ({"min_batch_size": 9, "max_batch_size": 8}, "widen"),
        ({"min_total_tokens": 300, "max_batch_size": 256, "decode_only": True}, "decode steps"),
        ({"min_batch_size": 50, "max_total_tokens": 20}, "widen"),
        ({"context_tokens": -1.0}, "context_tokens"),
        ({"context_per_request": np.nan}, "context_per_request"),
    ],
)
def test_spaces_without_steps_are_refused(arguments, about):
    with pytest.raises(InputError, match=about):
        StepSpace(**arguments)


def test_bad_questions_are_one_line():
    draws = random_draws(1)
    gate = ExactGate(draws, 30.0)
    with pytest.raises(InputError, match="solver"):
        best_step(draws, gate, solver="magic")
    with pytest.raises(InputError, match="credible"):
        best_step(draws, gate, credible=1.0)
    with pytest.raises(InputError, match="no gates"):
        frontier(draws, [])
    with pytest.raises(InputError, match="risk"):
        sla_range(draws, StepSpace(), risk=0.0)
    for limits in ([], [-1.0], [np.nan]):
        with pytest.raises(InputError, match="SLA limits"):
            compiled_frontier(draws, limits, risk=0.05)
    with pytest.raises(InputError, match="risk"):
        compiled_frontier(draws, [30.0], risk=1.0)
