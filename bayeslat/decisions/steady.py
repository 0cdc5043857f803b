"""The steady state of continuous batching under a load, in each posterior draw: a mean field."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bayeslat.decisions.arguments import check_count, check_not_negative
from bayeslat.decisions.steps import MAX_DRAWS, Ensemble, prefill_steps
from bayeslat.predictive import DeploymentDraws
from bayeslat.predictive.draws import Points

__all__ = ["SteadyLoad", "steady_load"]

type Array = NDArray[np.float64]

N_NODES: Final = 256
"""Running batches at which a steady load is looked at, closer together where they are small."""


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
    def typical_running(self) -> int:
        """Median over draws of the running batch, a whole number of at least one."""
        return max(1, round(float(np.median(self.running))))

    @property
    def probability_unstable(self) -> float:
        """Posterior probability that the load is not sustained."""
        return 1.0 - float(self.stable.mean())


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
    ensemble = Ensemble.of(draws, max_draws=max_draws, step_overhead_ms=step_overhead_ms)
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
