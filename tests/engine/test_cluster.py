from dataclasses import replace

import numpy as np
import pytest

from bayeslat.engine import (
    EngineSettings,
    Pool,
    StepTimes,
    Transfer,
    Workload,
    serve_overflow,
    simulate_disaggregated,
    simulate_engine,
    simulate_pool,
)
from bayeslat.errors import InputError

SETTINGS = EngineSettings(max_num_seqs=8, max_num_batched_tokens=64)


def workload(n=40, seed=0):
    return Workload.poisson(
        20.0, n=n, prompt_tokens=lambda r, n: r.integers(1, 200, n),
        output_tokens=lambda r, n: r.integers(1, 20, n), seed=seed,
    )  # fmt: skip


def test_replicas_take_requests_in_turn(linear_times):
    served = workload()
    pool = Pool(SETTINGS, linear_times(), n_replicas=3)
    found = simulate_pool(served, pool)
    for k in range(3):
        alone = simulate_engine(served.select(slice(k, None, 3)), SETTINGS, linear_times())
        np.testing.assert_array_equal(found.times[:, :, k::3], alone.times)
    np.testing.assert_array_equal(found.prompt_tokens[0], served.prompt_tokens)
    assert found.gaps.sum() == (served.output_tokens - 1).sum()


def test_one_request_alone_takes_prefill_transfer_and_decode(linear_times):
    served = Workload([0.0], [100], [4])
    pool = Pool(SETTINGS, linear_times(context=0.0))
    found = simulate_disaggregated(served, pool, pool, Transfer(1e6, 10.0, latency_ms=2.0))
    ttft = (2.5 + 0.64) + (2.5 + 0.36)
    assert found.ttft_ms[0, 0] == pytest.approx(ttft)
    # 100 MB over 10 GB/s are 10 ms; then three tokens of one request.
    assert found.e2e_ms[0, 0] == pytest.approx(ttft + 2.0 + 10.0 + 3 * 2.51)
    assert found.tpot_ms[0, 0] == pytest.approx((12.0 + 3 * 2.51) / 3)


def test_prefill_apart_is_an_engine_of_prompts(linear_times):
    served = workload()
    pool = Pool(SETTINGS, linear_times())
    found = simulate_disaggregated(served, pool, pool, Transfer(1e5, 50.0))
    prompts = replace(served, output_tokens=np.ones(served.size))
    alone = simulate_engine(prompts, SETTINGS, linear_times())
    np.testing.assert_allclose(found.ttft_ms, alone.ttft_ms)
    assert np.isfinite(found.e2e_ms).all()
    single = served.output_tokens == 1
    np.testing.assert_allclose(found.e2e_ms[:, single], found.ttft_ms[:, single])
    moved = Transfer(1e5, 50.0).time_ms(served.prompt_tokens[~single])
    decodes = found.e2e_ms[0, ~single] - found.ttft_ms[0, ~single] - moved
    assert (decodes >= 2.5 * (served.output_tokens[~single] - 1)).all()
    assert found.gaps.sum() == (served.output_tokens - 1).sum()


def test_runs_keep_their_own_order(linear_times):
    served, one = workload(60), linear_times(sigma=0.3)
    runs = StepTimes(
        one.batch_nodes, one.extra_nodes,
        *(np.repeat(a, 4, axis=0) for a in (one.location, one.per_position, one.sigma)),
        np.full(4, np.inf), "normal",
    )  # fmt: skip
    pool = Pool(SETTINGS, runs, n_replicas=2)
    found = simulate_disaggregated(served, pool, pool, Transfer(1e5, 50.0), seed=3)
    assert found.times.shape == (4, 5, 60)
    assert (found.e2e_ms >= found.ttft_ms).all()
    assert (found.e2e_ms[0] != found.e2e_ms[1]).any()


def test_fallback_serves_in_turn(linear_times):
    n = 300
    served = Workload(np.arange(n) * 1.0, np.full(n, 10), np.full(n, 2))
    settings = EngineSettings(max_num_seqs=1, max_num_batched_tokens=64, patience_ms=20.0)
    left = simulate_engine(served, settings, linear_times(context=0.0))
    found = serve_overflow(left, 3.0, exponential=False)
    gone = np.flatnonzero(left.overflowed[0])
    now = 0.0
    for request in gone:  # Lindley's recursion
        now = max(now, left.times[0, 4, request]) + 3.0
        assert found.finish_ms[0, request] == pytest.approx(now)
    assert np.isfinite(found.e2e_ms).all()
    random = serve_overflow(left, 3.0, seed=1)
    kept = np.setdiff1d(np.arange(n), gone)
    np.testing.assert_array_equal(random.e2e_ms[:, kept], left.e2e_ms[:, kept])
    np.testing.assert_array_equal(random.ttft_ms[:, gone], random.e2e_ms[:, gone])


def test_closed_loops_are_refused_before_several_engines(linear_times):
    served = Workload.closed_loop(2, n=4, prompt_tokens=1, output_tokens=2)
    pool = Pool(SETTINGS, linear_times(), n_replicas=2)
    with pytest.raises(InputError, match="closed loop"):
        simulate_pool(served, pool)
    with pytest.raises(InputError, match="closed loop"):
        simulate_disaggregated(served, pool, pool, Transfer(1.0, 1.0))


@pytest.mark.parametrize(
    "wrong",
    [
        lambda t: Pool(SETTINGS, t, n_replicas=0),
        lambda t: Transfer(-1.0, 1.0),
        lambda t: Transfer(np.nan, 1.0),
        lambda t: Transfer(1.0, 0.0),
    ],
)
def test_wrong_clusters_are_refused(wrong, linear_times):
    with pytest.raises(InputError, match="expected"):
        wrong(linear_times())


def test_pools_of_different_runs_are_refused(linear_times):
    one = linear_times()
    two = StepTimes(
        one.batch_nodes, one.extra_nodes,
        *(np.repeat(a, 2, axis=0) for a in (one.location, one.per_position, one.sigma)),
        np.full(2, np.inf), "normal",
    )  # fmt: skip
    with pytest.raises(InputError, match="2 of decode"):
        simulate_disaggregated(
            workload(), Pool(SETTINGS, one), Pool(SETTINGS, two), Transfer(1.0, 1.0)
        )
