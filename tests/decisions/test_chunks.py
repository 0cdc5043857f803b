import math
from dataclasses import replace

import numpy as np
import pytest

from bayeslat.decisions.chunks import best_chunk, chunk_tradeoff
from bayeslat.decisions.phases import prefill_time
from bayeslat.discrepancy import Discrepancy, basis_for
from bayeslat.errors import InputError
from bayeslat.predictive import DeploymentDraws, LatencyDistribution
from bayeslat.predictive.sampled import missing_normals
from bayeslat.schema import Deployment

BASIS = basis_for(np.array([1.0, 8.0, 5.0]), np.array([1.0, 8.0, 260.0]))
SIZES = np.array([64, 100, 256, 500, 1_000, 2_000])
PROMPT = {"prompt_tokens": 1_000, "running": 6, "running_context": 700.0}
LIMIT = {"tpot_limit_ms": 40.0, "risk": 0.05}


def make_draws(n=60, *, family="student_t", nu=5.0, extended=True, **fixed):
    rng = np.random.default_rng(11)
    typical = {
        "P_max": 30.0,
        "k_S": 0.01,
        "w_1": 1.0,
        "tau_0": 5.0,
        "tau_B": 0.05,
        "tau_C": 1e-3,
        **fixed,
    }
    parameters = {name: value * rng.lognormal(0.0, 0.1, n) for name, value in typical.items()}
    sigma = 0.05 * rng.lognormal(0.0, 0.1, n)
    draws = DeploymentDraws(
        Deployment("H100-80GB", "llama-7b"), parameters, sigma, np.full(n, nu), family
    )
    if not extended:
        return draws
    weights = 0.05 * rng.normal(size=(n, BASIS.size))
    return replace(draws, discrepancy=Discrepancy(BASIS, weights, np.full(n, 0.1)))


def expected_step(draws, b, s, c):
    """Expected latency of one step in each draw, from scratch."""
    p = draws.parameters
    mu = p["tau_0"] + p["w_1"] * s / p["P_max"] / (1.0 - np.exp(-p["k_S"] * s))
    mu = mu + p["tau_B"] * b + p["tau_C"] * c
    if draws.discrepancy is None:
        return mu
    phi = BASIS.features(np.array([b]), np.array([s]))[0]
    missed = np.sqrt(1.0 - phi @ phi) * draws.discrepancy.scale * missing_normals(draws)
    return mu * np.exp(draws.discrepancy.weights @ phi + missed)


def prefill_by_hand(draws, chunk, overhead=0.0):
    """Expected time of the whole prefill in each draw, and its number of steps."""
    done, total, n_steps = 0, 0.0, 0
    while done < 1_000:
        new = min(chunk, 1_000 - done)
        done, n_steps = done + new, n_steps + 1
        total = total + expected_step(draws, 7, new + 6, done + 6 * 700) + overhead
    return total, n_steps


def last_step(draws, sizes):
    tokens = np.minimum(np.asarray(sizes, dtype=float), 1_000) + 6
    return LatencyDistribution(draws, 7.0, tokens, 1_000 + 6 * 700.0)


# Both sides


@pytest.mark.parametrize("extended", [False, True])
def test_prefill_is_the_expected_sum_of_its_chunks(extended):
    draws = make_draws(extended=extended)
    found = chunk_tradeoff(draws, chunk_sizes=SIZES, **PROMPT, credible=0.8, step_overhead_ms=0.7)
    for i, chunk in enumerate(SIZES):
        per_draw, n_steps = prefill_by_hand(draws, chunk, 0.7)
        bounds = np.quantile(per_draw, [0.1, 0.9])
        assert [part[i] for part in found.prefill_ms] == pytest.approx([per_draw.mean(), *bounds])
        speed = 1_000 / per_draw
        assert [part[i] for part in found.throughput] == pytest.approx(
            [speed.mean(), *np.quantile(speed, [0.1, 0.9])]
        )
        assert found.n_steps[i] == n_steps
    np.testing.assert_array_equal(found.chunk_tokens, SIZES)


def test_prefill_agrees_with_sampled_requests():
    draws = make_draws(nu=8.0)
    found = chunk_tradeoff(draws, chunk_sizes=[100, 256], **PROMPT)
    for i, chunk in enumerate([100, 256]):
        sampled = prefill_time(draws, **PROMPT, chunk_tokens=chunk, repeated_share=0.0)
        noise = sampled.samples.std(axis=1).mean() / math.sqrt(sampled.samples.size)
        assert abs(sampled.mean() - found.prefill_ms.value[i]) < 4.0 * noise


def test_jitter_is_the_quantile_of_a_step_with_a_chunk():
    draws = make_draws()
    found = chunk_tradeoff(draws, chunk_sizes=SIZES, **PROMPT, quantile=0.9, step_overhead_ms=0.7)
    exact = last_step(draws, SIZES).ppf(0.9, credible=0.9)
    np.testing.assert_allclose(found.step_ms, np.array(exact) + 0.7)
    alone = LatencyDistribution(draws, 6.0, 6.0, 6 * 700.0).ppf(0.9, credible=0.9)
    assert tuple(found.decode_ms) == pytest.approx(np.array(alone) + 0.7)


def test_larger_chunks_are_faster_and_shake_more():
    draws = make_draws(extended=False)
    found = chunk_tradeoff(draws, chunk_sizes=SIZES[:-1], **PROMPT)
    assert (np.diff(found.throughput.value) > 0.0).all()
    assert (np.diff(found.step_ms.value) > 0.0).all()
    assert (found.step_ms.value > found.decode_ms.value).all()
    beyond = chunk_tradeoff(draws, chunk_sizes=[1_000, 2_000], **PROMPT)
    for answer in (beyond.prefill_ms, beyond.step_ms):
        assert answer.value[0] == answer.value[1]


# The choice


@pytest.mark.parametrize("confident", [None, 0.9])
@pytest.mark.parametrize("limit", [21.0, 25.0, 30.0, 38.0])
@pytest.mark.parametrize("extended", [False, True])
def test_best_chunk_is_that_of_an_exhaustive_search(confident, limit, extended):
    draws = make_draws(extended=extended)
    sizes = np.arange(10, 1_001, 30)
    step = last_step(draws, sizes)
    broken = step.sf(limit) if confident is None else step.sf_upper(limit, confident=confident)
    fits = broken <= 0.05
    times = np.array([prefill_by_hand(draws, chunk)[0] for chunk in sizes])
    found = best_chunk(
        draws, tpot_limit_ms=limit, risk=0.05, chunk_sizes=sizes, confident=confident, **PROMPT
    )
    assert fits.any() and not fits.all()
    best = np.argmin(np.where(fits, times.mean(axis=1), np.inf))
    assert found.chunk_tokens == sizes[best]
    assert found.exceedance == pytest.approx(broken[best])
    assert tuple(found.prefill_ms) == pytest.approx(
        (times[best].mean(), *np.quantile(times[best], [0.05, 0.95]))
    )


def test_the_floor_says_what_could_be_kept():
    draws = make_draws()
    found = best_chunk(draws, tpot_limit_ms=2.0, risk=0.05, chunk_sizes=SIZES, **PROMPT)
    medians = last_step(draws, SIZES).median()
    least = int(np.argmin(medians))
    exact = last_step(draws, SIZES[least]).median(credible=0.9)
    assert found.chunk_tokens is found.prefill_ms is found.exceedance is None
    assert tuple(found.floor_ms) == pytest.approx(tuple(exact))
    assert found.floor_chunk == SIZES[least]
    assert str(found) == (
        f"no chunk meets the limit; the floor is {found.floor_ms:.3g} ms,"
        f" with chunks of {found.floor_chunk} tokens"
    )
    just_above = best_chunk(
        draws,
        tpot_limit_ms=found.floor_ms.value * 1.001,
        risk=0.5,
        chunk_sizes=SIZES,
        **PROMPT,
    )
    assert just_above.chunk_tokens == found.floor_chunk
    assert str(just_above).startswith(f"chunks of {found.floor_chunk} tokens, prefill")


def test_overhead_shifts_the_limit_and_favours_large_chunks():
    draws = make_draws(extended=False, P_max=1e4, k_S=10.0, tau_0=0.01, tau_B=1e-6, tau_C=1e-9)
    plain = best_chunk(draws, tpot_limit_ms=30.0, risk=0.05, **PROMPT)
    slower = best_chunk(draws, tpot_limit_ms=30.0, risk=0.05, step_overhead_ms=29.0, **PROMPT)
    assert plain.chunk_tokens == slower.chunk_tokens == 1_000
    assert slower.floor_ms.value == pytest.approx(plain.floor_ms.value + 29.0)
    none = best_chunk(draws, tpot_limit_ms=30.0, risk=0.05, step_overhead_ms=31.0, **PROMPT)
    assert none.chunk_tokens is None


def test_a_wider_limit_never_makes_the_prefill_slower():
    draws = make_draws()
    found = [
        best_chunk(draws, tpot_limit_ms=limit, risk=0.05, **PROMPT)
        for limit in (20.0, 30.0, 40.0, 60.0, 200.0)
    ]
    times = [choice.prefill_ms.value for choice in found]
    assert times == sorted(times, reverse=True)
    sure = best_chunk(draws, tpot_limit_ms=30.0, risk=0.05, confident=0.99, **PROMPT)
    assert sure.prefill_ms.value > found[1].prefill_ms.value
    assert [choice.limited for choice in found] == [False] * 5


def test_the_end_of_the_search_is_told():
    draws = make_draws()
    assert best_chunk(draws, tpot_limit_ms=500.0, risk=0.1, chunk_sizes=[64, 128], **PROMPT).limited
    whole = best_chunk(draws, tpot_limit_ms=500.0, risk=0.1, chunk_sizes=[64, 1_000], **PROMPT)
    assert whole.chunk_tokens == 1_000 and not whole.limited


def test_default_chunks_reach_the_prompt_or_a_bound():
    draws = make_draws(10, extended=False)
    generous = {"tpot_limit_ms": 1e6, "risk": 0.1, "running": 1, "running_context": 0.0}
    assert best_chunk(draws, prompt_tokens=5, **generous).chunk_tokens == 5
    assert best_chunk(draws, prompt_tokens=1_003, **generous).chunk_tokens == 1_003
    long = best_chunk(draws, prompt_tokens=100_000, **generous)
    assert long.chunk_tokens <= 8_192


def test_the_smallest_of_equally_fast_chunks_is_taken():
    draws = make_draws()
    sizes = [4_000, 1_000, 2_000]
    found = best_chunk(draws, tpot_limit_ms=500.0, risk=0.1, chunk_sizes=sizes, **PROMPT)
    assert found.chunk_tokens == 1_000


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"chunk_sizes": []}, "one or more whole numbers"),
        ({"chunk_sizes": [0, 16]}, "one or more whole numbers"),
        ({"chunk_sizes": [16.5]}, "one or more whole numbers"),
        ({"chunk_sizes": [[16]]}, "one or more whole numbers"),
        ({"chunk_sizes": [math.nan]}, "one or more whole numbers"),
        ({"prompt_tokens": 0}, "prompt_tokens=0"),
        ({"running": 0}, "running=0"),
        ({"running_context": -1.0}, "running_context=-1"),
        ({"step_overhead_ms": -1.0}, "step_overhead_ms=-1"),
        ({"credible": 90}, "credible=90"),
    ],
)
def test_impossible_questions_are_refused_in_one_line(fault, message):
    question = {"chunk_sizes": [64]} | PROMPT | fault
    for ask in (chunk_tradeoff, lambda draws, **q: best_chunk(draws, **LIMIT, **q)):
        with pytest.raises(InputError, match=message) as refusal:
            ask(make_draws(5), **question)
        assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"tpot_limit_ms": 0.0}, "tpot_limit_ms=0"),
        ({"tpot_limit_ms": math.inf}, "tpot_limit_ms=inf"),
        ({"risk": 0.0}, "risk=0"),
        ({"confident": 1.0}, "confident=1"),
    ],
)
def test_impossible_limits_are_refused(fault, message):
    with pytest.raises(InputError, match=message):
        best_chunk(make_draws(5), **(LIMIT | PROMPT | fault))
