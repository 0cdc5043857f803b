"""Ways of scheduling an engine by name: those of known engines, and those that keep to a limit."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from bayeslat.engine import EngineSettings, StepGates
from bayeslat.errors import InputError
from bayeslat.gate import StepGate

__all__ = ["ORACLE", "SCHEDULERS", "Scheduler", "scheduler_named"]

ORACLE: Final = "oracle"
"""Name of the scheduler that knows each run's truth, and of its gate."""

GATES: Final = ("mean", "risk", ORACLE)


@dataclass(frozen=True)
class Scheduler:
    """A way of scheduling.

    Parameters
    ----------
    name : str
        For tables.
    changes : mapping of str to value
        What it changes of the engine's settings; keywords of `EngineSettings`.
    gate : {"mean", "risk", "oracle"}, StepGate or StepGates, optional
        What an SLA-aware scheduler asks: the expected latency, the posterior predictive, the truth
        of each run (see `bayeslat.decisions.step_gates`), or a gate of its own.
    """

    name: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    gate: str | StepGate | StepGates | None = None

    def __post_init__(self) -> None:
        if isinstance(self.gate, str) and self.gate not in GATES:
            raise InputError(
                f"got gate={self.gate!r}, expected one of {', '.join(GATES)} or a gate;"
                " correct the name"
            )

    def settings(self, base: EngineSettings) -> EngineSettings:
        """The engine's settings with the changes."""
        return replace(base, **(dict(self.changes) | {"sla_aware": self.gate is not None}))


_APART: Final = {"chunked_prefill": False, "mixed_steps": False}
_MIXED: Final = {"chunked_prefill": True, "mixed_steps": True, "batching": "continuous"}

SCHEDULERS: Final = (
    Scheduler("decode-first", {**_APART, "prefill_order": "last"}),
    Scheduler("prefill-first", {**_APART, "prefill_order": "first"}),
    Scheduler("waiting-threshold", {**_APART, "prefill_order": "threshold"}),
    Scheduler("chunked-prefill", _MIXED),
    Scheduler("mean", _MIXED, "mean"),
    Scheduler("risk", _MIXED, "risk"),
    Scheduler(ORACLE, _MIXED, ORACLE),
)
"""Those of FasterTransformer, vLLM V0, TGI and vLLM V1, and three that keep to a limit."""


def scheduler_named(name: str) -> Scheduler:
    """One of `SCHEDULERS`.

    Raises
    ------
    InputError
        For another name.
    """
    known = {one.name: one for one in SCHEDULERS}
    if name not in known:
        raise InputError(
            f"got scheduler {name!r}, expected one of {', '.join(known)}; correct the name"
        )
    return known[name]
