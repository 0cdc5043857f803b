"""Chunk size: how fast a prompt is computed, against what its chunks do to requests that decode.

A large chunk computes a prompt in few steps, and every request that decodes along waits for each of
these steps. A small chunk keeps steps short and needs many of them. `chunk_tradeoff` shows both
sides for many chunk sizes, `best_chunk` takes the fastest prefill that keeps a limit on the step.

The step that is judged is a whole chunk at the end of the prompt, where it attends to most. Its
latency distribution is exact; prefill times are expected values given a posterior draw, so that
their intervals are those of parameters and of what the discrepancy misses, and not of noise
(`bayeslat.decisions.phases.prefill_time` has the whole distribution of one chunk size).
"""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bayeslat.decisions.arguments import check_count, check_not_negative
from bayeslat.errors import InputError
from bayeslat.predictive import DeploymentDraws, Estimate, LatencyDistribution
from bayeslat.predictive.draws import Points
from bayeslat.predictive.estimate import check_probability, estimate
from bayeslat.predictive.sampled import expected_latency, missing_normals

__all__ = ["ChunkChoice", "ChunkTradeoff", "best_chunk", "chunk_tradeoff"]

type Array = NDArray[np.float64]

MAX_CHUNK: Final = 8_192
"""Largest chunk that is looked at where none are given."""

N_CANDIDATES: Final = 512
"""About how many chunk sizes are looked at where none are given."""


@dataclass(frozen=True, eq=False)
class ChunkTradeoff:
    """Both sides of the choice of a chunk size; every array has shape (chunk,).

    Parameters
    ----------
    chunk_tokens : array of int
        Chunk sizes, as they were asked about.
    n_steps : array of int
        Steps in which the prompt is computed.
    prefill_ms : Estimate
        Expected time of the whole prefill, milliseconds.
    throughput : Estimate
        Tokens of the prompt over that time, tokens/ms.
    step_ms : Estimate
        The asked quantile of a step with a chunk: what decoding requests wait for a token.
    decode_ms : Estimate
        The same quantile of a step without a chunk, one number for all chunk sizes.
    """

    chunk_tokens: NDArray[np.int64]
    n_steps: NDArray[np.int64]
    prefill_ms: Estimate
    throughput: Estimate
    step_ms: Estimate
    decode_ms: Estimate


@dataclass(frozen=True)
class ChunkChoice:
    """The chunk with the fastest prefill that keeps the limit, or how far any is from keeping it.

    Parameters
    ----------
    chunk_tokens : int or None
        The chunk; None where none keeps the limit.
    prefill_ms : Estimate or None
        Expected time of the whole prefill with this chunk, milliseconds.
    exceedance : float or None
        P(step > limit) with this chunk, or its upper bound where a confidence was asked for.
    floor_ms : Estimate
        Median of the step with the least median among all that were looked at: limits below it
        are broken by every other step at least.
    floor_chunk : int
        The chunk of that step.
    limited : bool
        Whether the chunk is the largest that was looked at, so that a larger one might be better.
    """

    chunk_tokens: int | None
    prefill_ms: Estimate | None
    exceedance: float | None
    floor_ms: Estimate
    floor_chunk: int
    limited: bool

    def __str__(self) -> str:
        if self.chunk_tokens is None:
            return (
                f"no chunk meets the limit; the floor is {self.floor_ms:.3g} ms,"
                f" with chunks of {self.floor_chunk} tokens"
            )
        return f"chunks of {self.chunk_tokens} tokens, prefill {self.prefill_ms:.3g} ms"


def chunk_tradeoff(
    draws: DeploymentDraws,
    *,
    chunk_sizes: ArrayLike,
    prompt_tokens: int,
    running: int,
    running_context: float,
    quantile: float = 0.99,
    credible: float = 0.9,
    step_overhead_ms: float = 0.0,
) -> ChunkTradeoff:
    """Prefill time and throughput against the step that decoding requests wait for.

    Parameters
    ----------
    draws : DeploymentDraws
        Posterior draws of the deployment.
    chunk_sizes : array, shape (chunk,)
        Most tokens of the prompt in one step, whole numbers of at least 1.
    prompt_tokens : int
        Tokens of the prompt.
    running : int
        Requests that decode along in every step, at least 1.
    running_context : float
        Positions that each of these attends to.
    quantile : float
        Which quantile of a step is reported, in (0, 1).
    credible : float
        Mass of the credible intervals, in (0, 1).
    step_overhead_ms : float
        Time between steps that step logs do not hold, at least zero.

    Raises
    ------
    InputError
        If an argument is out of its range.
    """
    check_probability("credible", credible)
    overhead = check_not_negative("step_overhead_ms", step_overhead_ms)
    plan = _Plan.of(chunk_sizes, prompt_tokens, running, running_context)
    prefill = plan.prefill_ms(draws, overhead)
    value, lower, upper = _summary(prefill, credible)
    alone = LatencyDistribution(
        draws, *(np.asarray(float(v)) for v in (running, running, running * running_context))
    )
    return ChunkTradeoff(
        plan.chunk,
        plan.n_steps,
        Estimate(value, lower, upper),
        _summary(prompt_tokens / prefill, credible),
        _later(plan.last_step(draws).ppf(quantile, credible=credible), overhead),
        _later(alone.ppf(quantile, credible=credible), overhead),
    )


def best_chunk(
    draws: DeploymentDraws,
    *,
    tpot_limit_ms: float,
    risk: float,
    prompt_tokens: int,
    running: int,
    running_context: float,
    chunk_sizes: ArrayLike | None = None,
    confident: float | None = None,
    credible: float = 0.9,
    step_overhead_ms: float = 0.0,
) -> ChunkChoice:
    """The chunk with the fastest expected prefill among those with P(step > limit) <= risk.

    Parameters
    ----------
    draws, prompt_tokens, running, running_context, credible, step_overhead_ms
        As in `chunk_tradeoff`.
    tpot_limit_ms : float
        Longest time between tokens of the decoding requests that is admitted, milliseconds, the
        overhead of a step included.
    risk : float
        Admitted probability that a step with a chunk breaks the limit, in (0, 1).
    chunk_sizes : array, shape (chunk,), optional
        Chunk sizes to choose from; by default up to 512, evenly spaced in multiples of 16, up to
        the whole prompt or 8,192 tokens.
    confident : float, optional
        Posterior probability with which the risk must hold.

    Returns
    -------
    ChunkChoice
        Its `chunk_tokens` is None where no chunk keeps the limit; `floor_ms` then says what could
        be kept. Of chunks with equally fast prefills the smallest is chosen.

    Raises
    ------
    InputError
        If an argument is out of its range.
    """
    check_probability("risk", risk)
    check_probability("credible", credible)
    overhead = check_not_negative("step_overhead_ms", step_overhead_ms)
    limit = _check_positive("tpot_limit_ms", tpot_limit_ms) - overhead
    prompt = check_count("prompt_tokens", prompt_tokens, at_least=1)
    sizes = _candidates(prompt) if chunk_sizes is None else chunk_sizes
    plan = _Plan.of(sizes, prompt, running, running_context)
    step = plan.last_step(draws)
    exceedance = step.sf(limit) if confident is None else step.sf_upper(limit, confident=confident)
    floor = int(np.argmin(step.median()))
    floor_ms = _later(plan.last_step(draws, floor).median(credible=credible), overhead)
    fits = np.flatnonzero(exceedance <= risk)
    if fits.size == 0:
        return ChunkChoice(None, None, None, floor_ms, int(plan.chunk[floor]), False)
    prefill = plan.prefill_ms(draws, overhead)
    expected = prefill.mean(axis=0)[fits]
    ties = fits[expected == expected.min()]
    best = ties[np.argmin(plan.chunk[ties])]
    return ChunkChoice(
        int(plan.chunk[best]),
        _summary(prefill[:, best], credible),
        float(exceedance[best]),
        floor_ms,
        int(plan.chunk[floor]),
        bool(plan.chunk[best] == plan.chunk.max() and plan.chunk[best] < prompt),
    )


@dataclass(frozen=True, eq=False)
class _Plan:
    """Prefills of one prompt in chunks of many sizes."""

    chunk: NDArray[np.int64]
    prompt: int
    running: int
    running_context: float

    @classmethod
    def of(
        cls, chunk_sizes: ArrayLike, prompt_tokens: int, running: int, running_context: float
    ) -> "_Plan":
        return cls(
            _check_chunks(chunk_sizes),
            check_count("prompt_tokens", prompt_tokens, at_least=1),
            check_count("running", running, at_least=1),
            check_not_negative("running_context", running_context),
        )

    @property
    def n_steps(self) -> NDArray[np.int64]:
        """Steps of the prefill for each chunk size."""
        return -(-self.prompt // self.chunk)

    def last_step(self, draws: DeploymentDraws, which: Any = slice(None)) -> LatencyDistribution:
        """A whole chunk that ends the prompt."""
        tokens = np.minimum(self.chunk, self.prompt)[which] + float(self.running)
        context = self.prompt + self.running * self.running_context
        return LatencyDistribution(
            draws, np.asarray(self.running + 1.0), tokens, np.asarray(context)
        )

    def prefill_ms(self, draws: DeploymentDraws, overhead: float) -> Array:
        """Expected time of the prefill in each draw, shape (draw, chunk).

        Latency is linear in C, so the whole chunks before the last, which may be shorter, are as
        many steps at the mean of their contexts.
        """
        whole = self.n_steps - 1.0
        tokens = np.concatenate(
            [np.minimum(self.chunk, self.prompt), self.prompt - whole * self.chunk]
        )
        attended = np.concatenate(
            [0.5 * (whole + 1.0) * self.chunk, np.full(whole.size, self.prompt)]
        )
        steps = Points(
            np.full(tokens.size, self.running + 1.0),
            tokens + self.running,
            attended + self.running * self.running_context,
        )
        times = expected_latency(draws, steps, missing=missing_normals(draws)) + overhead
        before, last = times[:, : whole.size], times[:, whole.size :]
        return whole * before + last


def _candidates(prompt: int) -> NDArray[np.int64]:
    """Chunk sizes that are looked at where none are given."""
    end = min(prompt, MAX_CHUNK)
    step = 16 * max(1, -(-end // (16 * N_CANDIDATES)))
    return np.append(np.arange(step, end, step), end)


def _summary(per_draw: Array, credible: float) -> Estimate:
    """Mean over draws with its interval."""
    return estimate(per_draw.mean(axis=0), per_draw, credible)


def _later(answer: Estimate, overhead: float) -> Estimate:
    return Estimate(*(value + overhead for value in answer))


def _check_chunks(chunk_sizes: ArrayLike) -> NDArray[np.int64]:
    sizes = np.atleast_1d(np.asarray(chunk_sizes, dtype=float))
    whole = np.isfinite(sizes) & (sizes == np.round(sizes)) & (sizes >= 1.0)
    if sizes.ndim != 1 or sizes.size == 0 or not whole.all():
        raise InputError(
            f"got chunk_sizes={chunk_sizes!r}, expected one or more whole numbers of at least 1;"
            " a chunk computes at least one token of the prompt"
        )
    return sizes.astype(np.int64)


def _check_positive(name: str, value: float) -> float:
    if not 0.0 < value < np.inf:
        raise InputError(
            f"got {name}={value!r}, expected positive finite milliseconds; correct the limit"
        )
    return float(value)
