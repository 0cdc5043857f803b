"""Requests that a real engine served, replayed from a posterior of step times."""

import numpy as np
import pandas as pd
import pytest

import bayeslat as bl

GPU, LLM = "RTXPRO6000", "Llama-3.1-8B"
LEVELS = (0.5, 0.9, 0.99)
N_RUNS = 200
Z_90 = 1.6449
TARGETS = {("tpot_ms", 0): 0.05, ("e2e_ms", 0): 0.10, ("e2e_ms", 2): 0.15}
"""Largest error of a percentile, by metric and place in `LEVELS`."""


@pytest.fixture(scope="module")
def steps(shared_data):
    table = pd.read_csv(shared_data / "fleet_steps.csv")
    return table[table["gpu"] == GPU].drop(columns=["source", "sm_percent", "replicate"])


@pytest.fixture(scope="module")
def fleet(steps):
    return bl.fit(bl.validate_steps(steps), draws=300, seed=3, retry=False)


@pytest.mark.slow
def test_mixed_steps_do_not_drown_the_decodes_of_a_log(fleet, steps):
    # One row in twenty is a decode step; the others cost more a position, and scatter more.
    for llm in fleet.models:
        own = steps[(steps["model"] == llm) & (steps["phase"] == "decode")]
        latency = fleet.latency(
            GPU, llm, batch_size=own["batch_size"], total_tokens=own["total_tokens"],
            context_tokens=own["context_tokens"],
        )  # fmt: skip
        error = np.abs(latency.median() / own["latency_ms"] - 1.0)
        assert error.mean() < 0.02
        low, high = latency.interval(0.9)
        assert 0.8 < own["latency_ms"].between(low, high).mean()


@pytest.mark.slow
def test_replayed_requests_take_as_long_as_measured(fleet, shared_data):
    requests = pd.read_csv(shared_data / "llmservingsim_vllm_requests.csv")
    own = requests[requests["model"].str.endswith(LLM)].sort_values("arrival_ms")
    settings = bl.EngineSettings(max_num_seqs=128, max_num_batched_tokens=2048)
    served = fleet.serving(GPU, LLM, settings=settings)
    records = served.simulate(bl.Workload.from_trace(own), n_runs=N_RUNS)
    measured = {
        "ttft_ms": own["ttft_ms"],
        "tpot_ms": own["tpot_ms"],
        "e2e_ms": own["last_token_ms"] - own["arrival_ms"],
    }
    found = {name: records.percentile(name, LEVELS) for name in measured}
    for name, values in measured.items():
        truth = np.quantile(values, LEVELS)
        assert (found[name].lower <= truth).all() and (truth <= found[name].upper).all(), name
    for (name, place), most in TARGETS.items():
        estimate, truth = found[name], np.quantile(measured[name], LEVELS[place])
        error = estimate.value[place] / truth - 1.0
        spread = (estimate.upper[place] - estimate.lower[place]) / (2 * Z_90) / truth
        monte_carlo = np.sqrt(np.pi / 2 / N_RUNS) * spread  # of a median over runs
        assert abs(error) < most + 3 * monte_carlo, (name, LEVELS[place])
