"""Discrete-event simulation of an engine: a workload in, the times of its requests out.

A run has parameters of its own, drawn once, and noise at every step. What differs between runs is
therefore what is not known about the deployment, and what differs within a run is what a user would
see. All runs serve the same requests.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bayeslat.engine import kernel
from bayeslat.engine.gates import StepGates
from bayeslat.engine.records import ServingRecords
from bayeslat.engine.seeds import Seed, streams
from bayeslat.engine.settings import EngineSettings
from bayeslat.engine.step_times import StepTimes
from bayeslat.engine.workload import Workload
from bayeslat.errors import InputError

__all__ = ["simulate_engine"]

type Array = NDArray[np.float64]

_FAMILY: Final = {
    "student_t": kernel.STUDENT_T,
    "normal": kernel.NORMAL,
    "lognormal": kernel.LOGNORMAL,
}


def simulate_engine(
    workload: Workload | Sequence[Workload],
    settings: EngineSettings,
    step_times: StepTimes,
    *,
    overhead_ms: ArrayLike = 0.0,
    first_token_ms: Sequence[Array] | None = None,
    n_logged_steps: int = 0,
    seed: Seed = 0,
    gates: StepGates | None = None,
    sla_ms: float | None = None,
) -> ServingRecords:
    """Serve a workload, once for each run of the step times.

    Parameters
    ----------
    workload : Workload, or one for each run
        Requests; those of several runs must have the same number.
    settings : EngineSettings
        Scheduling.
    step_times : StepTimes
        Latencies of steps; they must cover the largest step of the settings.
    overhead_ms : float or array, shape (run,)
        Milliseconds between the end of a step and the start of the next.
    first_token_ms : sequence of array, optional
        For each run when the first token of each request left another engine, which computed the
        prompts: the requests arrive with their cache and need the rest of their tokens.
    n_logged_steps : int
        Steps of each run to keep, from the first on.
    seed : int or SeedSequence
        Of the noise of steps.
    gates : StepGates, optional
        What the scheduler of ``EngineSettings(sla_aware=True)`` asks, for one run or for each, at
        the nodes of the step times.
    sla_ms : float, optional
        Limit of a step's own latency, without the overhead. Steps over it are counted, whoever
        schedules; the totals about it are NaN where it is not given.

    Returns
    -------
    ServingRecords

    Raises
    ------
    InputError
        A request that the cache cannot hold, step times that do not cover the settings, a
        negative overhead or limit, or gates without an SLA-aware scheduler, none with one, and
        those of other nodes or runs.
    """
    n_runs = step_times.n_runs
    workloads = [workload] * n_runs if isinstance(workload, Workload) else list(workload)
    if sla_ms is not None and not 0.0 < sla_ms < np.inf:
        raise InputError(
            f"got sla_ms={sla_ms}, expected positive finite milliseconds; leave it out where steps"
            " have no limit"
        )
    _check(workloads, settings, step_times)
    if first_token_ms is not None and min(w.output_tokens.min() for w in workloads) < 2:
        raise InputError(
            "got first tokens from elsewhere for requests of one token, expected requests with more"
            " to come; leave out what has ended"
        )
    overhead = np.broadcast_to(np.asarray(overhead_ms, dtype=float), n_runs)
    if not (np.isfinite(overhead) & (overhead >= 0.0)).all():
        raise InputError(
            f"got overhead_ms from {overhead.min():g}, expected non-negative finite milliseconds;"
            " correct the overhead"
        )
    n_requests = workloads[0].size
    times = np.full((n_runs, kernel.N_TIMES, n_requests), np.nan)
    gaps = np.zeros((n_runs, kernel.N_GAPS), np.int64)
    logs = np.full((n_runs, 5, n_logged_steps), np.nan)
    totals = np.empty((n_runs, kernel.N_TOTALS))
    rows, columns = step_times.places()
    nodes = np.ascontiguousarray(step_times.extra_nodes, dtype=np.int64)
    limits, scales = settings.limits(), settings.scales(sla_ms)
    asked = _gates(gates, settings, step_times)
    patience = np.inf if settings.patience_ms is None else float(settings.patience_ms)
    generators = [np.random.default_rng(own) for own in streams(seed, "noise", n_runs)]

    def serve(run: int) -> None:
        served = workloads[run]
        requests = np.zeros((kernel.N_COUNTS, n_requests), np.int64)
        requests[kernel.PROMPT] = served.prompt_tokens
        requests[kernel.OUTPUT] = served.output_tokens
        times[run, kernel.ARRIVAL] = served.arrival_ms
        if served.users:
            times[run, kernel.ARRIVAL, served.users :] = np.inf
        if first_token_ms is not None:
            requests[kernel.COMPUTED], requests[kernel.GENERATED] = served.prompt_tokens, 1
            times[run, kernel.FIRST] = first_token_ms[run]
        totals[run] = kernel.run_engine(
            requests, limits, scales, (asked.tables(run), rows, columns, nodes),
            served.users or n_requests, served.think_ms, patience,
            overhead[run], step_times.tables(run), rows, columns, _FAMILY[step_times.family],
            step_times.nu[run], generators[run],
            times[run], gaps[run], logs[run],
        )  # fmt: skip

    with ThreadPoolExecutor(min(n_runs, os.cpu_count() or 1)) as pool:
        list(pool.map(serve, range(n_runs)))
    if sla_ms is None:
        totals[:, kernel.OVER :] = np.nan
    return ServingRecords(
        np.stack([served.prompt_tokens for served in workloads]),
        np.stack([served.output_tokens for served in workloads]),
        times,
        totals,
        gaps,
        settings,
        logs,
    )


def _gates(gates: StepGates | None, settings: EngineSettings, step_times: StepTimes) -> StepGates:
    """The gates that fit the settings and the step times; one that is not asked where none is."""
    if settings.sla_aware != (gates is not None):
        raise InputError(
            f"got sla_aware={settings.sla_aware} {'without' if gates is None else 'with'} gates,"
            " expected gates for an SLA-aware scheduler and for no other; give both or neither"
        )
    if gates is None:
        return StepGates.open(step_times)
    gates.check(step_times)
    return gates


def _check(workloads: list[Workload], settings: EngineSettings, step_times: StepTimes) -> None:
    sizes = {served.size for served in workloads}
    if len(workloads) != step_times.n_runs or len(sizes) != 1:
        raise InputError(
            f"got {len(workloads)} workloads of {sorted(sizes)} requests for {step_times.n_runs}"
            " runs, expected one workload, or one for each run with as many requests"
        )
    for served in workloads:
        settings.check(served)
        tokens = settings.most_tokens(served)
        covered = step_times.max_batch_size, step_times.max_extra_tokens
        if covered[0] < settings.max_num_seqs or covered[1] < tokens:
            raise InputError(
                f"got step times up to B = {covered[0]} and S - B = {covered[1]}, expected them to"
                f" cover B = {settings.max_num_seqs} and S = {tokens}; make a larger table"
            )
