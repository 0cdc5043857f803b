"""Phases of a request: what prefill, first token, output tokens and the whole of it take.

A step of B requests computes S tokens and attends to C positions, those of the step included. A
prompt is computed whole or in chunks, one chunk a step, while other requests decode along in the
same steps; then every further output token is one decode step. With a fixed posterior draw a phase
is a sum over its steps. The noise is new in every step and averages out, but for a share of it that
a log cannot tell. That share, the parameters and what the discrepancy's features miss are the same
in all steps of a draw (`bayeslat.predictive.sampled`). Answers are therefore
`SampledDistribution`s: a row for each draw.

Conventions
-----------
* The first output token leaves with the last step of the prefill, as in engines whose prefill
  samples it: TTFT = queueing + prefill. ``first_decode=True`` adds the decode step that other
  accounts count in. The step of a decode is that of the *next* token.
* TPOT = (last token - first token) / (N_out - 1), as serving benchmarks report it, so that
  E2E = TTFT + (N_out - 1) TPOT. It is not defined for a single output token.
* Runs of more than 32 steps of one kind are summed in 32 groups, each at the middle of its
  contexts. Latency is linear in C, so that the location of a sum is exact; its noise is that of
  means, see `sample_means`.
* ``step_overhead_ms`` is time between steps that step logs do not hold, added once a step.

The latency of a sum is clipped at zero group by group.
"""

from dataclasses import dataclass
from typing import Unpack

import numpy as np
from numpy.typing import ArrayLike

from bayeslat.decisions.arguments import check_count
from bayeslat.decisions.steps import Ensemble, Sampling, decode_steps, prefill_steps
from bayeslat.errors import InputError
from bayeslat.predictive import DeploymentDraws, LatencyDistribution, SampledDistribution
from bayeslat.predictive.draws import Points

__all__ = [
    "RequestPhases",
    "end_to_end",
    "inter_token_latency",
    "prefill_time",
    "request_phases",
    "time_per_output_token",
    "time_to_first_token",
]


@dataclass(frozen=True, eq=False)
class RequestPhases:
    """Phases of the same sampled requests, in milliseconds; samples belong together.

    Parameters
    ----------
    prefill, ttft, tpot, e2e : SampledDistribution
        Prefill, time to first token, time per output token, and end-to-end time.
    """

    prefill: SampledDistribution
    ttft: SampledDistribution
    tpot: SampledDistribution
    e2e: SampledDistribution


def prefill_time(
    draws: DeploymentDraws,
    *,
    prompt_tokens: int,
    chunk_tokens: int | None = None,
    running: int = 0,
    running_context: float = 0.0,
    **sampling: Unpack[Sampling],
) -> SampledDistribution:
    """Time that a prompt's prefill takes once it has begun, in milliseconds.

    Parameters
    ----------
    draws : DeploymentDraws
        Posterior draws of the deployment.
    prompt_tokens : int
        Tokens of the prompt.
    chunk_tokens : int, optional
        Most tokens of the prompt in one step; without it the prompt is computed whole.
    running : int
        Requests that decode along in each of the steps.
    running_context : float
        Positions that each of these attends to.
    **sampling
        See `Sampling`.

    Raises
    ------
    InputError
        If an argument is out of its range.
    """
    steps = prefill_steps(prompt_tokens, chunk_tokens, running, running_context)
    return SampledDistribution(Ensemble.of(draws, **sampling).total(steps))


def time_to_first_token(
    draws: DeploymentDraws,
    *,
    prompt_tokens: int,
    chunk_tokens: int | None = None,
    running: int = 0,
    running_context: float = 0.0,
    queueing: SampledDistribution | None = None,
    first_decode: bool = False,
    **sampling: Unpack[Sampling],
) -> SampledDistribution:
    """Time from a request's arrival to its first output token, in milliseconds.

    Parameters
    ----------
    draws, prompt_tokens, chunk_tokens, running, running_context, **sampling
        As in `prefill_time`.
    queueing : SampledDistribution, optional
        Wait before the prefill in milliseconds, from the same draws with as many replicates; it may
        be infinite. None by default.
    first_decode : bool
        Whether the first token leaves with a decode step after the prefill, not with the prefill.

    Raises
    ------
    InputError
        If an argument is out of its range, or the wait has samples of another shape.
    """
    ensemble = Ensemble.of(draws, **sampling)
    total = ensemble.total(prefill_steps(prompt_tokens, chunk_tokens, running, running_context))
    if first_decode:
        batch, context = running + 1.0, prompt_tokens + 1.0 + running * running_context
        total = total + ensemble.total(Points(*np.array([[batch], [batch], [context]])))
    return SampledDistribution(total + ensemble.wait(queueing))


def inter_token_latency(
    draws: DeploymentDraws, *, batch_size: ArrayLike, context_per_request: ArrayLike
) -> LatencyDistribution:
    """Time of a single decode step of B requests, exactly.

    Parameters
    ----------
    draws : DeploymentDraws
        Posterior draws of the deployment.
    batch_size, context_per_request : array
        Requests of the step, and positions that each attends to.

    Notes
    -----
    An overhead of d milliseconds between steps shifts the distribution: ask for ``sf(t - d)`` and
    ``ppf(q) + d``.

    Raises
    ------
    InputError
        If a batch is below one or a context below zero, or not finite.
    """
    batch = np.asarray(batch_size, dtype=float)
    context = batch * np.asarray(context_per_request, dtype=float)
    return LatencyDistribution(draws, batch, batch, context)


def time_per_output_token(
    draws: DeploymentDraws,
    *,
    batch_size: int,
    context_per_request: float,
    output_tokens: int,
    **sampling: Unpack[Sampling],
) -> SampledDistribution:
    """Mean time between the output tokens of one request, in milliseconds.

    Parameters
    ----------
    draws : DeploymentDraws
        Posterior draws of the deployment.
    batch_size : int
        Requests that decode at a time, this one included.
    context_per_request : float
        Positions that each request attends to in the first decode step, its own included; each of
        the N_out - 1 steps adds one.
    output_tokens : int
        Output tokens N_out of the request, at least 2.
    **sampling
        See `Sampling`.

    Raises
    ------
    InputError
        If an argument is out of its range; a single output token has no time per output token.
    """
    n_steps = _check_several(output_tokens) - 1
    steps = decode_steps(batch_size, context_per_request, n_steps)
    return SampledDistribution(Ensemble.of(draws, **sampling).total(steps) / n_steps)


def end_to_end(
    draws: DeploymentDraws,
    *,
    prompt_tokens: int,
    output_tokens: int,
    batch_size: int,
    context_per_request: float | None = None,
    chunk_tokens: int | None = None,
    queueing: SampledDistribution | None = None,
    **sampling: Unpack[Sampling],
) -> SampledDistribution:
    """Time from a request's arrival to its last output token, in milliseconds.

    Parameters
    ----------
    draws, prompt_tokens, chunk_tokens, queueing, **sampling
        As in `time_to_first_token`.
    output_tokens : int
        Output tokens N_out, at least 1; a single one leaves with the prefill.
    batch_size : int
        Requests at a time, this one included: the others decode along in its prefill, and all
        decode together afterwards.
    context_per_request : float, optional
        Positions that each request attends to in the prefill of this one and in its first decode
        step; each decode step adds one. By default that of this request, its prompt and one.

    Raises
    ------
    InputError
        If an argument is out of its range, or the wait has samples of another shape.
    """
    n_steps = check_count("output_tokens", output_tokens, at_least=1) - 1
    ensemble = Ensemble.of(draws, **sampling)
    prefill, decode = _request_steps(
        prompt_tokens, n_steps, batch_size, context_per_request, chunk_tokens
    )
    total = ensemble.wait(queueing) + ensemble.total(prefill) + ensemble.total(decode)
    return SampledDistribution(total)


def request_phases(
    draws: DeploymentDraws,
    *,
    prompt_tokens: int,
    output_tokens: int,
    batch_size: int,
    context_per_request: float | None = None,
    chunk_tokens: int | None = None,
    queueing: SampledDistribution | None = None,
    **sampling: Unpack[Sampling],
) -> RequestPhases:
    """All phases of the same sampled requests.

    Parameters
    ----------
    draws, prompt_tokens, batch_size, context_per_request, chunk_tokens, queueing, **sampling
        As in `end_to_end`.
    output_tokens : int
        Output tokens N_out, at least 2.

    Raises
    ------
    InputError
        If an argument is out of its range, or the wait has samples of another shape.
    """
    n_steps = _check_several(output_tokens) - 1
    ensemble = Ensemble.of(draws, **sampling)
    steps = _request_steps(prompt_tokens, n_steps, batch_size, context_per_request, chunk_tokens)
    prefill, decode = (ensemble.total(part) for part in steps)
    first = prefill + ensemble.wait(queueing)
    times = (prefill, first, decode / n_steps, first + decode)
    return RequestPhases(*map(SampledDistribution, times))


def _request_steps(
    prompt_tokens: int,
    n_steps: int,
    batch_size: int,
    context_per_request: float | None,
    chunk_tokens: int | None,
) -> tuple[Points, Points]:
    """Steps of the prefill and of the decode of one request among its like."""
    own = check_count("prompt_tokens", prompt_tokens, at_least=1) + 1.0
    context = own if context_per_request is None else context_per_request
    decode = decode_steps(batch_size, context, n_steps)
    return prefill_steps(prompt_tokens, chunk_tokens, batch_size - 1, context), decode


def _check_several(output_tokens: int) -> int:
    """Number of output tokens, where time per output token is asked for."""
    if check_count("output_tokens", output_tokens, at_least=1) == 1:
        raise InputError(
            "got output_tokens=1, expected at least 2; there is no time between output tokens with"
            " a single one, so ask for time_to_first_token or end_to_end"
        )
    return int(output_tokens)
