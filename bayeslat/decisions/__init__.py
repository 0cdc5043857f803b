"""Answers that a deployment's posterior gives to questions of operation."""

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

__all__ = [
    "FeasibleRegion",
    "FeasibleSet",
    "exceedance",
    "feasible_batches",
    "feasible_region",
    "feasible_tokens",
    "largest_batch",
    "largest_tokens",
    "nearest_tokens",
]
