"""What a scheduler asks before every step."""

from typing import Any, Protocol

__all__ = ["StepGate"]


class StepGate(Protocol):
    """What a scheduler asks before every step; `bayeslat.gate.Gate` answers it.

    Arguments are B requests, S computed tokens and C attended KV positions (summed over requests,
    own tokens included) of the step. Numbers give numbers, arrays broadcast and give arrays.
    """

    @property
    def sla_ms(self) -> float:
        """Limit of a step's latency in milliseconds."""

    @property
    def risk(self) -> float:
        """Admitted probability of exceeding the limit."""

    @property
    def max_batch_size(self) -> int:
        """Largest B that the gate answers for; beyond it nothing fits."""

    @property
    def max_total_tokens(self) -> int:
        """Largest S that the gate answers for; beyond it nothing fits."""

    def p_exceed(self, batch_size: Any, total_tokens: Any, context_tokens: Any) -> Any:
        """P(latency > SLA) of a step."""

    def fits(self, batch_size: Any, total_tokens: Any, context_tokens: Any) -> Any:
        """Whether P(latency > SLA) <= risk."""

    def max_tokens(self, batch_size: int, context_tokens: float) -> int | None:
        """The largest S that fits with B requests and C positions; None where none does."""

    def max_batch(self, total_tokens: int, context_tokens: float) -> int | None:
        """The largest B that fits with S tokens and C positions; None where none does."""

    def max_more_tokens(
        self, batch_size: int, total_tokens: int, context_tokens: float
    ) -> int | None:
        """The largest n >= 0 such that (B, S + n, C + n) fits; None where none does.

        Each further token attends to itself, which is why the context grows with the tokens.
        """
