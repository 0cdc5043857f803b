from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from scipy import special

from bayeslat import saturation
from bayeslat.decisions import (
    FeasibleSet,
    exceedance,
    feasible_batches,
    feasible_region,
    feasible_tokens,
    largest_batch,
    largest_tokens,
    nearest_tokens,
)
from bayeslat.discrepancy import Discrepancy, basis_for
from bayeslat.errors import InputError
from bayeslat.predictive import DeploymentDraws
from bayeslat.predictive.kernels import ERROR
from bayeslat.schema import Deployment

SEEDS = range(12)
QUESTION = {"sla_ms": 40.0, "risk": 0.05}


def make_draws(seed=0, *, n=50, spread=0.1, **fixed):
    """Random draws; even seeds fall in B, seeds divisible by three are U-shaped in S."""
    rng = np.random.default_rng(seed)
    typical = {
        "P_max": rng.uniform(10.0, 60.0),
        "k_B": rng.uniform(0.01, 0.05) if seed % 2 == 0 else 1.0,
        "k_S": rng.uniform(0.002, 0.05),
        "w_0": rng.uniform(20.0, 100.0) if seed % 3 == 0 else 1.0,
        "w_1": 1.0,
        "tau_0": rng.uniform(2.0, 10.0),
        "tau_B": rng.uniform(0.01, 0.5),
        "tau_S": rng.uniform(0.0005, 0.01),
        "tau_C": 1e-4,
        **fixed,
    }
    parameters = {name: v * rng.lognormal(0.0, spread, n) for name, v in typical.items()}
    sigma, nu = 0.08 * rng.lognormal(0.0, 0.1, n), 2.0 + 5.0 * rng.random(n)
    return DeploymentDraws(Deployment("H100-80GB", "llama-7b"), parameters, sigma, nu, "student_t")


def location(draws, b, s, c):
    p = draws.parameters
    thr = p["P_max"] * (1 - np.exp(-p["k_B"] * b)) * (1 - np.exp(-p["k_S"] * s))
    return (
        p["tau_0"]
        + (p["w_0"] + p["w_1"] * s) / thr
        + p["tau_B"] * b
        + p["tau_S"] * s
        + p["tau_C"] * c
    )


def brute(draws, b, s, c, sla_ms):
    """P(T > SLA) of each draw by scipy, from a formula written down again."""
    return special.stdtr(draws.nu, (1 - sla_ms / location(draws, b, s, c)) / draws.sigma)


def extend(draws, seed):
    """The same draws with the terms of a prefill, a sharper knee and a discrepancy."""
    rng, n = np.random.default_rng(300 + seed), draws.n_draws
    basis = basis_for(np.array([1.0, 8.0, 8.0, 64.0]), np.array([1.0, 8.0, 300.0, 700.0]))
    ratios = {name: v * rng.lognormal(0.0, 0.1, n)
              for name, v in (("m_S", 2.0), ("r_F", 1.6), ("r_B", 0.5), ("r_C", 1.8))}  # fmt: skip
    return replace(
        draws,
        parameters=draws.parameters | ratios,
        slopes=rng.normal([0.5, 0.1, 0.1], 0.1, size=(n, 3)),
        discrepancy=Discrepancy(basis, 0.1 * rng.normal(size=(n, basis.size)), np.full(n, 0.1)),
    )


def brute_extended(draws, b, s, c, sla_ms):
    """As `brute`, from the definition of the extended draws; their formula has tests of its own."""
    features = draws.discrepancy.basis.features(np.array([b]), np.array([s]))[0]
    mu = saturation.latency(draws.parameters, b, s, c)
    mu = mu * np.exp(draws.discrepancy.weights @ features)
    h = 1.0 - b / s
    noise = np.array([s > b, (1.0 - h) * np.log(s / 16.0), h * np.log(s / 512.0)])
    variance = (draws.sigma * np.exp(draws.slopes @ noise)) ** 2
    variance = variance + (1.0 - features @ features) * draws.discrepancy.scale**2
    return special.stdtr(draws.nu, (1 - sla_ms / mu) / np.sqrt(variance))


def summary(per_draw, confident):
    if confident is None:
        return per_draw.mean()
    return np.quantile(per_draw, confident, method="inverted_cdf")


def assert_same_set(found, candidates, probabilities, risk):
    """Equal except where the table's error could decide."""
    for value, probability in zip(candidates, probabilities, strict=True):
        if abs(probability - risk) > ERROR:
            assert (value in found) == (probability <= risk), (value, probability)


def well_formed(found):
    flat = [bound for interval in found.intervals for bound in interval]
    gaps = pairwise(found.intervals)
    return flat == sorted(flat) and all(left[1] + 1 < right[0] for left, right in gaps)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("confident", [None, 0.9])
def test_tokens_are_the_exhaustive_set(seed, confident):
    draws = make_draws(seed)
    rng = np.random.default_rng(100 + seed)
    b, per_request = int(rng.integers(1, 20)), float(rng.uniform(0, 2_000))
    candidates = range(b, 901)
    # A limit near the middle of the range of latencies, so that sets begin and end inside.
    middle = np.quantile([location(draws, b, s, per_request * b).mean() for s in candidates], 0.4)
    sla, risk = 1.15 * float(middle), float(rng.uniform(0.01, 0.3))
    found = feasible_tokens(
        draws,
        batch_size=b,
        sla_ms=sla,
        risk=risk,
        context_per_request=per_request,
        max_total_tokens=900,
        confident=confident,
    )
    answers = [summary(brute(draws, b, s, per_request * b, sla), confident) for s in candidates]
    assert_same_set(found, candidates, answers, risk)
    assert well_formed(found)
    assert found.searched == (b, 900)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("confident", [None, 0.9])
def test_batches_are_the_exhaustive_set(seed, confident):
    draws = make_draws(seed)
    s = int(np.random.default_rng(200 + seed).integers(40, 600))
    candidates = range(1, min(s, 300) + 1)
    middle = np.quantile([location(draws, b, s, 5e3 + 50 * b).mean() for b in candidates], 0.4)
    sla = 1.15 * float(middle)
    found = feasible_batches(
        draws,
        total_tokens=s,
        sla_ms=sla,
        risk=0.1,
        context_tokens=5e3,
        context_per_request=50.0,
        max_batch_size=300,
        confident=confident,
    )
    answers = [summary(brute(draws, b, s, 5e3 + 50 * b, sla), confident) for b in candidates]
    assert_same_set(found, candidates, answers, 0.1)
    assert well_formed(found)
    assert found.searched == (1, min(s, 300))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("confident", [None, 0.9])
def test_sets_of_extended_draws_are_exhaustive(seed, confident):
    draws = extend(make_draws(seed), seed)
    b, s = 3 + seed, 200 + 20 * seed
    for found, steps in (
        (
            feasible_tokens(
                draws, batch_size=b, max_total_tokens=s, confident=confident, **QUESTION
            ),
            [(b, value) for value in range(b, s + 1)],
        ),
        (
            feasible_batches(draws, total_tokens=s, confident=confident, **QUESTION),
            [(value, s) for value in range(1, s + 1)],
        ),
    ):
        answers = [
            summary(brute_extended(draws, *step, 0.0, QUESTION["sla_ms"]), confident)
            for step in steps
        ]
        candidates = range(found.searched[0], found.searched[1] + 1)
        assert_same_set(found, candidates, answers, QUESTION["risk"])
        assert well_formed(found)


def test_the_nearest_step_time_has_the_discrepancy_in_it():
    draws = extend(make_draws(3), 3)
    slower = replace(
        draws, discrepancy=replace(draws.discrepancy, weights=draws.discrepancy.weights + 0.2)
    )
    features = draws.discrepancy.basis.features(np.full(593, 8.0), np.arange(8.0, 601.0))
    for one in (draws, slower):
        mu = np.array([saturation.latency(one.parameters, 8.0, s) for s in range(8, 601)])
        typical = np.median(mu * np.exp(features @ one.discrepancy.weights.T), axis=1)
        target = 1.00001 * float(np.median(typical))
        nearest = nearest_tokens(one, batch_size=8, target_ms=target, max_total_tokens=600)
        assert typical[nearest - 8] == pytest.approx(typical[typical <= target].max(), rel=1e-9)


def test_small_steps_that_are_too_slow_are_left_out():
    falls = make_draws(k_B=0.01, tau_B=0.5, w_0=1.0)
    batches = feasible_batches(falls, total_tokens=400, sla_ms=160.0, risk=0.1)
    assert 1 not in batches and not batches.empty and not batches.limited
    shaped = make_draws(w_0=100.0, k_S=0.01, k_B=1.0, P_max=20.0)
    tokens = feasible_tokens(shaped, batch_size=4, sla_ms=60.0, risk=0.1)
    assert 4 not in tokens and not tokens.empty and not tokens.limited


def test_region_is_the_exceedance_of_every_possible_cell():
    draws = make_draws(1)
    batch, tokens = np.array([1, 8, 64, 200]), np.array([1, 32, 128, 1_024])
    region = feasible_region(
        draws, batch_sizes=batch, total_tokens=tokens, context_per_request=500.0, **QUESTION
    )
    assert region.probability.shape == region.feasible.shape == (4, 4)
    for i, b in enumerate(batch):
        for j, s in enumerate(tokens):
            if s < b:
                assert np.isnan(region.probability[i, j]) and not region.feasible[i, j]
                continue
            exact = brute(draws, b, s, 500.0 * b, 40.0).mean()
            assert region.probability[i, j] == pytest.approx(exact, abs=ERROR)
            assert region.feasible[i, j] == (region.probability[i, j] <= 0.05)


def test_exceedance_broadcasts_and_bounds():
    draws = make_draws(n=100)
    limits = np.array([20.0, 40.0, 80.0])
    question = {"batch_size": 8, "total_tokens": 256, "sla_ms": limits}
    exact = np.array([brute(draws, 8, 256, 0.0, limit) for limit in limits])
    plain, bound = exceedance(draws, **question), exceedance(draws, confident=0.9, **question)
    np.testing.assert_allclose(plain, exact.mean(axis=1), rtol=0, atol=ERROR)
    np.testing.assert_allclose(bound, np.sort(exact)[:, 89], rtol=0, atol=ERROR)
    assert type(exceedance(draws, batch_size=8, total_tokens=256, sla_ms=40.0)) is float


@pytest.mark.parametrize("seed", SEEDS)
def test_sets_grow_with_the_risk_and_shrink_with_the_confidence(seed):
    draws = make_draws(seed)
    question = {"batch_size": 8, "sla_ms": 45.0, "max_total_tokens": 2_000}
    for confident in (None, 0.9):
        risks = [0.001, 0.01, 0.1, 0.5, 0.9]
        sets = [
            set(feasible_tokens(draws, risk=risk, confident=confident, **question))
            for risk in risks
        ]
        assert all(small <= large for small, large in pairwise(sets))
    sets = [
        set(feasible_tokens(draws, risk=0.1, confident=confident, **question))
        for confident in (0.99, 0.9, 0.5, 0.1)
    ]
    assert all(small <= large for small, large in pairwise(sets))


@pytest.mark.parametrize("seed", SEEDS)
def test_certainty_in_every_draw_implies_the_plain_answer(seed):
    draws = make_draws(seed)
    question = {"batch_size": 8, "sla_ms": 45.0, "risk": 0.1, "max_total_tokens": 2_000}
    plain = set(feasible_tokens(draws, **question))
    assert set(feasible_tokens(draws, confident=1 - 0.5 / draws.n_draws, **question)) <= plain
    # For draws that differ little, as these do, nine in ten already is the stricter question.
    assert set(feasible_tokens(draws, confident=0.9, **question)) <= plain


def test_a_few_slow_draws_can_fail_the_plain_question_alone():
    draws = make_draws(n=100, spread=0.0, k_B=1.0, w_0=1.0)
    draws.parameters["tau_0"][:8] += 1e3
    question = {"batch_size": 4, "sla_ms": 200.0, "risk": 0.05, "max_total_tokens": 64}
    assert feasible_tokens(draws, **question).empty
    assert len(feasible_tokens(draws, confident=0.9, **question)) == 61


def test_nothing_fits():
    draws = make_draws()
    found = feasible_tokens(draws, batch_size=4, sla_ms=1.0, risk=0.01)
    assert found.empty and found.intervals == () and len(found) == 0 and 4 not in found
    assert found.largest is None and found.smallest is None and not found.limited
    assert largest_tokens(draws, batch_size=4, sla_ms=1.0, risk=0.01) is None
    assert largest_batch(draws, total_tokens=64, sla_ms=1.0, risk=0.01) is None


def test_everything_fits():
    draws = make_draws(1)
    found = feasible_tokens(draws, batch_size=4, sla_ms=1e9, risk=0.01, max_total_tokens=100)
    assert found.intervals == ((4, 100),) and found.limited and len(found) == 97
    assert largest_tokens(draws, batch_size=4, sla_ms=1e9, risk=0.01, max_total_tokens=9) == 9
    assert largest_batch(draws, total_tokens=64, sla_ms=1e9, risk=0.01) == 64


def test_a_set_knows_its_members():
    found = FeasibleSet(((2, 3), (7, 7)), (1, 9))
    assert list(found) == [2, 3, 7] and len(found) == 3
    assert (found.smallest, found.largest, found.limited) == (2, 7, False)
    assert 3 in found and 7.0 in found and 5 not in found and 2.5 not in found


@pytest.mark.parametrize("seed", SEEDS)
def test_nearest_tokens_come_closest_from_below(seed):
    draws = make_draws(seed)
    typical = np.array([np.median(location(draws, 8, s, 800.0)) for s in range(8, 2_001)])
    target = 1.00001 * float(np.median(typical))  # not a latency itself, where rounding decides
    nearest = nearest_tokens(
        draws, batch_size=8, target_ms=target, context_per_request=100.0, max_total_tokens=2_000
    )
    below = np.where(typical <= target, typical, -np.inf)
    assert typical[nearest - 8] == pytest.approx(below.max(), rel=1e-12)
    assert nearest_tokens(draws, batch_size=8, target_ms=0.1) is None


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"sla_ms": 0.0}, "sla_ms=0.0"),
        ({"sla_ms": float("nan")}, "sla_ms=nan"),
        ({"risk": 0.0}, "risk=0.0"),
        ({"risk": 1.0}, "risk=1.0"),
        ({"confident": 1.0}, "confident=1.0"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"batch_size": 2.5}, "batch_size=2.5"),
        ({"max_total_tokens": 7}, "max_total_tokens=7"),
        ({"context_tokens": -1.0}, "context_tokens"),
    ],
)
def test_impossible_questions_are_refused(wrong, message):
    question = {"batch_size": 8, **QUESTION, **wrong}
    with pytest.raises(InputError, match=message) as refusal:
        feasible_tokens(make_draws(), **question)
    assert "\n" not in str(refusal.value) and "expected" in str(refusal.value)


def test_fewer_tokens_than_requests_are_refused():
    with pytest.raises(InputError, match="total_tokens >= batch_size"):
        exceedance(make_draws(), batch_size=8, total_tokens=7, sla_ms=40.0)
    with pytest.raises(InputError, match="total_tokens=0"):
        feasible_batches(make_draws(), total_tokens=0, **QUESTION)
    with pytest.raises(InputError, match="target_ms"):
        nearest_tokens(make_draws(), batch_size=8, target_ms=-1.0)
