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

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, TypedDict, Unpack
from zlib import crc32

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bayeslat.errors import InputError
from bayeslat.predictive import DeploymentDraws, LatencyDistribution, SampledDistribution
from bayeslat.predictive.draws import Points
from bayeslat.predictive.sampled import (
    expected_latency,
    missing_normals,
    repeated_shares,
    sample_means,
)

__all__ = [
    "RequestPhases",
    "Sampling",
    "SteadyLoad",
    "end_to_end",
    "inter_token_latency",
    "prefill_time",
    "request_phases",
    "steady_load",
    "time_per_output_token",
    "time_to_first_token",
]

type Array = NDArray[np.float64]

MAX_DRAWS: Final = 400
N_REPLICATES: Final = 1_000
MAX_GROUPS: Final = 32
"""Groups into which a run of like steps is put."""

N_NODES: Final = 256
"""Running batches at which a steady load is looked at, closer together where they are small."""


class Sampling(TypedDict, total=False):
    """How phases are sampled: what every function here takes as keywords.

    Parameters
    ----------
    max_draws : int
        Posterior draws that are used, evenly spaced; 400 by default.
    n_replicates : int
        Requests that are sampled for each draw; 1,000 by default.
    seed : int or Generator
        Of the noise; 0 by default. Different steps have independent noise, the same steps the same:
        two requests of one kind, to be added, need two seeds. What the discrepancy's features miss
        does not depend on it.
    step_overhead_ms : float or array, shape (draw,)
        Time between steps, at least zero; one number, or one for each of the posterior draws. None
        by default.
    repeated_share : float, optional
        Share of the noise's variance that all steps of a phase have in common; unknown by default,
        see `bayeslat.predictive.sampled.repeated_shares`. A phase of a single step has its noise
        whole, whichever part of it would come back.
    """

    max_draws: int
    n_replicates: int
    seed: int | np.random.Generator
    step_overhead_ms: ArrayLike
    repeated_share: float | None


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


@dataclass(frozen=True, eq=False)
class SteadyLoad:
    """What an engine settles at under a load, in each posterior draw.

    Parameters
    ----------
    running : array, shape (draw,)
        Requests that decode at a time, on average; where the load is not sustained, those at which
        the engine saturates.
    step_ms : array, shape (draw,)
        Mean time between two tokens of a request: decode steps and steps with a chunk, overhead
        included.
    capacity_per_s : array, shape (draw,)
        Largest arrival rate that is sustained.
    utilisation : array, shape (draw,)
        Arrival rate over `capacity_per_s`.
    stable : array of bool, shape (draw,)
        Whether the load is sustained.
    """

    running: Array
    step_ms: Array
    capacity_per_s: Array
    utilisation: Array
    stable: NDArray[np.bool_]

    @property
    def probability_unstable(self) -> float:
        """Posterior probability that the load is not sustained."""
        return 1.0 - float(self.stable.mean())


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
    return SampledDistribution(_Ensemble.of(draws, **sampling).total(steps))


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
    ensemble = _Ensemble.of(draws, **sampling)
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
    return SampledDistribution(_Ensemble.of(draws, **sampling).total(steps) / n_steps)


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
    ensemble = _Ensemble.of(draws, **sampling)
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
    ensemble = _Ensemble.of(draws, **sampling)
    steps = _request_steps(prompt_tokens, n_steps, batch_size, context_per_request, chunk_tokens)
    prefill, decode = (ensemble.total(part) for part in steps)
    first = prefill + ensemble.wait(queueing)
    times = (prefill, first, decode / n_steps, first + decode)
    return RequestPhases(*map(SampledDistribution, times))


def steady_load(
    draws: DeploymentDraws,
    *,
    arrivals_per_s: float,
    prompt_tokens: int,
    output_tokens: int,
    chunk_tokens: int | None = None,
    max_running: int,
    max_draws: int = MAX_DRAWS,
    step_overhead_ms: ArrayLike = 0.0,
) -> SteadyLoad:
    """Running batch that continuous batching settles at under a load, in each posterior draw.

    Parameters
    ----------
    draws, max_draws, step_overhead_ms
        As in `Sampling`.
    arrivals_per_s : float
        Requests that arrive a second, at least zero.
    prompt_tokens, output_tokens : int
        Tokens of the prompt and of the output of every request.
    chunk_tokens : int, optional
        Most tokens of a prompt in one step; without it prompts are computed whole.
    max_running : int
        Most requests that decode at a time, as the engine or its KV memory bounds them.

    Notes
    -----
    A mean-field approximation: averages stand for what fluctuates, all requests are alike, a step
    carries one chunk of one prompt or none, and running requests have the mean context
    prompt + output / 2. With R requests decoding, a request costs n_c steps with a chunk and
    (N_out - 1) / R - n_c steps without, because each of both brings R tokens forward. Arrivals are
    sustained at R where ::

        1 / arrival rate = n_c T_chunk(R) + ((N_out - 1) / R - n_c) T_decode(R)

    and the engine settles at the smallest such R, as long as R is at most max_running and there is
    a step for every chunk, R <= (N_out - 1) / n_c. The capacity is the largest rate of any such R.
    Below one request at a time a decode step is that of a batch of one. Bursts make queues before
    the capacity is reached, so that a load close to it is worse than this answer.

    Raises
    ------
    InputError
        If an argument is out of its range.
    """
    arrivals = check_not_negative("arrivals_per_s", arrivals_per_s) / 1e3
    outputs = check_count("output_tokens", output_tokens, at_least=1)
    bound = check_count("max_running", max_running, at_least=1)
    ensemble = _Ensemble.of(draws, max_draws=max_draws, step_overhead_ms=step_overhead_ms)
    prefill = prefill_steps(prompt_tokens, chunk_tokens, 0, 0.0, max_groups=1)
    n_chunks, n_decodes = prefill.n_averaged.sum(), outputs - 1.0
    running = min(bound, n_decodes / n_chunks) * np.linspace(0.0, 1.0, N_NODES + 1) ** 2
    context = prompt_tokens + outputs / 2.0
    decoding = np.maximum(running, 1.0)
    decode = ensemble.expected(Points(decoding, decoding, decoding * context))
    chunk = np.add.reduce(
        [n * ensemble.expected(step) for n, step in _riding(prefill, running, context)]
    )
    if outputs == 1:
        rate, step = 1.0 / chunk, chunk / n_chunks
    else:
        rate = running / ((n_decodes - n_chunks * running) * decode + running * chunk)
        share = n_chunks * running / n_decodes
        step = (1.0 - share) * decode + share * chunk / n_chunks
    return _settled(arrivals, running, rate, step)


def _riding(prefill: Points, running: Array, context: float) -> Iterator[tuple[float, Points]]:
    """Each kind of prefill step with these numbers of requests along, and how often it occurs."""
    for tokens, attended, n in zip(
        prefill.total_tokens, prefill.context_tokens, prefill.n_averaged, strict=True
    ):
        yield float(n), Points(1.0 + running, tokens + running, attended + running * context)


def _settled(arrivals: float, running: Array, rate: Array, step: Array) -> SteadyLoad:
    """The first running batch that sustains the arrivals, between the nodes of a grid.

    `rate` (requests/ms) and `step` (ms) have shape (draw, node).
    """
    capacity = rate.max(axis=1)
    stable = capacity >= arrivals
    after = np.where(stable, np.argmax(rate >= arrivals, axis=1), running.size - 1)
    before = np.where(stable, np.maximum(after - 1, 0), after)
    rows = np.arange(len(rate))
    low, high = rate[rows, before], rate[rows, after]
    rising = high > low
    weight = np.where(rising, (arrivals - low) / np.where(rising, high - low, 1.0), 1.0)
    batch = running[before] + weight * (running[after] - running[before])
    steps = step[rows, before] + weight * (step[rows, after] - step[rows, before])
    return SteadyLoad(batch, steps, 1e3 * capacity, arrivals / capacity, stable)


@dataclass(frozen=True, eq=False)
class _Ensemble:
    """Thinned draws with all that their steps share."""

    draws: DeploymentDraws
    missing: Array
    repeated: Array
    overhead: Array
    n_replicates: int
    seed: int | np.random.Generator

    @classmethod
    def of(
        cls,
        draws: DeploymentDraws,
        *,
        max_draws: int = MAX_DRAWS,
        n_replicates: int = N_REPLICATES,
        seed: int | np.random.Generator = 0,
        step_overhead_ms: ArrayLike = 0.0,
        repeated_share: float | None = None,
    ) -> "_Ensemble":
        n = min(check_count("max_draws", max_draws, at_least=1), draws.n_draws)
        overhead = _check_overhead(step_overhead_ms, draws.n_draws)
        pick = np.linspace(0, draws.n_draws - 1, n).astype(int)
        return cls(
            draws.take(pick),
            missing_normals(draws)[pick],
            repeated_shares(draws, repeated_share)[pick],
            overhead[pick, None],
            check_count("n_replicates", n_replicates, at_least=1),
            seed,
        )

    def total(self, steps: Points) -> Array:
        """Random time of all steps together, shape (draw, replicate)."""
        total = np.zeros((self.draws.n_draws, self.n_replicates))
        several = steps.n_averaged.sum() > 1.0
        means = sample_means(
            self.draws,
            steps,
            missing=self.missing,
            n_replicates=self.n_replicates,
            rng=self._rng(steps),
            repeated=self.repeated if several else 0.0,
        )
        for n, mean in zip(steps.n_averaged, means, strict=True):
            total += n * (mean + self.overhead)
        return total

    def _rng(self, steps: Points) -> np.random.Generator:
        """Noise of these steps: the same whenever they are asked for, independent of all others."""
        if isinstance(self.seed, np.random.Generator):
            return self.seed
        design = steps.batch_size, steps.total_tokens, steps.context_tokens, steps.n_averaged
        return np.random.default_rng([self.seed, crc32(np.stack(design).tobytes())])

    def expected(self, steps: Points) -> Array:
        """Expected time of a step at each point, shape (draw, point)."""
        return expected_latency(self.draws, steps, missing=self.missing) + self.overhead

    def wait(self, queueing: SampledDistribution | None) -> Any:
        """Samples of the wait, which must be those of the same draws."""
        if queueing is None:
            return 0.0
        shape = (self.draws.n_draws, self.n_replicates)
        if queueing.samples.shape != shape:
            raise InputError(
                f"got queueing with samples of shape {queueing.samples.shape}, expected"
                f" {shape} (draw, replicate); set max_draws and n_replicates to what it has"
            )
        return queueing.samples


def prefill_steps(
    prompt_tokens: int,
    chunk_tokens: int | None,
    running: int,
    running_context: float,
    *,
    max_groups: int = MAX_GROUPS,
) -> Points:
    """Steps of a prefill: `n_averaged` steps at each point, whole chunks first, then the rest."""
    prompt = check_count("prompt_tokens", prompt_tokens, at_least=1)
    chunk = (
        prompt if chunk_tokens is None else check_count("chunk_tokens", chunk_tokens, at_least=1)
    )
    riders = check_count("running", running, at_least=0)
    riding = riders * check_not_negative("running_context", running_context)
    n_whole = (prompt - 1) // chunk
    middle, count = _groups(n_whole, max_groups)
    tokens = np.append(np.full(middle.size, float(chunk)), prompt - n_whole * chunk)
    attended = np.append((middle + 1.0) * chunk, prompt)
    batch = np.full(tokens.size, riders + 1.0)
    return Points(batch, tokens + riders, attended + riding, np.append(count, 1.0))


def decode_steps(batch_size: int, context_per_request: float, n_steps: int) -> Points:
    """Steps of a decode whose requests all attend to one position more each time."""
    batch = float(check_count("batch_size", batch_size, at_least=1))
    context = check_not_negative("context_per_request", context_per_request)
    middle, count = _groups(n_steps, MAX_GROUPS)
    every = np.full(middle.size, batch)
    return Points(every, every, batch * (context + middle), count)


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


def _groups(n_steps: int, max_groups: int) -> tuple[Array, Array]:
    """Middle (counted from zero) and length of nearly equal groups of consecutive steps.

    The first step is a group of its own: it may be the only one that attends to nothing older.
    """
    first = 1 if n_steps > max_groups > 1 else 0
    rest = np.linspace(first, n_steps, min(n_steps, max_groups) - first + 1)
    edges = np.append(np.zeros(first), np.round(rest))
    return 0.5 * (edges[:-1] + edges[1:] - 1.0), np.diff(edges)


def check_count(name: str, value: Any, *, at_least: int) -> int:
    """A whole number of at least `at_least`; raises `InputError` otherwise."""
    if not (np.ndim(value) == 0 and np.isfinite(value) and value == int(value) >= at_least):
        raise InputError(
            f"got {name}={value!r}, expected a whole number of at least {at_least};"
            " correct the question"
        )
    return int(value)


def check_not_negative(name: str, value: float) -> float:
    """A finite number of at least zero; raises `InputError` otherwise."""
    if not (np.ndim(value) == 0 and 0.0 <= value < np.inf):
        raise InputError(
            f"got {name}={value!r}, expected a finite number of at least 0; correct the question"
        )
    return float(value)


def _check_several(output_tokens: int) -> int:
    """Number of output tokens, where time per output token is asked for."""
    if check_count("output_tokens", output_tokens, at_least=1) == 1:
        raise InputError(
            "got output_tokens=1, expected at least 2; there is no time between output tokens with"
            " a single one, so ask for time_to_first_token or end_to_end"
        )
    return int(output_tokens)


def _check_overhead(value: ArrayLike, n_draws: int) -> Array:
    """Overhead of each draw, shape (draw,)."""
    overhead = np.asarray(value, dtype=float)
    if (
        overhead.shape not in {(), (n_draws,)}
        or not ((overhead >= 0.0) & (overhead < np.inf)).all()
    ):
        raise InputError(
            f"got step_overhead_ms={value!r}, expected finite milliseconds of at least 0, one or"
            f" one for each of {n_draws} draws; correct the overhead"
        )
    return np.broadcast_to(overhead, n_draws)
