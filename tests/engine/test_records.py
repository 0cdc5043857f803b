import numpy as np
import pytest

from bayeslat.engine import (
    METRICS,
    EngineSettings,
    ServingRecords,
    StepTimes,
    Workload,
    kernel,
    simulate_engine,
)
from bayeslat.errors import InputError

SETTINGS = EngineSettings(max_num_seqs=8, max_num_batched_tokens=64, kv_capacity_tokens=160)


def records(n_runs=3, n=5):
    """Runs of which the k-th takes k + 1 times as long."""
    pace = np.arange(1.0, n_runs + 1)[:, None]
    times = np.full((n_runs, kernel.N_TIMES, n), np.nan)
    arrival = 100.0 * np.arange(n)
    times[:, kernel.ARRIVAL] = arrival
    times[:, kernel.SCHEDULED] = arrival + pace
    times[:, kernel.FIRST] = arrival + 10.0 * pace * np.arange(1, n + 1)
    times[:, kernel.FINISH] = times[:, kernel.FIRST] + 20.0 * pace
    totals = np.ones((n_runs, kernel.N_TOTALS))
    totals[:, kernel.TOTALS.index("kv_block_ms")] = 5.0
    prompts = np.broadcast_to(np.array([10, 600, 700, 5_000, 10][:n]), (n_runs, n))
    outputs = np.broadcast_to(np.array([1, 3, 3, 3, 3][:n]), (n_runs, n))
    gaps = np.zeros((n_runs, kernel.N_GAPS), np.int64)
    return ServingRecords(prompts, outputs, times, totals, gaps, SETTINGS, np.empty((n_runs, 5, 0)))


def test_metrics_are_differences_of_times():
    found = records()
    np.testing.assert_allclose(found.ttft_ms[1], 20.0 * np.arange(1, 6))
    np.testing.assert_allclose(found.e2e_ms[2], 30.0 * np.arange(1, 6) + 60.0)
    np.testing.assert_allclose(found.queue_ms[:, 0], [1.0, 2.0, 3.0])
    np.testing.assert_allclose(found.tpot_ms[:, 1], [10.0, 20.0, 30.0])
    assert np.isnan(found.tpot_ms[:, 0]).all()  # one token has no time per further token


def test_percentiles_are_order_statistics_with_the_spread_over_runs():
    found = records()
    answer = found.percentile("ttft_ms", 0.5)
    own = np.array([30.0, 60.0, 90.0])
    assert answer.value == 60.0
    assert (answer.lower, answer.upper) == pytest.approx(tuple(np.quantile(own, [0.05, 0.95])))
    both = found.percentile("e2e_ms", [0.5, 0.9])
    assert both.value.shape == both.lower.shape == (2,)
    assert found.percentile("tpot_ms", 0.5).value == 20.0  # without the request of one token


def test_requests_that_were_never_served_count_as_infinite():
    found = records()
    times = found.times.copy()
    times[:, [kernel.SCHEDULED, kernel.FIRST, kernel.FINISH], 4] = np.nan
    gone = ServingRecords(
        found.prompt_tokens,
        found.output_tokens,
        times,
        found.totals,
        found.gaps,
        SETTINGS,
        found.logs,
    )
    assert np.isinf(gone.percentile("ttft_ms", 0.99).value)
    assert np.isfinite(gone.percentile("ttft_ms", 0.5).value)
    assert gone.attainment().value == pytest.approx(0.8)
    assert gone.throughput().value < found.throughput().value


def test_objectives_are_met_together():
    found = records()
    # The third run has a TPOT of 30 ms, but for its first request, which has none.
    assert found.attainment_per_run(ttft_ms=60.0) == pytest.approx([1.0, 0.6, 0.4])
    assert found.attainment_per_run(ttft_ms=60.0, tpot_ms=20.0) == pytest.approx([1.0, 0.6, 0.2])
    assert found.duration_s == pytest.approx([0.47, 0.54, 0.61])
    assert found.goodput_per_run(ttft_ms=60.0) == pytest.approx([5 / 0.47, 3 / 0.54, 2 / 0.61])


def test_buckets_by_length_hold_every_request_once():
    table = records().by_length()
    assert table.groupby("bucket", sort=False)["n"].first().to_dict() == {
        "< 512": 2, "512 to 4095": 2, ">= 4096": 1,
    }  # fmt: skip
    assert set(table["metric"]) == set(METRICS)


def test_kv_use_is_a_share_of_the_blocks():
    assert records().kv_use().value == pytest.approx(5.0 / SETTINGS.capacity_blocks)


def test_gaps_are_known_to_a_cell(linear_times):
    served = Workload([0.0], [10], [50])
    found = simulate_engine(
        served, EngineSettings(max_num_seqs=1, max_num_batched_tokens=64), linear_times(context=0.0)
    )
    assert found.gap_percentile(0.5).value == pytest.approx(2.51, rel=0.011)
    assert np.isnan(records().gap_percentile(0.5).value)


@pytest.mark.parametrize(
    "ask",
    [
        lambda r: r.metric("latency"),
        lambda r: r.attainment(ttft_ms=0.0),
        lambda r: r.percentile("ttft_ms", 0.5, credible=1.0),
        lambda r: r.gap_percentile(1.0),
    ],
)
def test_wrong_questions_are_refused(ask):
    with pytest.raises(InputError, match="expected"):
        ask(records())


def test_requests_of_one_token_that_leave_in_some_runs_only_have_no_tpot(linear_times):
    one = linear_times(sigma=0.3)
    runs = StepTimes(
        one.batch_nodes, one.extra_nodes,
        *(np.repeat(a, 6, axis=0) for a in (one.location, one.per_position, one.sigma)),
        np.full(6, np.inf), "normal",
    )  # fmt: skip
    served = Workload.poisson(150.0, n=300, prompt_tokens=10, output_tokens=[1, 20], seed=1)
    settings = EngineSettings(max_num_seqs=4, max_num_batched_tokens=64, patience_ms=100.0)
    found = simulate_engine(served, settings, runs)
    gone = found.overflowed[:, served.output_tokens == 1]
    assert (gone.any(axis=0) & ~gone.all(axis=0)).any()
    assert not np.isnan(found.percentile("tpot_ms", [0.1, 0.5]).value).any()
    assert not found.summary().isna().to_numpy().any()
