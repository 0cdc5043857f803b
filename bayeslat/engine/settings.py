"""How an engine schedules: the settings that decide who runs in a step."""

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from bayeslat.engine import kernel
from bayeslat.engine.workload import Workload
from bayeslat.errors import InputError

__all__ = ["EngineSettings"]

UNBOUNDED: Final = 2**40
"""Blocks of an engine whose cache is taken to have no end."""

_SEPARATE: Final = {
    "first": kernel.PROMPTS_FIRST,
    "last": kernel.DECODES_FIRST,
    "threshold": kernel.THRESHOLD,
}


@dataclass(frozen=True)
class EngineSettings:
    """Scheduling of one engine, named as vLLM names it.

    Parameters
    ----------
    max_num_seqs : int
        Most requests in a step.
    max_num_batched_tokens : int
        Most tokens of a step.
    chunked_prefill : bool
        Whether a prompt may be spread over steps, together with the decodes of others. Without,
        prompts are computed whole, and one that exceeds the budget has a step of its own.
    long_prefill_token_threshold : int
        Most tokens of one prompt in a step; 0 for no bound but the budget.
    kv_capacity_tokens : int, optional
        Positions that the KV cache holds; without, it never fills.
    block_size : int
        Positions of a KV block.
    batching : {"continuous", "static"}
        Whether requests join and leave at every step, or a batch is kept until its last has ended.
    mixed_steps : bool
        Whether a step may compute prompts and further tokens together. Without, running requests
        pause while prompts are computed, whole, as in the first schedulers of TGI and vLLM.
    prefill_order : {"first", "last", "threshold"}
        Without mixed steps, when prompts are computed: as soon as there are any (vLLM V0); once
        nothing decodes any more, so that a batch forms and only its requests run until all have
        ended (FasterTransformer); or when enough of them wait (TGI).
    waiting_served_ratio : float
        With the threshold: prompts are computed once this share of the running requests wait,
        rounded down, and a decode step has passed since the last prompts.
    max_waiting_steps : int
        With the threshold: decode steps since the last prompts after which any that wait go.
    sla_aware : bool
        Whether every step is built so that a gate says yes to it; see `bayeslat.engine.kernel`.
        `simulate_engine` is then given the gate.
    expected_output_tokens : float, optional
        What an SLA-aware scheduler takes as the output of a request when it admits it; the mean of
        the requests that have ended where not given.
    patience_ms : float, optional
        A request that has waited that long leaves, for a fallback server or for good.

    Raises
    ------
    InputError
        A setting out of its range.
    """

    max_num_seqs: int = 256
    max_num_batched_tokens: int = 8192
    chunked_prefill: bool = True
    long_prefill_token_threshold: int = 0
    kv_capacity_tokens: int | None = None
    block_size: int = 16
    batching: Literal["continuous", "static"] = "continuous"
    mixed_steps: bool = True
    patience_ms: float | None = None
    prefill_order: Literal["first", "last", "threshold"] = "first"
    waiting_served_ratio: float = 1.2
    max_waiting_steps: int = 20
    sla_aware: bool = False
    expected_output_tokens: float | None = None

    def __post_init__(self) -> None:
        for name in ("max_num_seqs", "max_num_batched_tokens", "block_size"):
            _check_whole(name, getattr(self, name), at_least=1)
        _check_whole("long_prefill_token_threshold", self.long_prefill_token_threshold, at_least=0)
        if self.max_num_batched_tokens < self.max_num_seqs:
            raise InputError(
                f"got max_num_batched_tokens={self.max_num_batched_tokens} below"
                f" max_num_seqs={self.max_num_seqs}, expected a token for every request; raise it"
            )
        if self.kv_capacity_tokens is not None:
            _check_whole("kv_capacity_tokens", self.kv_capacity_tokens, at_least=self.block_size)
        if self.batching not in ("continuous", "static"):
            raise InputError(f"got batching={self.batching!r}, expected 'continuous' or 'static'")
        if not self.mixed_steps and (self.chunked_prefill or self.batching == "static"):
            raise InputError(
                "got mixed_steps=False with chunked prefill or static batching, expected"
                " chunked_prefill=False and continuous batching; a chunk shares its step"
            )
        if self.patience_ms is not None and not self.patience_ms >= 0.0:
            raise InputError(
                f"got patience_ms={self.patience_ms}, expected milliseconds of at least 0; leave it"
                " out where requests wait for ever"
            )
        self._check_prefill_order()
        self._check_sla_aware()

    def _check_prefill_order(self) -> None:
        if self.prefill_order not in _SEPARATE:
            raise InputError(
                f"got prefill_order={self.prefill_order!r}, expected one of {', '.join(_SEPARATE)};"
                " correct the name"
            )
        if self.prefill_order != "first" and self.mixed_steps:
            raise InputError(
                f"got prefill_order={self.prefill_order!r} with mixed steps, expected"
                " mixed_steps=False and chunked_prefill=False: it is about steps of prompts alone"
            )
        if not 0.0 <= self.waiting_served_ratio < np.inf:
            raise InputError(
                f"got waiting_served_ratio={self.waiting_served_ratio}, expected a finite number of"
                " at least 0"
            )
        _check_whole("max_waiting_steps", self.max_waiting_steps, at_least=1)

    def _check_sla_aware(self) -> None:
        mixed = self.mixed_steps and self.chunked_prefill and self.batching == "continuous"
        if self.sla_aware and not mixed:
            raise InputError(
                "got sla_aware=True without chunked prefill, mixed steps or continuous batching,"
                " expected all three: a step takes as much of a prompt as fits beside the decodes"
            )
        expected = self.expected_output_tokens
        if expected is not None and not 0.0 < expected < np.inf:
            raise InputError(
                f"got expected_output_tokens={expected}, expected a positive finite number; leave"
                " it out where it is the mean of the requests that have ended"
            )

    @property
    def capacity_blocks(self) -> int:
        """Blocks of the KV cache."""
        if self.kv_capacity_tokens is None:
            return UNBOUNDED
        return self.kv_capacity_tokens // self.block_size

    def limits(self) -> NDArray[np.int64]:
        """What the compiled loop reads."""
        chunk = self.long_prefill_token_threshold or self.max_num_batched_tokens
        limits = np.empty(kernel.N_LIMITS, np.int64)
        limits[kernel.MAX_RUNNING] = self.max_num_seqs
        limits[kernel.BUDGET] = self.max_num_batched_tokens
        limits[kernel.LARGEST_CHUNK] = chunk if self.chunked_prefill else 0
        limits[kernel.BLOCK] = self.block_size
        limits[kernel.CAPACITY] = self.capacity_blocks
        limits[kernel.STATIC] = self.batching == "static"
        limits[kernel.SEPARATE] = 0 if self.mixed_steps else _SEPARATE[self.prefill_order]
        limits[kernel.MAX_WAITING_STEPS] = self.max_waiting_steps
        limits[kernel.GATED] = self.sla_aware
        return limits

    def scales(self, sla_ms: float | None) -> NDArray[np.float64]:
        """What the compiled loop reads besides, with the limit that steps are judged by."""
        scales = np.empty(kernel.N_SCALES)
        scales[kernel.WAITING_RATIO] = self.waiting_served_ratio
        scales[kernel.EXPECTED_OUTPUT] = self.expected_output_tokens or 0.0
        scales[kernel.SLA] = np.inf if sla_ms is None else sla_ms
        return scales

    def most_tokens(self, workload: Workload) -> int:
        """Most tokens that a step of this workload may have."""
        if self.chunked_prefill or self.batching == "static":
            return self.max_num_batched_tokens
        whole = workload.prompt_tokens + workload.output_tokens
        return max(self.max_num_batched_tokens, int(whole.max()))

    def check(self, workload: Workload) -> None:
        """Refuse a workload that the engine cannot serve.

        Raises
        ------
        InputError
            A request for which the cache is too small, or a closed loop whose users lose patience:
            they would come back before others who have already arrived.
        """
        if workload.users and self.patience_ms is not None:
            raise InputError(
                "got a closed loop with a patience, expected one of them; give arrivals, or let"
                " users wait"
            )
        longest = int((workload.prompt_tokens + workload.output_tokens).max())
        if -(-longest // self.block_size) > self.capacity_blocks:
            raise InputError(
                f"got a request of {longest} tokens, expected at most the"
                f" {self.capacity_blocks * self.block_size} that the KV cache holds; drop it or"
                " raise kv_capacity_tokens"
            )


def _check_whole(name: str, value: float, *, at_least: int) -> None:
    if not (np.isfinite(value) and value == int(value) and value >= at_least):
        raise InputError(f"got {name}={value}, expected a whole number of at least {at_least}")
