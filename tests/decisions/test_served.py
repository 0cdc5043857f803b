from dataclasses import fields, is_dataclass, replace

import numpy as np
import pandas as pd
import pytest

import bayeslat as bl
from bayeslat.decisions import (
    Policy,
    ServedDeployment,
    ServiceObjective,
    StepOverhead,
    chunks,
    loads,
    phases,
    policies,
    queues,
    scheduling,
    services,
    serving,
    steady,
)
from bayeslat.engine import EngineSettings, Transfer, Workload
from bayeslat.errors import InputError
from bayeslat.predictive import DeploymentDraws
from bayeslat.schema import Deployment

SETTINGS = EngineSettings(max_num_seqs=16, max_num_batched_tokens=512, kv_capacity_tokens=8_192)
OVERHEAD = StepOverhead(1.5, 0.4)
BYTES = 131_072.0
WORKLOAD = Workload.poisson(20.0, n=30, prompt_tokens=300, output_tokens=6)
LENGTHS = {"prompt_tokens": 300, "output_tokens": 6}
OBJECTIVE = ServiceObjective(ttft_ms=200.0)


@pytest.fixture
def served():
    return ServedDeployment(make_draws(), SETTINGS, OVERHEAD, BYTES)


def make_draws(gpu="H100-80GB"):
    rng = np.random.default_rng(7)
    typical = {"P_max": 30.0, "k_S": 0.01, "w_1": 1.0, "tau_0": 5.0, "tau_C": 1e-4}
    parameters = {name: value * rng.lognormal(0.0, 0.1, 12) for name, value in typical.items()}
    nu = np.full(12, 8.0)
    return DeploymentDraws(
        Deployment(gpu, "llama-7b"), parameters, np.full(12, 0.05), nu, "student_t"
    )


def assert_same(found, expected):
    """Equal to the last bit, however deep."""
    assert type(found) is type(expected)
    if is_dataclass(found):
        for one in fields(found):
            assert_same(getattr(found, one.name), getattr(expected, one.name))
    elif isinstance(found, tuple | list):
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other)
    elif isinstance(found, pd.DataFrame):
        pd.testing.assert_frame_equal(found, expected)
    else:
        np.testing.assert_array_equal(found, expected)


# Each method is the function of its name


def test_phases_take_the_overhead_of_every_draw(served):
    gap = {"step_overhead_ms": OVERHEAD.draws(12)}
    found = served.request_phases(**LENGTHS, running=3, chunk_tokens=128, n_replicates=50)
    expected = phases.request_phases(
        served.draws, **LENGTHS, batch_size=3, chunk_tokens=128, n_replicates=50, **gap
    )
    assert_same(found, expected)
    without = served.request_phases(**LENGTHS, n_replicates=50, step_overhead_ms=0.0)
    assert without.e2e.mean() < served.request_phases(**LENGTHS, n_replicates=50).e2e.mean()
    load = {"arrivals_per_s": 5.0, "prompt_tokens": 300, "output_tokens": 200}
    expected = steady.steady_load(served.draws, **load, max_running=16, **gap)
    assert_same(served.steady_load(**load), expected)
    expected = steady.steady_load(served.draws, **load, max_running=16, chunk_tokens=128, **gap)
    assert_same(served.steady_load(**load, chunk_tokens=128), expected)


def test_chunks_take_the_median_overhead(served):
    among = {"prompt_tokens": 600, "running": 4, "running_context": 500.0}
    found = served.chunk_tradeoff(**among, chunk_sizes=[64, 256])
    expected = chunks.chunk_tradeoff(
        served.draws, **among, chunk_sizes=[64, 256], step_overhead_ms=1.5
    )
    assert_same(found, expected)
    limit = {"tpot_limit_ms": 40.0, "risk": 0.05}
    found = served.best_chunk(**limit, **among)
    assert_same(found, chunks.best_chunk(served.draws, **limit, **among, step_overhead_ms=1.5))
    other = served.best_chunk(**limit, **among, step_overhead_ms=0.0)
    assert_same(other, chunks.best_chunk(served.draws, **limit, **among))


def test_services_queues_and_policies_take_the_budget_and_the_overhead(served):
    engine = {"max_num_batched_tokens": 512, "overhead": OVERHEAD}
    service = services.batch_service(served.draws, **LENGTHS, max_batch=4, **engine, n_runs=5)
    assert_same(served.batch_service(**LENGTHS, max_batch=4, n_runs=5), service)
    single = services.batch_service(served.draws, **LENGTHS, **engine, n_replicates=50)
    assert_same(
        served.queue(arrivals_per_s=3.0, **LENGTHS, n_replicates=50),
        queues.posterior_queue(single, arrivals_per_s=3.0),
    )
    tried = [Policy("one"), Policy("pairs", 2, 2)]
    question = {"arrivals_per_s": [2.0, 4.0], "n_requests": 200, "seed": 3}
    pairs = services.batch_service(served.draws, **LENGTHS, max_batch=2, **engine)
    assert_same(
        served.compare_policies(tried, **LENGTHS, **question),
        policies.compare_policies(pairs, tried, **question),
    )
    with pytest.raises(InputError, match="no policies"):
        served.compare_policies([], **LENGTHS, **question)


def test_simulations_take_the_settings_and_the_overhead(served):
    engine = {"overhead": OVERHEAD, "n_runs": 4, "seed": 2}
    options = {"n_runs": 4, "seed": 2}
    found = served.simulate(WORKLOAD, **options)
    assert_same(found, serving.serve(served.draws, WORKLOAD, SETTINGS, **engine))
    question = {"arrivals_per_s": [5.0, 10.0], "objective": OBJECTIVE}
    assert_same(
        served.load_curve(WORKLOAD, **question, **options),
        loads.load_curve(served.draws, WORKLOAD, SETTINGS, **question, **engine),
    )
    link = {"transfer": Transfer(BYTES, 25.0)}
    assert_same(
        served.compare_disaggregation(WORKLOAD, bandwidth_gbs=25.0, **question, **options),
        loads.compare_disaggregation(
            served.draws, served.draws, WORKLOAD, SETTINGS, **link, **question, **engine
        ),
    )
    other = ServedDeployment(make_draws("A100-80GB"), replace(SETTINGS, max_num_seqs=2))
    assert_same(
        served.compare_disaggregation(
            WORKLOAD, bandwidth_gbs=25.0, prefill=other, **question, **options
        ),
        loads.compare_disaggregation(
            other.draws,
            served.draws,
            WORKLOAD,
            SETTINGS,
            prefill_settings=other.settings,
            prefill_overhead=other.overhead,
            **link,
            **question,
            **engine,
        ),
    )


def test_schedulers_take_the_settings_and_the_overhead(served):
    question = {"sla_ms": 30.0, "risk": 0.05, "objective": OBJECTIVE, "n_runs": 4}
    found = served.compare_schedulers(WORKLOAD, **question)
    expected = scheduling.compare_schedulers(
        served.draws, WORKLOAD, SETTINGS, overhead=OVERHEAD, **question
    )
    pd.testing.assert_frame_equal(found.table(), expected.table())


def test_a_cache_of_unknown_shape_does_not_move(served):
    unknown = replace(served, kv_bytes_per_token=np.nan)
    with pytest.raises(InputError, match=r"llama-7b.*catalogue") as fault:
        unknown.compare_disaggregation(
            WORKLOAD, bandwidth_gbs=25.0, arrivals_per_s=[5.0], objective=OBJECTIVE
        )
    assert "\n" not in str(fault.value)


def test_settings_can_be_changed_and_are_shown(served):
    changed = served.with_settings(max_num_seqs=4, patience_ms=20.0)
    assert changed.settings == replace(SETTINGS, max_num_seqs=4, patience_ms=20.0)
    assert served.settings == SETTINGS and changed.draws is served.draws
    shown = repr(changed)
    assert "H100-80GB/llama-7b" in shown and "patience_ms=20.0" in shown and "1.5" in shown
    default = ServedDeployment(served.draws)
    assert default.settings == EngineSettings() and default.overhead == StepOverhead()


# From a fitted fleet


def test_a_fleet_serves_with_the_cache_that_the_datasheets_leave(tiny_fleet: bl.FleetPosterior):
    served = tiny_fleet.serving("H100-80GB", "llama-7b")
    found = tiny_fleet.find("H100-80GB", "llama-7b")
    room = tiny_fleet.catalog.kv_capacity_tokens("H100-80GB", "llama-7b", precision=found.precision)
    assert served.settings == EngineSettings(kv_capacity_tokens=int(room))
    # 90 % of 80 GB, less some 13 GB of weights, for half a megabyte a position.
    assert 90_000 < room < 125_000
    bytes_per_token = tiny_fleet.catalog.kv_bytes_per_token("llama-7b")
    assert served.kv_bytes_per_token == bytes_per_token == 2 * 32 * 4_096 * 2
    assert served.draws.deployment == found and served.overhead == StepOverhead()
    given = tiny_fleet.serving(
        "H100-80GB",
        "llama-7b",
        settings=EngineSettings(max_num_seqs=8, kv_capacity_tokens=5_000),
        overhead=StepOverhead(3.0),
    )
    assert given.settings == EngineSettings(max_num_seqs=8, kv_capacity_tokens=5_000)
    assert given.overhead == StepOverhead(3.0)
    kept = tiny_fleet.serving("A100-80GB", "llama-7b", settings=EngineSettings(max_num_seqs=8))
    assert kept.settings.max_num_seqs == 8 and kept.settings.kv_capacity_tokens is not None
    records = given.simulate(
        Workload.poisson(5.0, n=20, prompt_tokens=200, output_tokens=10), n_runs=10
    )
    assert records.n_runs == 10 and np.isfinite(records.e2e_ms).all()
