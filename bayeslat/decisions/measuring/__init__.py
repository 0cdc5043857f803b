"""Which steps to measure next, so that a given decision becomes certain."""

from bayeslat.decisions.measuring.candidates import candidate_steps, read_candidates
from bayeslat.decisions.measuring.design import NextPoints, next_points
from bayeslat.decisions.measuring.targets import LargestTokens, LogLatency, LogQuantile

__all__ = [
    "LargestTokens",
    "LogLatency",
    "LogQuantile",
    "NextPoints",
    "candidate_steps",
    "next_points",
    "read_candidates",
]
