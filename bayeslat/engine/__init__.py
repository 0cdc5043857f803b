"""An inference engine as a discrete-event simulation: workloads, scheduling, steps, records.

    workload = Workload.poisson(5.0, n=1000, prompt_tokens=800, output_tokens=200)
    settings = EngineSettings(max_num_seqs=128, kv_capacity_tokens=400_000)
    records = simulate_engine(workload, settings, step_times)
    records.percentile("ttft_ms", 0.99)

Step times are tables (`StepTimes`): of a posterior's draws, one run each, or of any function.
"""

from bayeslat.engine.cluster import (
    Pool,
    Transfer,
    serve_overflow,
    simulate_disaggregated,
    simulate_pool,
)
from bayeslat.engine.gates import StepGates
from bayeslat.engine.records import METRICS, ServingRecords
from bayeslat.engine.settings import EngineSettings
from bayeslat.engine.simulation import simulate_engine
from bayeslat.engine.step_times import StepTimes, nodes
from bayeslat.engine.workload import Workload

__all__ = [
    "METRICS",
    "EngineSettings",
    "Pool",
    "ServingRecords",
    "StepGates",
    "StepTimes",
    "Transfer",
    "Workload",
    "nodes",
    "serve_overflow",
    "simulate_disaggregated",
    "simulate_engine",
    "simulate_pool",
]
