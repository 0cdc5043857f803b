"""Several engines: replicas behind a dispatcher, prefill and decode apart, a fallback server.

A dispatcher sends requests to replicas in turn. With prefill and decode on engines of their own,
the first token leaves with the prefill; the cache then moves over a link, one request not slowing
another, and the decode engine goes on.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bayeslat.engine import kernel
from bayeslat.engine.records import ServingRecords
from bayeslat.engine.seeds import Seed, streams
from bayeslat.engine.settings import EngineSettings
from bayeslat.engine.simulation import simulate_engine
from bayeslat.engine.step_times import StepTimes
from bayeslat.engine.workload import Workload
from bayeslat.errors import InputError

__all__ = ["Pool", "Transfer", "serve_overflow", "simulate_disaggregated", "simulate_pool"]

type Array = NDArray[np.float64]

_LARGEST = [kernel.TOTALS.index(name) for name in ("end_ms", "kv_peak_blocks")]
"""Totals of which several engines have a largest, not a sum."""


@dataclass(frozen=True, eq=False)
class Pool:
    """Engines of one kind.

    Parameters
    ----------
    settings : EngineSettings
        Scheduling of each.
    step_times : StepTimes
        Latencies of its steps, one run each.
    n_replicas : int
        How many engines.
    overhead_ms : float or array, shape (run,)
        Milliseconds between two steps.
    """

    settings: EngineSettings
    step_times: StepTimes
    n_replicas: int = 1
    overhead_ms: ArrayLike = 0.0

    def __post_init__(self) -> None:
        if self.n_replicas != int(self.n_replicas) or self.n_replicas < 1:
            raise InputError(
                f"got n_replicas={self.n_replicas}, expected a whole number of at least 1"
            )


@dataclass(frozen=True)
class Transfer:
    """How the cache of a prompt moves from a prefill to a decode engine.

    Parameters
    ----------
    kv_bytes_per_token : float
        Bytes of cache of one position.
    bandwidth_gbs : float
        Of the link, GB/s.
    latency_ms : float
        Before the first byte.
    """

    kv_bytes_per_token: float
    bandwidth_gbs: float
    latency_ms: float = 0.0

    def __post_init__(self) -> None:
        if not (
            np.isfinite(self.kv_bytes_per_token)
            and self.kv_bytes_per_token >= 0.0
            and self.bandwidth_gbs > 0.0
            and 0.0 <= self.latency_ms < np.inf
        ):
            raise InputError(
                f"got a transfer of {self.kv_bytes_per_token} bytes a token over"
                f" {self.bandwidth_gbs} GB/s after {self.latency_ms} ms, expected non-negative"
                " numbers and a positive bandwidth; state the LLM's cache or the link"
            )

    def time_ms(self, tokens: ArrayLike) -> Array:
        """Milliseconds until the cache of prompts of this many tokens has moved."""
        moved = np.asarray(tokens, dtype=float) * self.kv_bytes_per_token
        return self.latency_ms + 1e-6 * moved / self.bandwidth_gbs


def simulate_pool(
    workload: Workload,
    pool: Pool,
    *,
    n_logged_steps: int = 0,
    seed: Seed = 0,
) -> ServingRecords:
    """Serve a workload by replicas that take requests in turn.

    Parameters
    ----------
    workload : Workload
        Requests.
    pool : Pool
        The replicas; each takes its parameters from the same run.
    n_logged_steps : int
        Steps of the first replica to keep.
    seed : int
        Seed of the noise.

    Raises
    ------
    InputError
        A closed loop before several replicas, and what `simulate_engine` refuses.
    """
    if workload.users and pool.n_replicas > 1:
        raise InputError(
            f"got a closed loop before {pool.n_replicas} replicas, expected one engine; divide the"
            " users between engines yourself"
        )

    def serve(part: NDArray[np.int64], seed: Seed) -> ServingRecords:
        return simulate_engine(
            workload.select(part),
            pool.settings,
            pool.step_times,
            overhead_ms=pool.overhead_ms,
            n_logged_steps=n_logged_steps,
            seed=seed,
        )

    return _in_turn(workload.size, pool.n_replicas, serve, seed)


def simulate_disaggregated(
    workload: Workload,
    prefill: Pool,
    decode: Pool,
    transfer: Transfer,
    *,
    seed: Seed = 0,
) -> ServingRecords:
    """Serve a workload with prefill and decode on engines of their own.

    Parameters
    ----------
    workload : Workload
        Requests.
    prefill, decode : Pool
        Engines of either kind, with as many runs; run k of both belongs together.
    transfer : Transfer
        Link between them.
    seed : int
        Seed of the noise.

    Returns
    -------
    ServingRecords
        Times of whole requests: `ttft_ms` ends with the prefill, `tpot_ms` holds the transfer and
        the wait for the decode engine. Totals are sums over both kinds, and there is no common use
        of the cache; the settings are those of the decode engines, whose cache may be too small for
        all that arrive, while prefill engines let a request's cache go when its prompt is computed.

    Raises
    ------
    InputError
        Pools of different numbers of runs or with a patience, or a closed loop.
    """
    if workload.users:
        raise InputError(
            "got a closed loop with prefill and decode apart, expected given arrivals; make the"
            " workload with Workload.poisson or from a trace"
        )
    for kind, pool in (("prefill", prefill), ("decode", decode)):
        if pool.settings.patience_ms is not None:
            raise InputError(
                f"got {kind} engines with patience_ms={pool.settings.patience_ms:g}, expected none:"
                " every prompt goes on to a decode engine; leave the patience out"
            )
    if prefill.step_times.n_runs != decode.step_times.n_runs:
        raise InputError(
            f"got {prefill.step_times.n_runs} runs of prefill and {decode.step_times.n_runs} of"
            " decode, expected as many; thin both to the same draws"
        )
    prompts = Workload(workload.arrival_ms, workload.prompt_tokens, np.ones(workload.size))
    of_prefill, of_decode = streams(seed, "disaggregation", 2)
    first = simulate_pool(prompts, prefill, seed=of_prefill)
    goes_on = np.flatnonzero(workload.output_tokens > 1)
    if goes_on.size == 0:
        return first
    second = _decode(workload, goes_on, first, decode, transfer, of_decode)
    return _together(workload, goes_on, first, second)


def serve_overflow(
    records: ServingRecords, service_ms: ArrayLike, *, exponential: bool = True, seed: int = 0
) -> ServingRecords:
    """Send the requests that left an engine unserved to one fallback server, in their order.

    Parameters
    ----------
    records : ServingRecords
        Of an engine with `EngineSettings.patience_ms`.
    service_ms : float or array, shape (request,)
        Mean time that the fallback takes for a request.
    exponential : bool
        Whether its times are exponential around that mean; else they equal it.
    seed : int
        Seed of these times.

    Returns
    -------
    ServingRecords
        The same with the fallback's answers: it gives an answer whole, so that the first token
        comes with the last.

    Raises
    ------
    InputError
        A service time that is not positive.
    """
    mean = np.broadcast_to(np.asarray(service_ms, dtype=float), records.n_requests)
    if not (np.isfinite(mean) & (mean > 0.0)).all():
        raise InputError(
            f"got service_ms from {mean.min():g}, expected positive finite milliseconds"
        )
    times = records.times.copy()
    for run, own in enumerate(streams(seed, "fallback", records.n_runs)):
        gone = np.flatnonzero(records.overflowed[run])
        left = times[run, kernel.OVERFLOWED, gone]
        order = np.argsort(left, kind="stable")
        rng = np.random.default_rng(own)
        service = mean[gone] * (rng.standard_exponential(gone.size) if exponential else 1.0)
        times[run, kernel.FINISH, gone[order]] = _served_in_turn(left[order], service[order])
        times[run, kernel.FIRST, gone] = times[run, kernel.FINISH, gone]
    return replace(records, times=times)


def _served_in_turn(arrival: Array, service: Array) -> Array:
    """When one server ends each job: Lindley's recursion, written as a running maximum."""
    work = np.cumsum(service)
    return work + np.maximum.accumulate(arrival - (work - service)) if work.size else work


def _decode(
    workload: Workload,
    goes_on: NDArray[np.int64],
    first: ServingRecords,
    pool: Pool,
    transfer: Transfer,
    seed: Seed,
) -> ServingRecords:
    """Records of the decode engines, requests in the order of `goes_on`."""
    started = first.times[:, kernel.FIRST, goes_on]
    arrival = started + transfer.time_ms(workload.prompt_tokens[goes_on])
    order = np.argsort(arrival, axis=1, kind="stable")

    def serve(part: NDArray[np.int64], seed: Seed) -> ServingRecords:
        # Each run has an order of its own: `part` are places in that order.
        chosen = order[:, part]
        workloads = [
            Workload(
                arrival[run, pick],
                workload.prompt_tokens[goes_on[pick]],
                workload.output_tokens[goes_on[pick]],
            )
            for run, pick in enumerate(chosen)
        ]
        return simulate_engine(
            workloads,
            pool.settings,
            pool.step_times,
            overhead_ms=pool.overhead_ms,
            first_token_ms=[started[run, pick] for run, pick in enumerate(chosen)],
            seed=seed,
        )

    served = _in_turn(goes_on.size, pool.n_replicas, serve, seed)
    back = np.argsort(order, axis=1)
    times = np.take_along_axis(served.times, back[:, None, :], axis=2)
    return replace(served, times=times)


def _together(
    workload: Workload,
    goes_on: NDArray[np.int64],
    first: ServingRecords,
    second: ServingRecords,
) -> ServingRecords:
    """Whole requests from their records on either kind of engine."""
    times = first.times.copy()
    times[:, kernel.FINISH, goes_on] = second.times[:, kernel.FINISH]
    totals = _summed([first.totals, second.totals])
    totals[:, kernel.KV_INTEGRAL] = np.nan  # engines of two kinds have no common capacity
    return replace(
        first,
        output_tokens=np.broadcast_to(workload.output_tokens, first.output_tokens.shape),
        times=times,
        totals=totals,
        gaps=first.gaps + second.gaps,
        settings=second.settings,
    )


def _in_turn(
    n_requests: int,
    n_replicas: int,
    serve: Callable[[NDArray[np.int64], Seed], ServingRecords],
    seed: Seed,
) -> ServingRecords:
    """Records of all requests, served by replicas in turn."""
    parts = [np.arange(k, n_requests, n_replicas) for k in range(min(n_replicas, n_requests))]
    found = [
        serve(part, own)
        for part, own in zip(parts, streams(seed, "replicas", len(parts)), strict=True)
    ]
    if len(found) == 1:
        return found[0]
    order = np.argsort(np.concatenate(parts), kind="stable")
    return replace(
        found[0],
        prompt_tokens=np.concatenate([one.prompt_tokens for one in found], axis=1)[:, order],
        output_tokens=np.concatenate([one.output_tokens for one in found], axis=1)[:, order],
        times=np.concatenate([one.times for one in found], axis=2)[:, :, order],
        totals=_summed([one.totals for one in found]),
        gaps=np.sum([one.gaps for one in found], axis=0),
    )


def _summed(totals: Sequence[Array]) -> Array:
    """Totals of several engines."""
    stacked = np.stack(totals)
    summed = stacked.sum(axis=0)
    summed[:, _LARGEST] = stacked[:, :, _LARGEST].max(axis=0)
    return summed
