import math
from dataclasses import fields
from itertools import pairwise

import numpy as np
import pytest
from by_steps import (
    assert_normal_rows,
    decode_by_hand,
    make_draws,
    prefill_by_hand,
    step,
    sum_by_hand,
)

from bayeslat.decisions import steps
from bayeslat.decisions.phases import (
    end_to_end,
    inter_token_latency,
    prefill_time,
    request_phases,
    time_per_output_token,
    time_to_first_token,
)
from bayeslat.errors import InputError
from bayeslat.predictive import LatencyDistribution, SampledDistribution
from bayeslat.predictive.sampled import missing_normals, repeated_shares

REQUEST = {"prompt_tokens": 900, "output_tokens": 60, "batch_size": 5, "chunk_tokens": 256}
SMALL = {"n_replicates": 200}
INDEPENDENT = {"repeated_share": 0.0}
"""Noise that is new in every step."""


# Against sums over steps


@pytest.mark.parametrize("extended", [False, True])
@pytest.mark.parametrize(
    ("prompt", "chunk", "running", "context"),
    [(900, 256, 4, 1000.0), (768, 256, 0, 0.0), (1, 256, 3, 50.0), (5000, 64, 2, 300.0)],
)
def test_prefill_is_the_sum_of_its_chunks(extended, prompt, chunk, running, context):
    draws = make_draws(extended=extended)
    found = prefill_time(
        draws,
        prompt_tokens=prompt,
        chunk_tokens=chunk,
        running=running,
        running_context=context,
        **INDEPENDENT,
    )
    steps = prefill_by_hand(prompt, chunk, running, context)
    assert len(steps) == -(-prompt // chunk)
    assert_normal_rows(found.samples, *sum_by_hand(draws, steps))


@pytest.mark.parametrize("extended", [False, True])
@pytest.mark.parametrize("n_steps", [1, 30, 333])
def test_decode_is_the_mean_of_steps_with_growing_context(extended, n_steps):
    draws = make_draws(extended=extended, tau_C=1e-3)
    found = time_per_output_token(
        draws, batch_size=6, context_per_request=700.0, output_tokens=n_steps + 1, **INDEPENDENT
    )
    mean, std = sum_by_hand(draws, decode_by_hand(6, 700.0, n_steps))
    assert_normal_rows(found.samples, mean / n_steps, std / n_steps)


def test_a_request_is_simulated_step_by_step():
    """Quantiles of phases with Student-t noise against a loop over every step."""
    draws = make_draws(30, family="student_t", nu=6.0, sigma=0.2)
    rng, n = np.random.default_rng(1), 1_000

    def run(steps):
        total = 0.0
        for one in steps:
            mu, sd = (part[:, None] for part in step(draws, *one))
            total = total + np.maximum(mu + sd * rng.standard_t(6.0, (30, n)), 0.0)
        return total

    prefill = run(prefill_by_hand(900, 256, 4, 901.0))
    decode = run(decode_by_hand(5, 901.0, 59))
    direct = {"ttft": prefill, "tpot": decode / 59, "e2e": prefill + decode}
    found = request_phases(draws, **REQUEST, **INDEPENDENT)
    for name, samples in direct.items():
        answer = getattr(found, name)
        for q in (0.05, 0.5, 0.95, 0.99):
            # Parameters are the same on both sides, so that noise alone tells them apart.
            error = 4.0 * math.sqrt(2.0 * q * (1.0 - q) / samples.size)
            exceeded = (samples > answer.ppf(q)).mean()
            assert abs(exceeded - (1.0 - q)) < error + 0.02 * (1.0 - q), (name, q)


@pytest.mark.parametrize(
    ("family", "nu"), [("normal", np.inf), ("student_t", 6.0), ("lognormal", np.inf)]
)
def test_groups_of_steps_answer_as_every_step_alone(monkeypatch, family, nu):
    draws = make_draws(10, family=family, nu=nu, sigma=0.3, tau_C=1e-3)
    question = {"batch_size": 3, "context_per_request": 100.0, "output_tokens": 201} | INDEPENDENT
    grouped = time_per_output_token(draws, **question).samples
    monkeypatch.setattr(steps, "MAX_GROUPS", 10_000)
    alone = time_per_output_token(draws, **question, seed=1).samples
    n = grouped.shape[1]
    both = np.hypot(grouped.std(axis=1), alone.std(axis=1)) / math.sqrt(n)
    assert (np.abs(grouped.mean(axis=1) - alone.mean(axis=1)) < 4.0 * both).all()
    ratio = np.log(grouped.std(axis=1) / alone.std(axis=1))
    assert (np.abs(ratio) < 4.0 / math.sqrt(n)).all()
    assert abs(ratio.mean()) < 4.0 / math.sqrt(n * ratio.size)


def test_a_prompt_in_one_chunk_is_one_step():
    draws = make_draws(40, family="student_t", nu=4.0)
    found = prefill_time(draws, prompt_tokens=700, running=3, running_context=100.0)
    exact = LatencyDistribution(draws, 4.0, 703.0, 1_000.0)
    for q in (0.05, 0.5, 0.95, 0.99):
        error = 4.0 * math.sqrt(q * (1.0 - q) / found.samples.size)
        assert abs(exact.cdf(found.ppf(q)) - q) < error
    chunked = prefill_time(
        draws, prompt_tokens=700, chunk_tokens=700, running=3, running_context=100.0
    )
    np.testing.assert_array_equal(chunked.samples, found.samples)


def test_a_single_decode_step_is_exact():
    draws = make_draws()
    found = inter_token_latency(draws, batch_size=[1, 8], context_per_request=500.0)
    direct = LatencyDistribution(draws, [1, 8], [1, 8], [500.0, 4_000.0])
    np.testing.assert_array_equal(found.ppf(0.9), direct.ppf(0.9))
    two = time_per_output_token(draws, batch_size=8, context_per_request=500.0, output_tokens=2)
    assert abs(two.sf(direct.ppf(0.9)[1]) - 0.1) < 4.0 * math.sqrt(0.09 / two.samples.size)


# The two kinds of spread


def test_noise_averages_out_like_one_over_the_root_of_the_steps():
    draws = make_draws(10, tau_C=1e-12)
    spreads = [
        time_per_output_token(
            draws, batch_size=4, context_per_request=500.0, output_tokens=n + 1, **INDEPENDENT
        ).samples.std(axis=1)
        for n in (1, 100, 10_000)
    ]
    for few, many in pairwise(spreads):
        assert (np.abs(few / many / 10.0 - 1.0) < 4.0 * math.sqrt(1.0 / 1_000)).all()


def test_what_is_missed_does_not_average_out():
    one = make_draws(extended=True).take([0] * 400)
    far = {"batch_size": 3_000, "context_per_request": 10.0} | INDEPENDENT
    relative = []
    for n in (2, 100_000):
        samples = time_per_output_token(one, **far, output_tokens=n, **SMALL).samples
        rows = samples.mean(axis=1)
        relative.append(rows.std() / rows.mean())
        assert np.corrcoef(rows, missing_normals(one))[0, 1] > 0.98
    # A scale of 0.2 that nothing informs so far away from the centres.
    assert relative == pytest.approx([0.2, 0.2], rel=4.0 / math.sqrt(2.0 * 400))
    assert samples.std(axis=1).max() < 2e-3 * rows.mean()
    near = time_per_output_token(
        one, batch_size=8, context_per_request=10.0, output_tokens=1_000, **SMALL, **INDEPENDENT
    )
    assert near.samples.mean(axis=1).std() < 0.05 * near.mean()


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_a_repeated_share_of_the_noise_does_not_average_out(share):
    draws = make_draws(spread=0.0, sigma=0.1, tau_C=1e-12).take([0] * 400)
    question = {"batch_size": 4, "context_per_request": 500.0, "output_tokens": 10_001}
    samples = time_per_output_token(draws, **question, **SMALL, repeated_share=share).samples
    sigma, rows = draws.sigma[0], np.log(samples.mean(axis=1))
    assert rows.std() == pytest.approx(sigma * math.sqrt(share), rel=4 / math.sqrt(800), abs=1e-3)
    within = (samples.std(axis=1) / samples.mean(axis=1)).mean()
    assert within == pytest.approx(sigma * math.sqrt(1.0 - share) / 100.0, rel=0.05, abs=1e-9)


def test_the_repeated_share_is_unknown_unless_stated():
    draws = make_draws(200)
    shares = np.sort(repeated_shares(draws))
    assert (np.abs(shares - (np.arange(200) + 0.5) / 200) <= 0.5 / 200).all()
    assert (repeated_shares(draws, 0.25) == 0.25).all()
    single = {"prompt_tokens": 300, **SMALL}
    np.testing.assert_array_equal(
        prefill_time(draws, **single).samples, prefill_time(draws, **single, **INDEPENDENT).samples
    )
    for wrong in (-0.1, 1.1, math.nan):
        with pytest.raises(InputError, match="repeated_share"):
            prefill_time(draws, **single, repeated_share=wrong)


def test_answers_to_different_questions_are_joint_in_what_is_missed():
    one = make_draws(extended=True).take([0] * 50)
    far = {"running": 2_000, "prompt_tokens": 9_000}
    rows = [
        prefill_time(one, **far, **SMALL).samples.mean(axis=1),
        time_per_output_token(
            one, batch_size=3_000, context_per_request=0.0, output_tokens=9, seed=5, **SMALL
        ).samples.mean(axis=1),
    ]
    assert np.corrcoef(rows)[0, 1] > 0.98


def test_credible_intervals_are_those_of_the_draws_own_answers():
    draws = make_draws(200, extended=True)
    steps = decode_by_hand(6, 700.0, 99)
    mean, std = sum_by_hand(draws, steps)
    answer = time_per_output_token(
        draws, batch_size=6, context_per_request=700.0, output_tokens=100, **INDEPENDENT
    ).mean(credible=0.8)
    error = 4.0 * std.max() / 99 / math.sqrt(1_000)
    expected = (mean.mean(), *np.quantile(mean, [0.1, 0.9]))
    assert tuple(answer) == pytest.approx(np.array(expected) / 99, abs=error)
    assert answer.upper - answer.lower > 20.0 * error


# How phases fit together


def test_phases_of_a_request_belong_together():
    draws = make_draws(extended=True)
    wait = SampledDistribution(np.random.default_rng(2).exponential(30.0, (20, 1_000)))
    found = request_phases(draws, **REQUEST, queueing=wait, step_overhead_ms=0.5)
    np.testing.assert_allclose(found.ttft.samples, wait.samples + found.prefill.samples)
    np.testing.assert_allclose(found.e2e.samples, found.ttft.samples + 59 * found.tpot.samples)
    whole = end_to_end(draws, **REQUEST, queueing=wait, step_overhead_ms=0.5)
    np.testing.assert_allclose(whole.samples, found.e2e.samples)
    first = {"running": 4, "running_context": 901.0, "prompt_tokens": 900, "chunk_tokens": 256}
    alone = time_to_first_token(draws, **first, queueing=wait, step_overhead_ms=0.5)
    np.testing.assert_allclose(alone.samples, found.ttft.samples)
    assert {field.name for field in fields(found)} == {"prefill", "ttft", "tpot", "e2e"}


def test_a_single_output_token_leaves_with_the_prefill():
    draws = make_draws()
    question = {name: value for name, value in REQUEST.items() if name != "output_tokens"}
    whole = end_to_end(draws, **question, output_tokens=1, context_per_request=100.0)
    first = prefill_time(
        draws, prompt_tokens=900, chunk_tokens=256, running=4, running_context=100.0
    )
    np.testing.assert_array_equal(whole.samples, first.samples)


def test_a_first_decode_step_can_be_counted_in():
    draws = make_draws()
    question = {"prompt_tokens": 300, "running": 7, "running_context": 200.0}
    found = time_to_first_token(draws, **question, first_decode=True)
    steps = [*prefill_by_hand(300, 300, 7, 200.0), (8, 8, 301 + 7 * 200)]
    assert_normal_rows(found.samples, *sum_by_hand(draws, steps))


def test_a_wait_without_end_is_a_first_token_without_end():
    draws, wait = make_draws(), np.zeros((20, 200))
    wait[15:] = np.inf
    found = request_phases(draws, **REQUEST, **SMALL, queueing=SampledDistribution(wait))
    assert found.ttft.ppf(0.76) == found.e2e.mean() == np.inf
    assert np.isfinite([found.ttft.ppf(0.74), found.tpot.mean(), found.prefill.mean()]).all()
    assert found.e2e.sf(1e9) == pytest.approx(0.25)


def test_overhead_is_added_once_a_step():
    draws = make_draws()
    overhead = np.linspace(0.0, 2.0, 20)
    plain = request_phases(draws, **REQUEST)
    slower = request_phases(draws, **REQUEST, step_overhead_ms=overhead)
    for name, n_steps in (("prefill", 4), ("ttft", 4), ("tpot", 1), ("e2e", 63)):
        added = getattr(slower, name).samples - getattr(plain, name).samples
        np.testing.assert_allclose(added, np.outer(n_steps * overhead, np.ones(1_000)), atol=1e-9)


def test_thinning_keeps_rows_with_their_draws():
    draws = make_draws(101, sigma=1e-6, extended=True)
    overhead = np.linspace(0.0, 50.0, 101)
    question = {"prompt_tokens": 800, "step_overhead_ms": overhead, "n_replicates": 2}
    whole = prefill_time(draws, **question, max_draws=101).samples
    thin = prefill_time(draws, **question, max_draws=11).samples
    assert thin.shape == (11, 2)
    np.testing.assert_allclose(thin[:, 0], whole[::10, 0], rtol=1e-4)


def test_seeds_decide_the_noise():
    draws = make_draws()
    one, same, other = (
        prefill_time(draws, prompt_tokens=9, seed=seed, **SMALL).samples for seed in (3, 3, 4)
    )
    np.testing.assert_array_equal(one, same)
    assert (one != other).mean() > 0.99


@pytest.mark.parametrize(
    ("change", "slower"),
    [
        ({"prompt_tokens": 1_800}, {"prefill", "ttft", "e2e", "tpot"}),
        ({"output_tokens": 600}, {"e2e", "tpot"}),
        ({"batch_size": 50}, {"prefill", "ttft", "tpot", "e2e"}),
        ({"chunk_tokens": 64}, {"prefill", "ttft", "e2e"}),
        ({"context_per_request": 20_000.0}, {"prefill", "ttft", "tpot", "e2e"}),
    ],
)
def test_more_work_takes_longer(change, slower):
    draws = make_draws()
    plain, more = request_phases(draws, **REQUEST), request_phases(draws, **(REQUEST | change))
    for name in ("prefill", "ttft", "tpot", "e2e"):
        before, after = (getattr(phase, name).mean() for phase in (plain, more))
        if name in slower:
            assert after > 1.01 * before, name
        else:
            assert after == pytest.approx(before, rel=3e-3), name


def test_noise_of_different_questions_is_independent():
    draws = make_draws(10)
    short, long = (prefill_time(draws, prompt_tokens=n).samples for n in (300, 500))
    np.testing.assert_array_equal(short, prefill_time(draws, prompt_tokens=300).samples)
    apart = [np.corrcoef(a, b)[0, 1] for a, b in zip(short, long, strict=True)]
    assert np.abs(apart).max() < 4.5 / math.sqrt(1_000)
    other = prefill_time(draws, prompt_tokens=300, seed=1).samples
    again = [np.corrcoef(a, b)[0, 1] for a, b in zip(short, other, strict=True)]
    assert np.abs(again).max() < 4.5 / math.sqrt(1_000)


# What is refused


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"prompt_tokens": 0}, "prompt_tokens=0"),
        ({"prompt_tokens": 10.5}, "prompt_tokens=10.5"),
        ({"prompt_tokens": math.nan}, "prompt_tokens=nan"),
        ({"output_tokens": 0}, "output_tokens=0"),
        ({"output_tokens": 1}, "expected at least 2"),
        ({"chunk_tokens": 0}, "chunk_tokens=0"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"context_per_request": -1.0}, "context_per_request=-1"),
        ({"context_per_request": math.inf}, "context_per_request=inf"),
        ({"n_replicates": 0}, "n_replicates=0"),
        ({"max_draws": 0}, "max_draws=0"),
        ({"step_overhead_ms": -0.1}, "step_overhead_ms=-0.1"),
        ({"step_overhead_ms": math.nan}, "step_overhead_ms=nan"),
        ({"step_overhead_ms": np.zeros(7)}, "one for each of 20 draws"),
        ({"queueing": SampledDistribution(np.zeros((20, 7)))}, "set max_draws and n_replicates"),
    ],
)
def test_impossible_requests_are_refused_in_one_line(fault, message):
    with pytest.raises(InputError, match=message) as refusal:
        request_phases(make_draws(), **(REQUEST | fault))
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("fault", "message"),
    [({"running": -1}, "running=-1"), ({"running_context": -1.0}, "running_context=-1")],
)
def test_impossible_neighbours_are_refused(fault, message):
    with pytest.raises(InputError, match=message):
        prefill_time(make_draws(), **({"prompt_tokens": 10} | fault))


def test_one_output_token_has_no_time_per_output_token():
    with pytest.raises(InputError, match="ask for time_to_first_token"):
        time_per_output_token(make_draws(), batch_size=1, context_per_request=1.0, output_tokens=1)
