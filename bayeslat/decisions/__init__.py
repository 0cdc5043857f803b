"""Answers that a deployment's posterior gives to questions of operation."""

from bayeslat.decisions.chunks import ChunkChoice, ChunkTradeoff, best_chunk, chunk_tradeoff
from bayeslat.decisions.inversion import (
    FeasibleRegion,
    FeasibleSet,
    exceedance,
    feasible_batches,
    feasible_region,
    feasible_tokens,
    largest_batch,
    largest_tokens,
    nearest_tokens,
)
from bayeslat.decisions.loads import Disaggregation, LoadCurve
from bayeslat.decisions.measuring import (
    LargestTokens,
    LogLatency,
    LogQuantile,
    NextPoints,
    candidate_steps,
    next_points,
    read_candidates,
)
from bayeslat.decisions.phases import RequestPhases
from bayeslat.decisions.policies import Fallback, Policy, PolicyComparison, standard_policies
from bayeslat.decisions.queues import PosteriorQueue
from bayeslat.decisions.schedulers import SCHEDULERS, Scheduler
from bayeslat.decisions.scheduling import SchedulerComparison, compare_schedulers
from bayeslat.decisions.served import ServedDeployment
from bayeslat.decisions.services import BatchService
from bayeslat.decisions.serving import ServiceObjective, StepOverhead
from bayeslat.decisions.steady import SteadyLoad
from bayeslat.decisions.step_contours import StepContours, contours
from bayeslat.decisions.step_space import StepSpace
from bayeslat.decisions.tenancy import (
    Allocation,
    SharedStep,
    Tenant,
    TenantFront,
    allocate,
    pareto_front,
    read_tenants,
    shared_step,
)
from bayeslat.decisions.throughput import BestStep, Frontier, best_step, compiled_frontier, frontier

__all__ = [
    "SCHEDULERS",
    "Allocation",
    "BatchService",
    "BestStep",
    "ChunkChoice",
    "ChunkTradeoff",
    "Disaggregation",
    "Fallback",
    "FeasibleRegion",
    "FeasibleSet",
    "Frontier",
    "LargestTokens",
    "LoadCurve",
    "LogLatency",
    "LogQuantile",
    "NextPoints",
    "Policy",
    "PolicyComparison",
    "PosteriorQueue",
    "RequestPhases",
    "Scheduler",
    "SchedulerComparison",
    "ServedDeployment",
    "ServiceObjective",
    "SharedStep",
    "SteadyLoad",
    "StepContours",
    "StepOverhead",
    "StepSpace",
    "Tenant",
    "TenantFront",
    "allocate",
    "best_chunk",
    "best_step",
    "candidate_steps",
    "chunk_tradeoff",
    "compare_schedulers",
    "compiled_frontier",
    "contours",
    "exceedance",
    "feasible_batches",
    "feasible_region",
    "feasible_tokens",
    "frontier",
    "largest_batch",
    "largest_tokens",
    "nearest_tokens",
    "next_points",
    "pareto_front",
    "read_candidates",
    "read_tenants",
    "shared_step",
    "standard_policies",
]
