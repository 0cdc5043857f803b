import numpy as np
import pytest
from plain_engine import PlainEngine

from bayeslat.engine import EngineSettings, StepTimes, Workload, kernel, simulate_engine
from bayeslat.errors import InputError


def workload(seed=0, n=60, *, rate=20.0, prompts=(1, 300), outputs=(1, 40)):
    return Workload.poisson(
        rate,
        n=n,
        prompt_tokens=lambda rng, n: rng.integers(*prompts, n),
        output_tokens=lambda rng, n: rng.integers(*outputs, n),
        seed=seed,
    )


def triples(served):
    return list(
        zip(
            served.arrival_ms,
            served.prompt_tokens.tolist(),
            served.output_tokens.tolist(),
            strict=True,
        )
    )


def linear(b, s, c):
    return 2.0 + 0.5 * b + 0.01 * s + 1e-3 * c


SMALL = {"kv_capacity_tokens": 700, "max_num_seqs": 16}
APART = {"chunked_prefill": False, "mixed_steps": False}
THRESHOLD = {"prefill_order": "threshold", "max_num_seqs": 16, "max_waiting_steps": 8}
CASES = {
    "roomy": {},
    "few places": {"max_num_seqs": 4},
    "small budget": {"max_num_batched_tokens": 64, "max_num_seqs": 16},
    "small chunks": {"long_prefill_token_threshold": 30, "max_num_seqs": 16},
    "whole prompts": {"chunked_prefill": False, "max_num_batched_tokens": 200, "max_num_seqs": 16},
    "prompts apart": {**APART, "max_num_seqs": 16},
    "decodes first": {**APART, "max_num_seqs": 16, "prefill_order": "last"},
    "decodes first, small budget": {
        **APART, "max_num_seqs": 16, "prefill_order": "last", "max_num_batched_tokens": 200,
    },
    "threshold": {**APART, **THRESHOLD},
    "threshold, few wait": {**APART, **THRESHOLD, "waiting_served_ratio": 0.3},
    "threshold, seldom": {**APART, **THRESHOLD, "waiting_served_ratio": 9.0},
    "patience": {"max_num_seqs": 3, "patience_ms": 150.0},
    "cache runs out": SMALL,
    "cache runs out, blocks": {**SMALL, "kv_capacity_tokens": 720, "block_size": 16},
    "cache runs out, small chunks": {**SMALL, "long_prefill_token_threshold": 30},
    "cache runs out, prompts apart": {**SMALL, **APART},
    "cache runs out, patience": {**SMALL, "patience_ms": 150.0},
    "cache runs out, decodes first": {**SMALL, **APART, "prefill_order": "last"},
    "cache runs out, threshold": {**SMALL, **APART, **THRESHOLD, "waiting_served_ratio": 0.3},
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("seed", range(3))
def test_engine_is_the_one_written_down_by_hand(case, seed, linear_times):
    served = workload(seed, rate=60.0)
    settings = EngineSettings(
        **({"max_num_seqs": 64, "max_num_batched_tokens": 1024, "block_size": 1} | CASES[case])
    )
    records = simulate_engine(served, settings, linear_times(), n_logged_steps=5_000)
    plain = PlainEngine(triples(served), time_of=linear, settings=settings)
    found = plain.serve()
    np.testing.assert_allclose(records.step_log().to_numpy(), np.array(plain.log), rtol=1e-9)
    for row, name in ((kernel.FIRST, "first"), (kernel.FINISH, "finish")):
        np.testing.assert_allclose(records.times[0, row], found[name], rtol=1e-9)
    np.testing.assert_allclose(records.times[0, kernel.OVERFLOWED], found["left"], rtol=1e-9)
    assert (records.total("preemptions").value > 0) == case.startswith("cache")
    assert records.overflowed.any() == ("patience" in case)


def test_every_token_is_computed_once_unless_preempted(linear_times):
    served = workload(1)
    records = simulate_engine(
        served, EngineSettings(max_num_seqs=64, max_num_batched_tokens=1024), linear_times(),
        n_logged_steps=5_000,
    )  # fmt: skip
    log = records.step_log()
    assert log.total_tokens.sum() == (served.prompt_tokens + served.output_tokens - 1).sum()
    assert len(log) == records.total("n_steps").value
    assert (log.total_tokens >= log.batch_size).all()
    assert records.total("recomputed_tokens").value == 0
    assert records.gaps.sum() == (served.output_tokens - 1).sum()


def test_overhead_is_added_once_a_step(linear_times):
    served = Workload([0.0], [10], [5])
    settings = EngineSettings(max_num_seqs=1, max_num_batched_tokens=64)
    times = linear_times(context=0.0)
    plain = simulate_engine(served, settings, times)
    slower = simulate_engine(served, settings, times, overhead_ms=3.0)
    assert slower.e2e_ms[0, 0] - plain.e2e_ms[0, 0] == pytest.approx(5 * 3.0)
    assert slower.ttft_ms[0, 0] == pytest.approx(2.0 + 0.5 + 0.1 + 3.0)
    assert slower.tpot_ms[0, 0] == pytest.approx(2.5 + 0.01 + 3.0)


def test_static_batch_is_kept_until_its_last_has_ended(linear_times):
    served = Workload([0.0, 0.0, 1.0], [4, 4, 4], [2, 5, 1])
    settings = EngineSettings(max_num_seqs=8, max_num_batched_tokens=64, batching="static")
    records = simulate_engine(served, settings, linear_times(context=0.0), n_logged_steps=100)
    log = records.step_log()
    # Both prompts, then four steps of two requests although one has ended, then the third alone.
    assert log.batch_size.tolist() == [2, 2, 2, 2, 2, 1]
    assert log.total_tokens.tolist() == [8, 2, 2, 2, 2, 4]
    assert records.total("idle_slots").value == 3
    end = 3.08 + 4 * 3.02
    assert records.queue_ms[0].tolist() == pytest.approx([0.0, 0.0, end - 1.0])


def test_prompts_without_chunks_wait_for_a_step_that_holds_them(linear_times):
    served = Workload([0.0, 0.0], [50, 100], [1, 1])
    settings = EngineSettings(max_num_seqs=8, max_num_batched_tokens=64, chunked_prefill=False)
    records = simulate_engine(served, settings, linear_times(context=0.0), n_logged_steps=9)
    assert records.step_log().total_tokens.tolist() == [50, 100]


@pytest.mark.parametrize(
    ("family", "nu"),
    [("student_t", 5.0), ("student_t", np.inf), ("normal", np.inf), ("lognormal", np.inf)],
)
def test_noise_of_a_step_has_the_moments_of_its_family(family, nu, linear_times):
    n, sigma = 40_000, 0.1
    served = Workload(np.arange(n) * 100.0, np.ones(n), np.ones(n))
    settings = EngineSettings(max_num_seqs=1, max_num_batched_tokens=1)
    records = simulate_engine(
        served, settings, linear_times(sigma=sigma, nu=nu, family=family), seed=3
    )
    z = records.ttft_ms[0] / linear(1, 1, 1)
    z = np.log(z) if family == "lognormal" else z - 1.0
    sd = sigma * (np.sqrt(nu / (nu - 2.0)) if np.isfinite(nu) else 1.0)
    kurtosis = 3.0 + 6.0 / (nu - 4.0)
    assert abs(z.mean()) < 4 * sd / np.sqrt(n)
    spread = sd**2 * np.sqrt((kurtosis - 1.0) / n)
    assert abs(z.var() - sd**2) < 4 * spread


def test_runs_have_their_own_noise_and_a_seed_brings_them_back(linear_times):
    one = linear_times(sigma=0.2)
    runs = StepTimes(
        one.batch_nodes, one.extra_nodes,
        *(np.repeat(a, 3, axis=0) for a in (one.location, one.per_position, one.sigma)),
        np.full(3, np.inf), "normal",
    )  # fmt: skip
    settings = EngineSettings(max_num_seqs=64, max_num_batched_tokens=1024)
    records = simulate_engine(workload(2), settings, runs, seed=5)
    again = simulate_engine(workload(2), settings, runs, seed=5)
    np.testing.assert_array_equal(records.times, again.times)
    assert (records.e2e_ms[0] != records.e2e_ms[1]).any()
    assert records.percentile("e2e_ms", 0.5).lower < records.percentile("e2e_ms", 0.5).upper


def test_requests_that_wait_too_long_leave(linear_times):
    n = 200
    served = Workload(np.arange(n) * 1.0, np.full(n, 10), np.full(n, 2))
    settings = EngineSettings(max_num_seqs=1, max_num_batched_tokens=64, patience_ms=20.0)
    records = simulate_engine(served, settings, linear_times(context=0.0))
    gone = records.overflowed[0]
    assert 0 < gone.sum() < n
    assert np.isinf(records.e2e_ms[0, gone]).all()
    # Whoever is served started no later than the patience allows.
    assert (records.queue_ms[0, ~gone] <= 20.0 + 1e-9).all()
    overflow = records.times[0, 4, gone]
    np.testing.assert_allclose(overflow, served.arrival_ms[gone] + 20.0)


def queue_times(rate_per_ms):
    """A server whose service is one millisecond a prompt token, and nothing else."""
    return StepTimes.from_function(
        lambda b, s: rate_per_ms * s, max_batch_size=1, max_total_tokens=2**17
    )


def mean_wait(arrivals_per_s, prompts, seed):
    """Mean wait over batches, with its standard error."""
    n = 200_000
    served = Workload.poisson(
        arrivals_per_s, n=n, prompt_tokens=prompts, output_tokens=1, seed=seed
    )
    settings = EngineSettings(
        max_num_seqs=1, max_num_batched_tokens=2**16, long_prefill_token_threshold=0
    )
    records = simulate_engine(served, settings, queue_times(1e-3))
    batches = records.queue_ms[0].reshape(50, -1).mean(axis=1)
    return batches.mean(), batches.std(ddof=1) / np.sqrt(batches.size)


SERVICES = {
    # Mean and second moment of the service in ms; tokens are a thousandth of it.
    "M/M/1": (lambda rng, n: np.ceil(rng.exponential(5_000.0, n)), 5.0, 50.0),
    "M/D/1": (5_000, 5.0, 25.0),
    "M/G/1": (lambda rng, n: np.where(rng.random(n) < 0.9, 2_000, 32_000), 5.0, 106.0),
}


@pytest.mark.parametrize("name", SERVICES)
def test_an_engine_of_one_place_is_a_queue_of_one_server(name):
    prompts, mean, second = SERVICES[name]
    arrivals = 0.12  # a millisecond: rho = 0.6
    found, error = mean_wait(1e3 * arrivals, prompts, seed=7)
    expected = arrivals * second / (2.0 * (1.0 - arrivals * mean))  # Pollaczek-Khinchine
    assert error < 0.1 * expected
    assert abs(found - expected) < 4.0 * error


def test_an_engine_without_chunks_is_a_bulk_queue():
    # One output token and equal prompts: what waits is served together, at most b at once.
    n, b, launch, each, rate = 200_000, 4, 3.0, 1.0, 0.45
    served = Workload.poisson(1e3 * rate, n=n, prompt_tokens=1, output_tokens=1, seed=1)
    times = StepTimes.from_function(
        lambda batch, tokens: launch + each * batch, max_batch_size=b, max_total_tokens=b
    )
    settings = EngineSettings(max_num_seqs=b, max_num_batched_tokens=b)
    records = simulate_engine(served, settings, times)
    # The same queue by Lindley's recursion for batches.
    arrival, now, first, waits = served.arrival_ms, 0.0, 0, np.empty(n)
    while first < n:
        now = max(now, arrival[first])
        last = min(int(np.searchsorted(arrival, now, side="right")), first + b)
        waits[first:last] = now - arrival[first:last]
        now += launch + each * (last - first)
        first = last
    np.testing.assert_allclose(records.queue_ms[0], waits, atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "about"),
    [
        (
            EngineSettings(max_num_seqs=8, max_num_batched_tokens=64, kv_capacity_tokens=32),
            "KV cache",
        ),
        (EngineSettings(max_num_seqs=128, max_num_batched_tokens=1024), "cover"),
    ],
)
def test_what_cannot_be_served_is_refused(settings, about, linear_times):
    with pytest.raises(InputError, match=about):
        simulate_engine(Workload([0.0], [100], [5]), settings, linear_times())


def test_requests_that_have_ended_elsewhere_are_refused(linear_times):
    settings = EngineSettings(max_num_seqs=8, max_num_batched_tokens=64)
    with pytest.raises(InputError, match="one token"):
        simulate_engine(
            Workload([0.0], [10], [1]), settings, linear_times(), first_token_ms=[np.array([0.0])]
        )


def test_a_closed_loop_has_patience(linear_times):
    settings = EngineSettings(max_num_seqs=8, max_num_batched_tokens=64, patience_ms=5.0)
    with pytest.raises(InputError, match="patience"):
        simulate_engine(
            Workload.closed_loop(2, n=4, prompt_tokens=1, output_tokens=1), settings, linear_times()
        )


@pytest.mark.parametrize("overhead", [-1.0, np.nan, np.inf])
def test_overhead_must_be_a_time(overhead, linear_times):
    settings = EngineSettings(max_num_seqs=8, max_num_batched_tokens=64)
    with pytest.raises(InputError, match="overhead_ms"):
        simulate_engine(Workload([0.0], [5], [5]), settings, linear_times(), overhead_ms=overhead)


def test_workloads_of_runs_must_match_the_runs(linear_times):
    settings = EngineSettings(max_num_seqs=8, max_num_batched_tokens=64)
    with pytest.raises(InputError, match="one for each run"):
        simulate_engine([workload(), workload(1)], settings, linear_times())


def test_separate_prefills_pause_the_others(linear_times):
    served = Workload([0.0, 4.0], [10, 20], [4, 2])
    settings = EngineSettings(
        max_num_seqs=8, max_num_batched_tokens=64, chunked_prefill=False, mixed_steps=False
    )
    records = simulate_engine(served, settings, linear_times(context=0.0), n_logged_steps=20)
    log = records.step_log()
    # A prompt, a token, the second prompt alone, then both, then who is left.
    assert log.total_tokens.tolist() == [10, 1, 20, 2, 1]
    assert log.batch_size.tolist() == [1, 1, 1, 2, 1]


def test_a_closed_loop_keeps_its_users_busy(linear_times):
    served = Workload.closed_loop(
        5, n=200, prompt_tokens=[5, 9], output_tokens=[3, 8], think_ms=7.0
    )
    settings = EngineSettings(max_num_seqs=64, max_num_batched_tokens=1024)
    records = simulate_engine(served, settings, linear_times())
    arrival, finish = records.arrival_ms[0], np.sort(records.finish_ms[0])
    assert (arrival[:5] == 0.0).all()
    # The k-th answer brings the (k + users)-th request.
    np.testing.assert_allclose(arrival[5:], finish[:195] + 7.0)
    away = (arrival[:, None] <= arrival) & (records.finish_ms[0][:, None] > arrival)
    assert away.sum(axis=0).max() <= 5
    assert records.running().value <= 5.0


def test_a_closed_loop_obeys_littles_law(linear_times):
    served = Workload.closed_loop(8, n=4_000, prompt_tokens=10, output_tokens=5, think_ms=20.0)
    settings = EngineSettings(max_num_seqs=2, max_num_batched_tokens=64)
    records = simulate_engine(served, settings, linear_times())
    rate = records.n_requests / (1e3 * records.duration_s[0])
    assert rate * (records.e2e_ms.mean() + 20.0) == pytest.approx(8.0, rel=0.01)
