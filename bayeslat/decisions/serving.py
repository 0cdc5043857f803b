"""Serving: what a user of one deployment feels, simulated from its posterior.

Every posterior draw is a run of the engine simulator with step times of its own: the parameters of
the draw, what the discrepancy's features miss (one function for a run) and new noise at every step.
Step logs hold the time of the steps and seldom what passes between two of them: scheduling,
sampling on the CPU, launching. That gap is a fixed overhead a step, unknown, with a prior
(`StepOverhead`).
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import special

from bayeslat.decisions.arguments import check_count
from bayeslat.engine import (
    EngineSettings,
    Pool,
    ServingRecords,
    StepTimes,
    Workload,
    nodes,
    serve_overflow,
    simulate_pool,
)
from bayeslat.errors import InputError
from bayeslat.predictive import DeploymentDraws
from bayeslat.predictive.draws import Points
from bayeslat.predictive.sampled import divided, missing_normals, repeated_shares

__all__ = [
    "N_RUNS",
    "ServiceObjective",
    "StepOverhead",
    "pool_of",
    "serve",
    "step_times",
    "thinned",
]

type Array = NDArray[np.float64]

N_RUNS: Final = 100
"""Posterior draws that are simulated: enough for a 90 % interval to be known to 3 % of its mass."""

FAR: Final = 1e6
"""Attended positions that tell the slope by C; latency is linear in it."""


@dataclass(frozen=True)
class StepOverhead:
    """Prior of the time between the end of a step and the start of the next: lognormal.

    Parameters
    ----------
    median_ms : float
        Milliseconds; 0 for none. The default is that of engines that prepare the next step while
        one runs, as vLLM and SGLang do by default; engines that do not take 2 to 5 ms.
    spread : float
        Standard deviation of its logarithm. With the default of 1, nine in ten engines lie between
        a fifth and five times the median.

    Notes
    -----
    Where step times were logged as whole engine cycles there is no gap: use ``StepOverhead(0.0)``.
    """

    median_ms: float = 0.7
    spread: float = 1.0

    def __post_init__(self) -> None:
        if not (0.0 <= self.median_ms < np.inf and 0.0 <= self.spread < np.inf):
            raise InputError(
                f"got StepOverhead({self.median_ms}, {self.spread}), expected a median and a spread"
                " of at least 0; 0 ms is no overhead"
            )

    def draws(self, n: int, *, seed: int = 0) -> Array:
        """Milliseconds in each of n runs: quantiles of the prior in a random order."""
        levels = np.random.default_rng(seed).permutation((np.arange(n) + 0.5) / n)
        return self.median_ms * np.exp(self.spread * special.ndtri(levels))


@dataclass(frozen=True)
class ServiceObjective:
    """Limits that a request has to keep; what is not given does not count.

    Parameters
    ----------
    ttft_ms, tpot_ms, e2e_ms : float
        Time to the first token, per further token, and to the last, in milliseconds.
    """

    ttft_ms: float = np.inf
    tpot_ms: float = np.inf
    e2e_ms: float = np.inf

    def __post_init__(self) -> None:
        for name in ("ttft_ms", "tpot_ms", "e2e_ms"):
            if not getattr(self, name) > 0.0:
                raise InputError(
                    f"got an objective of {name}={getattr(self, name)}, expected positive"
                    " milliseconds; leave out what does not count"
                )

    def __str__(self) -> str:
        limits = {"TTFT": self.ttft_ms, "TPOT": self.tpot_ms, "E2E": self.e2e_ms}
        given = [f"{name} <= {value:g} ms" for name, value in limits.items() if value < np.inf]
        return ", ".join(given) or "no limit"

    def limits(self) -> dict[str, float]:
        """The limits by the names that `ServingRecords.goodput` takes."""
        return {"ttft_ms": self.ttft_ms, "tpot_ms": self.tpot_ms, "e2e_ms": self.e2e_ms}


def step_times(
    draws: DeploymentDraws,
    *,
    max_batch_size: int,
    max_total_tokens: int,
    n_runs: int = N_RUNS,
    repeated_share: float | None = None,
) -> StepTimes:
    """Step latencies of posterior draws, as the simulator reads them.

    Parameters
    ----------
    draws : DeploymentDraws
        Posterior draws of the deployment.
    max_batch_size, max_total_tokens : int
        Largest B and S that may occur.
    n_runs : int
        Draws to take, evenly spaced; each becomes a run.
    repeated_share : float, optional
        Share of the noise that all steps of a run have in common; unknown where not given, see
        `bayeslat.predictive.sampled.repeated_shares`.

    Notes
    -----
    What the features of the discrepancy miss, and the repeated share of the noise, multiply the
    steps of a run by ``exp(scale x one normal)``: unknown, but the same whenever a step comes back.
    """
    kept, missing, share = thinned(draws, n_runs, repeated_share)
    batch, extra = nodes(1, max_batch_size), nodes(0, max_total_tokens)
    rows, columns = (
        axis.ravel().astype(float) for axis in np.meshgrid(batch, extra, indexing="ij")
    )
    tokens, nothing = rows + columns, np.zeros_like(rows)
    location, noise, common = divided(kept, Points(rows, tokens, nothing), share)
    far = kept.location(Points(rows, tokens, np.full_like(rows, FAR)))
    own = kept.location(Points(rows, tokens, tokens))
    factor = np.exp(common * missing[:, None])
    shape = (kept.n_draws, batch.size, extra.size)
    return StepTimes(
        batch,
        extra,
        (location * factor).reshape(shape),
        np.maximum((far - location) / FAR * factor, 0.0).reshape(shape),
        noise.reshape(shape),
        kept.nu,
        kept.family,
        np.maximum((own - location) / tokens * factor, 0.0).reshape(shape),
    )


def pool_of(
    draws: DeploymentDraws,
    workload: Workload,
    settings: EngineSettings,
    *,
    overhead: StepOverhead | None = None,
    n_replicas: int = 1,
    n_runs: int = N_RUNS,
    repeated_share: float | None = None,
) -> Pool:
    """Engines of one deployment, ready to be simulated.

    Parameters
    ----------
    draws : DeploymentDraws
        Posterior draws.
    workload : Workload
        What will be served: it decides how large steps become.
    settings : EngineSettings
        Scheduling.
    overhead : StepOverhead, optional
        Prior of the time between steps; the default prior where not given.
    n_replicas, n_runs : int
        Engines, and posterior draws to simulate.
    repeated_share : float, optional
        As in `step_times`.
    """
    most = settings.most_tokens(workload)
    times = step_times(
        draws,
        max_batch_size=settings.max_num_seqs,
        max_total_tokens=most,
        n_runs=n_runs,
        repeated_share=repeated_share,
    )
    gap = (overhead or StepOverhead()).draws(times.n_runs)
    return Pool(settings, times, n_replicas, gap)


def serve(
    draws: DeploymentDraws,
    workload: Workload,
    settings: EngineSettings,
    *,
    overhead: StepOverhead | None = None,
    n_replicas: int = 1,
    n_runs: int = N_RUNS,
    repeated_share: float | None = None,
    fallback_ms: float | None = None,
    n_logged_steps: int = 0,
    seed: int = 0,
) -> ServingRecords:
    """Serve a workload in as many runs as posterior draws are taken.

    Parameters
    ----------
    draws, workload, settings, overhead, n_replicas, n_runs, repeated_share
        As in `pool_of`.
    fallback_ms : float, optional
        Mean time of a request on a fallback server that takes those who have waited for
        ``settings.patience_ms``; exponential.
    n_logged_steps : int
        Steps of each run to keep.
    seed : int
        Seed of the noise.

    Returns
    -------
    ServingRecords
        A run for each draw: intervals over runs are what is not known about the deployment and
        its overhead, for this workload.

    Raises
    ------
    InputError
        A request that the cache cannot hold, or a fallback without a patience.
    """
    if fallback_ms is not None and settings.patience_ms is None:
        raise InputError(
            "got a fallback without a patience, expected EngineSettings(patience_ms=...): when a"
            " waiting request leaves for it"
        )
    pool = pool_of(
        draws,
        workload,
        settings,
        overhead=overhead,
        n_replicas=n_replicas,
        n_runs=n_runs,
        repeated_share=repeated_share,
    )
    records = simulate_pool(workload, pool, n_logged_steps=n_logged_steps, seed=seed)
    if fallback_ms is None:
        return records
    return serve_overflow(records, fallback_ms, seed=seed)


def thinned(
    draws: DeploymentDraws, n_runs: int, repeated_share: float | None
) -> tuple[DeploymentDraws, Array, Array]:
    """At most `n_runs` draws, their normals of what steps have in common, and repeated shares.

    Both are those of the same draws whatever the number of runs.
    """
    n = min(check_count("n_runs", n_runs, at_least=1), draws.n_draws)
    pick = np.linspace(0, draws.n_draws - 1, n).astype(int)
    share = repeated_shares(draws, repeated_share)
    return draws.take(pick), missing_normals(draws)[pick], share[pick]
