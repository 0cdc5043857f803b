"""How evenly requests are served: their speed beside that of a request alone, and Jain's index."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bayeslat.engine import EngineSettings, StepTimes, Workload

__all__ = ["alone_ms", "jain_index"]

type Array = NDArray[np.float64]


def jain_index(values: Array) -> Array:
    """(sum x)^2 / (n sum x^2) over the last axis: how evenly something is shared.

    One where all have the same, 1 / n where one has everything; NaN where nobody has anything.

    References
    ----------
    Jain, Chiu and Hawe (1984). A quantitative measure of fairness and discrimination for resource
    allocation in shared computer systems.
    """
    total, squares = np.sum(values, axis=-1), np.square(values).sum(axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.square(total) / (values.shape[-1] * squares))


def alone_ms(
    workload: Workload, settings: EngineSettings, times: StepTimes, *, overhead_ms: Any = 0.0
) -> Array:
    """Milliseconds that each request would take with the engine to itself, shape (run, request).

    Parameters
    ----------
    workload : Workload
        Requests.
    settings : EngineSettings
        Whose budget of tokens cuts prompts into chunks.
    times : StepTimes
        Latencies of steps, whose noise is left out.
    overhead_ms : float or array, shape (run,)
        Milliseconds between steps.
    """
    gap = np.broadcast_to(np.asarray(overhead_ms, dtype=float), times.n_runs)[:, None]
    total = np.zeros((times.n_runs, workload.size))
    done = np.zeros(workload.size, np.int64)
    while (left := workload.prompt_tokens - done).any():
        new = np.minimum(left, settings.max_num_batched_tokens)
        done = done + new
        level, older, own = _line(times, np.maximum(new, 1) - 1)
        took = level + done * np.where(done > new, older, own)
        total += np.where(new > 0, took + gap, 0.0)
    level, older, _ = _line(times, np.zeros(1, np.int64))
    further = workload.output_tokens - 1
    positions = further * workload.prompt_tokens + 0.5 * further * (further + 1)
    return total + further * (level + gap) + older * positions


def _line(times: StepTimes, extra: NDArray[np.int64]) -> tuple[Array, Array, Array]:
    """Steps of one request: milliseconds without context, and for each position of either kind."""
    below, weight = times.places()[1][:, extra]
    column = below.astype(int)
    tables = times.location, times.per_position, times.per_own_position
    level, older, own = (
        table[:, 0, column] * (1.0 - weight) + table[:, 0, column + 1] * weight
        for table in tables
        if table is not None
    )
    return level, older, own
