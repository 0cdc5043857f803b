"""Steps that a search goes through: integers B and S within bounds, and their context C."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bayeslat.decisions.arguments import check_count, check_not_negative
from bayeslat.errors import InputError
from bayeslat.predictive.draws import Points

__all__ = ["StepSpace"]

type Array = NDArray[np.float64]

CHUNK: Final = 65_536
"""Steps that are asked about at once."""


@dataclass(frozen=True)
class StepSpace:
    """Steps that are searched: integers B and S with B <= S, and the context that they attend to.

    Parameters
    ----------
    max_batch_size, max_total_tokens : int
        Largest B and S.
    min_batch_size, min_total_tokens : int
        Smallest B and S: so many requests or tokens are wanted at least.
    decode_only : bool
        Whether every request computes one token, S = B.
    context_tokens, context_per_request : float
        C = ``context_tokens + context_per_request * B``, own tokens included.

    Raises
    ------
    InputError
        Where an argument is out of its range, or no step is left.
    """

    max_batch_size: int = 256
    max_total_tokens: int = 8192
    min_batch_size: int = 1
    min_total_tokens: int = 1
    decode_only: bool = False
    context_tokens: float = 0.0
    context_per_request: float = 0.0

    def __post_init__(self) -> None:
        for side in ("min", "max"):
            check_count(f"{side}_batch_size", getattr(self, f"{side}_batch_size"), at_least=1)
            check_count(f"{side}_total_tokens", getattr(self, f"{side}_total_tokens"), at_least=1)
        check_not_negative("context_tokens", self.context_tokens)
        check_not_negative("context_per_request", self.context_per_request)
        low, high = self.batch_range
        if low > high or max(low, self.min_total_tokens) > self.max_total_tokens:
            kind = "decode steps" if self.decode_only else "steps"
            raise InputError(
                f"got {kind} of {self.min_batch_size} to {self.max_batch_size} requests and"
                f" {self.min_total_tokens} to {self.max_total_tokens} tokens, which no step has,"
                " expected ranges with B <= S; widen them"
            )

    @property
    def batch_range(self) -> tuple[int, int]:
        """Smallest and largest B of any step."""
        low, high = self.min_batch_size, min(self.max_batch_size, self.max_total_tokens)
        return (max(low, self.min_total_tokens), high) if self.decode_only else (low, high)

    def token_range(self, batch_size: int) -> tuple[int, int]:
        """Smallest and largest S of steps with `batch_size` requests."""
        if self.decode_only:
            return batch_size, batch_size
        return max(batch_size, self.min_total_tokens), self.max_total_tokens

    def context(self, batch_size: ArrayLike) -> Array:
        """C of steps with these batch sizes."""
        return self.context_tokens + self.context_per_request * np.asarray(batch_size, dtype=float)

    def points(self, batch_size: ArrayLike, total_tokens: ArrayLike) -> Points:
        """Design points of steps, both arguments of shape (point,)."""
        batch, tokens = (np.asarray(values, dtype=float) for values in (batch_size, total_tokens))
        return Points(batch, tokens, self.context(batch))

    def holds(self, batch_size: Array, total_tokens: Array) -> NDArray[np.bool_]:
        """Which of these steps are searched."""
        (low, high), tokens = self.batch_range, total_tokens
        inside = (batch_size >= low) & (batch_size <= high) & (tokens >= batch_size)
        inside &= (tokens >= self.min_total_tokens) & (tokens <= self.max_total_tokens)
        return inside & (tokens == batch_size) if self.decode_only else inside

    def chunks(self, size: int = CHUNK) -> Iterator[Points]:
        """All steps, in pieces of about `size`."""
        held: list[tuple[Array, Array]] = []
        n = 0
        low, high = self.batch_range
        for batch in range(low, high + 1):
            first, last = self.token_range(batch)
            tokens = np.arange(first, last + 1, dtype=float)
            held.append((np.full(tokens.size, float(batch)), tokens))
            n += tokens.size
            if n >= size or batch == high:
                yield self.points(*map(np.concatenate, zip(*held, strict=True)))
                held, n = [], 0
