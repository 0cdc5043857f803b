"""What an SLA-aware scheduler asks before every step, as the simulator reads it: tables.

A step of B requests and S tokens fits where the positions C that it attends to are no more than a
limit, since latency rises with C. The limit is tabulated at the nodes of B and S - B that step
times have, and interpolated as they are; it is negative where a step does not fit whatever it
attends to, so that what lies between two nodes has the right sign. Steps that attend to their own
tokens only (C = S) have a table of their own, because a position may cost something else in them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from bayeslat.engine.step_times import StepTimes
from bayeslat.errors import InputError
from bayeslat.gate import StepGate

__all__ = ["FAR", "StepGates"]

type Array = NDArray[np.float64]

FAR: Final = 1e12
"""A limit that nothing reaches: what fits whatever it attends to."""

MOST_POSITIONS: Final = 2.0**40
"""Positions beyond which `StepGates.from_gate` does not search for a limit."""


@dataclass(frozen=True, eq=False)
class StepGates:
    """Largest C at which steps fit, for one run or for each of several.

    Parameters
    ----------
    batch_nodes, extra_nodes : integer array, shapes (row,) and (column,)
        B and S - B of the nodes, those of the step times.
    older : array, shape (run, row, column)
        Limit of C for steps that attend to more than their own tokens.
    own : array, shape (run, row, column), optional
        Limit of C for those that do not; as elsewhere where not given.

    Raises
    ------
    InputError
        Tables that do not have the shape of the nodes, or are not finite.
    """

    batch_nodes: NDArray[np.int64]
    extra_nodes: NDArray[np.int64]
    older: Array
    own: Array | None = None

    def __post_init__(self) -> None:
        if self.own is None:
            object.__setattr__(self, "own", self.older)
        shape = (len(self.older), self.batch_nodes.size, self.extra_nodes.size)
        for name in ("older", "own"):
            values = getattr(self, name)
            if values.shape != shape or not np.isfinite(values).all():
                raise InputError(
                    f"got the gate's table {name} of shape {values.shape}, expected finite limits"
                    f" of shape {shape}; use {FAR:g} for no limit"
                )

    @property
    def n_runs(self) -> int:
        """Runs that have a table of their own; 1 where all share one."""
        return len(self.older)

    def tables(self, run: int) -> Array:
        """What the compiled loop reads of one run, shape (2, row, column)."""
        assert self.own is not None
        own = run if self.n_runs > 1 else 0
        return np.stack([self.older[own], self.own[own]])

    def check(self, step_times: StepTimes) -> None:
        """Refuse gates that do not belong to these step times.

        Raises
        ------
        InputError
            Other nodes, or tables of several runs that are not as many.
        """
        same = np.array_equal(self.batch_nodes, step_times.batch_nodes) and np.array_equal(
            self.extra_nodes, step_times.extra_nodes
        )
        if not same or self.n_runs not in (1, step_times.n_runs):
            raise InputError(
                f"got gates of {self.n_runs} runs up to B = {self.batch_nodes[-1]} and S - B ="
                f" {self.extra_nodes[-1]} for {step_times.n_runs} runs of step times up to"
                f" {step_times.max_batch_size} and {step_times.max_extra_tokens}, expected the same"
                " nodes and one run or as many; make the gates for these step times"
            )

    @classmethod
    def open(cls, step_times: StepTimes) -> Self:
        """A gate through which everything goes, at the nodes of step times."""
        shape = (1, step_times.batch_nodes.size, step_times.extra_nodes.size)
        return cls(step_times.batch_nodes, step_times.extra_nodes, np.full(shape, FAR))

    @classmethod
    def from_latency(
        cls,
        step_times: StepTimes,
        latency_ms: Callable[[Array, Array, Array], Any],
        *,
        sla_ms: float,
    ) -> Self:
        """The gate of a latency that is known: a step fits where it is no more than the limit.

        Parameters
        ----------
        step_times : StepTimes
            Whose nodes the gate has.
        latency_ms : callable
            Takes arrays B, S and C, gives milliseconds; rises linearly with C.
        sla_ms : float
            The limit.
        """
        batch, tokens = _grid(step_times)
        base = tokens + 1.0
        level = np.asarray(latency_ms(batch, tokens, base), dtype=float)
        slope = np.asarray(latency_ms(batch, tokens, base + 1.0), dtype=float) - level
        older = base + (sla_ms - level) / np.maximum(slope, 1.0 / FAR)
        return cls(step_times.batch_nodes, step_times.extra_nodes, np.clip(older, -FAR, FAR)[None])

    @classmethod
    def from_gate(cls, gate: StepGate, step_times: StepTimes) -> Self:
        """The tables of a gate that answers step by step, such as a compiled one.

        Parameters
        ----------
        gate : StepGate
            Its answers; what it refuses beyond its largest B and S is refused.
        step_times : StepTimes
            Whose nodes the tables have.

        Notes
        -----
        The limit is found by halving, to a position. Nothing is known of how far a step is from
        fitting where it fits nowhere: its limit is -1, or that of a step of no context.
        """
        batch, tokens = _grid(step_times)
        older = _largest_context(gate, batch, tokens)
        alone = np.asarray(gate.fits(batch, tokens, tokens), dtype=bool)
        own = np.where(alone, np.maximum(older, tokens), -1.0)
        return cls(step_times.batch_nodes, step_times.extra_nodes, older[None], own[None])


def _grid(step_times: StepTimes) -> tuple[Array, Array]:
    """B and S of every node, each of shape (row, column)."""
    batch, extra = np.meshgrid(step_times.batch_nodes, step_times.extra_nodes, indexing="ij")
    return batch.astype(float), (batch + extra).astype(float)


def _largest_context(gate: StepGate, batch: Array, tokens: Array) -> Array:
    """The largest C beyond S at which steps fit, by halving; -1 where none does."""
    low, high = tokens + 1.0, np.full(tokens.shape, MOST_POSITIONS)
    never = ~np.asarray(gate.fits(batch, tokens, low), dtype=bool)
    while (high - low).max() > 1.0:
        middle = np.floor(0.5 * (low + high))
        fits = np.asarray(gate.fits(batch, tokens, middle), dtype=bool)
        low, high = np.where(fits, middle, low), np.where(fits, high, middle)
    return np.where(never, -1.0, low)
