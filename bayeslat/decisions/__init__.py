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
from bayeslat.decisions.phases import RequestPhases
from bayeslat.decisions.policies import Fallback, Policy, PolicyComparison, standard_policies
from bayeslat.decisions.queues import PosteriorQueue
from bayeslat.decisions.served import ServedDeployment
from bayeslat.decisions.services import BatchService
from bayeslat.decisions.serving import ServiceObjective, StepOverhead
from bayeslat.decisions.steady import SteadyLoad

__all__ = [
    "BatchService",
    "ChunkChoice",
    "ChunkTradeoff",
    "Disaggregation",
    "Fallback",
    "FeasibleRegion",
    "FeasibleSet",
    "LoadCurve",
    "Policy",
    "PolicyComparison",
    "PosteriorQueue",
    "RequestPhases",
    "ServedDeployment",
    "ServiceObjective",
    "SteadyLoad",
    "StepOverhead",
    "best_chunk",
    "chunk_tradeoff",
    "exceedance",
    "feasible_batches",
    "feasible_region",
    "feasible_tokens",
    "largest_batch",
    "largest_tokens",
    "nearest_tokens",
    "standard_policies",
]
