"""A compiled gate: P(step latency > SLA) <= risk, answered in microseconds without the posterior.

    gate = fleet.compile("H100-80GB", "llama-70b", sla_ms=50.0, risk=0.01)
    gate.fits(32, 512, 65_536)            # may this step run?
    gate.max_tokens(32, 65_536)           # how many tokens may it compute?
    gate.save("step.gate"); Gate.load("step.gate")

A gate needs numpy and nothing else; this package imports nothing heavier.
"""

from bayeslat.gate.base import StepGate
from bayeslat.gate.batching import Decode, Prompt, StepPlan, TokenBudget, build_step
from bayeslat.gate.compiled import Accuracy, Gate
from bayeslat.gate.series import Piece, Profiles

__all__ = [
    "Accuracy",
    "Decode",
    "Gate",
    "Piece",
    "Profiles",
    "Prompt",
    "StepGate",
    "StepPlan",
    "TokenBudget",
    "build_step",
]
