"""Ways of scheduling an engine, compared on the same requests under the same truths.

    comparison = compare_schedulers(
        draws, workload, settings, sla_ms=50.0, risk=0.01, objective=ServiceObjective(2000.0, 50.0)
    )
    comparison.table()

A run's truth is a posterior draw, as in `bayeslat.decisions.serving`, or step times that are given.
A scheduler that asks a posterior knows all draws and not which one is true. Over truths the one
that keeps P(latency > limit) <= risk should therefore exceed the limit in no more than that share
of its steps on average; in a truth that is slower than most it may exceed it more often, and
`SchedulerComparison.breaks_risk` says in how many. Steps that are forced (a request that does not
fit alone) are counted apart: no scheduler could have done better but by refusing the request.

The limit is one on the latency of a step itself, without the gap between steps; see
`bayeslat.decisions.step_gates`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bayeslat.decisions.fairness import alone_ms, jain_index
from bayeslat.decisions.schedulers import ORACLE, SCHEDULERS, Scheduler
from bayeslat.decisions.serving import N_RUNS, ServiceObjective, StepOverhead, step_times
from bayeslat.decisions.step_gates import mean_gates, oracle_gates, risk_gates
from bayeslat.engine import (
    EngineSettings,
    ServingRecords,
    StepGates,
    StepTimes,
    Workload,
    simulate_engine,
)
from bayeslat.errors import InputError
from bayeslat.predictive import DeploymentDraws, Estimate
from bayeslat.predictive.estimate import check_probability

__all__ = ["SchedulerComparison", "compare_schedulers"]

type Array = NDArray[np.float64]

AVERAGED: Final = ("over_sla", "over_sla_decodes", "over_sla_chosen", "forced")
"""Shares of steps, of which the mean over runs is a probability; of the rest it is the median."""

METRICS: Final = (
    *AVERAGED,
    "attainment",
    "goodput_per_s",
    "ttft_p99_ms",
    "tpot_p99_ms",
    "gap_p99_ms",
    "tokens_per_s",
    "fairness",
)


@dataclass(frozen=True, eq=False)
class SchedulerComparison:
    """What each scheduler makes of the same requests under the same truths.

    Parameters
    ----------
    schedulers : tuple of Scheduler
        The rows of all answers.
    records : tuple of tuple of ServingRecords
        For each scheduler those of every replicate: a workload with a seed of the noise.
    alone : tuple of array, each shape (run, request)
        For every replicate the milliseconds that each request would take alone; see `alone_ms`.
    arrivals_per_s : tuple of float
        Of each replicate; NaN in a closed loop.
    objective : ServiceObjective
        What counts as served well.
    sla_ms, risk : float
        Limit of a step's latency, and the admitted probability of exceeding it.
    """

    schedulers: tuple[Scheduler, ...]
    records: tuple[tuple[ServingRecords, ...], ...]
    alone: tuple[Array, ...]
    arrivals_per_s: tuple[float, ...]
    objective: ServiceObjective
    sla_ms: float
    risk: float

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the schedulers."""
        return tuple(one.name for one in self.schedulers)

    @cached_property
    def values(self) -> dict[str, Array]:
        """Every one of `METRICS`, shape (scheduler, replicate, run).

        * ``over_sla``: share of the steps over the limit; ``_decodes`` of those with a decode,
          ``_chosen`` of those that were not forced; ``forced``: share of steps that were;
        * ``attainment``: share of requests within the objective; ``goodput_per_s``: that share of
          the arrivals a second (of the requests a second where they come in a closed loop);
        * ``ttft_p99_ms``, ``tpot_p99_ms``: of requests; ``gap_p99_ms``: of successive tokens;
        * ``tokens_per_s``: output tokens over the whole run;
        * ``fairness``: Jain's index of the speed of requests, the time that a request would take
          alone over the time it took: one where all are slowed down alike, 1 / n where one of n
          requests is served and the others never.
        """
        found = [[self._of(*one) for one in self._replicates(own)] for own in self.records]
        return {name: np.array([[one[name] for one in own] for own in found]) for name in METRICS}

    def estimate(self, name: str, scheduler: str, *, credible: float = 0.9) -> Estimate:
        """A metric with its interval over runs and replicates.

        The value is the mean for shares of steps, and the median for all others.
        """
        own = self._metric(name)[self._row(scheduler)].ravel()
        return _summary(own, credible, mean=name in AVERAGED)

    def error(self, name: str, scheduler: str) -> float:
        """Standard error of the mean of a metric over truths; replicates of one are averaged."""
        own = _per_truth(self._metric(name)[self._row(scheduler)])
        return float(np.std(own, ddof=1) / np.sqrt(own.size)) if own.size > 1 else np.nan

    def breaks_risk(self, scheduler: str) -> float:
        """Share of truths in which more of the steps that had a choice are over than the risk."""
        own = _per_truth(self.values["over_sla_chosen"][self._row(scheduler)])
        return float((own > self.risk).mean()) if own.size else np.nan

    def against(
        self, name: str, scheduler: str, other: str = ORACLE, *, credible: float = 0.9
    ) -> Estimate:
        """A metric of one scheduler over that of another, paired truth by truth.

        The value is the ratio of the means over truths, the interval that of the truths' own
        ratios; a truth in which both are zero counts as one.

        Raises
        ------
        InputError
            A scheduler or a metric that is not among those compared.
        """
        both = (self._metric(name)[self._row(one)].mean(axis=0) for one in (scheduler, other))
        upper, lower = both
        with np.errstate(invalid="ignore", divide="ignore"):
            own = np.where((upper == 0.0) & (lower == 0.0), 1.0, upper / lower)
            value = np.divide(upper.mean(), lower.mean()) if upper.any() or lower.any() else 1.0
        return Estimate(float(value), *_summary(own, credible, mean=False)[1:])

    def table(self, *, credible: float = 0.9) -> pd.DataFrame:
        """One row a scheduler: every metric with its bounds, and what it is beside the oracle.

        Columns ``<name>``, ``<name>_lower`` and ``<name>_upper``, with ``over_sla_chosen_error``,
        ``p_breaks_risk`` and, where the oracle is compared, ``goodput_ratio`` with its bounds.
        """
        rows = []
        for name in self.names:
            row: dict[str, Any] = {"scheduler": name}
            for metric in METRICS:
                row |= _flat(metric, self.estimate(metric, name, credible=credible))
            row["over_sla_chosen_error"] = self.error("over_sla_chosen", name)
            row["p_breaks_risk"] = self.breaks_risk(name)
            if ORACLE in self.names:
                row |= _flat(
                    "goodput_ratio", self.against("goodput_per_s", name, credible=credible)
                )
            rows.append(row)
        return pd.DataFrame(rows)

    def _row(self, scheduler: str) -> int:
        if scheduler not in self.names:
            raise InputError(
                f"got scheduler {scheduler!r}, expected one of {', '.join(self.names)};"
                " compare it too"
            )
        return self.names.index(scheduler)

    def _metric(self, name: str) -> Array:
        if name not in METRICS:
            raise InputError(f"got metric {name!r}, expected one of {', '.join(METRICS)}")
        return self.values[name]

    def _replicates(
        self, own: tuple[ServingRecords, ...]
    ) -> list[tuple[ServingRecords, Array, float]]:
        return list(zip(own, self.alone, self.arrivals_per_s, strict=True))

    def _of(self, one: ServingRecords, alone: Array, rate: float) -> dict[str, Array]:
        """The metrics of one replicate, each shape (run,)."""
        limits = self.objective.limits()
        kept = one.attainment_per_run(**limits)
        return {
            "over_sla": one.over_sla_per_run(),
            "over_sla_decodes": one.over_sla_per_run("decodes"),
            "over_sla_chosen": one.over_sla_per_run("chosen"),
            "forced": one.total_per_run("forced_steps") / one.total_per_run("n_steps"),
            "attainment": kept,
            "goodput_per_s": kept * rate if np.isfinite(rate) else one.goodput_per_run(**limits),
            "ttft_p99_ms": one.percentile_per_run("ttft_ms", 0.99),
            "tpot_p99_ms": one.percentile_per_run("tpot_ms", 0.99),
            "gap_p99_ms": one.gap_percentile_per_run(0.99),
            "tokens_per_s": one.throughput_per_run(),
            "fairness": jain_index(alone / one.e2e_ms),
        }


def compare_schedulers(
    draws: DeploymentDraws,
    workload: Workload | Sequence[Workload],
    settings: EngineSettings,
    *,
    sla_ms: float,
    risk: float,
    objective: ServiceObjective,
    schedulers: Sequence[Scheduler] = SCHEDULERS,
    overhead: StepOverhead | None = None,
    n_runs: int = N_RUNS,
    repeated_share: float | None = None,
    truth: StepTimes | None = None,
    seeds: Sequence[int] = (0,),
) -> SchedulerComparison:
    """Serve the same requests by several schedulers, under the same truths and noise.

    Parameters
    ----------
    draws : DeploymentDraws
        Posterior draws: what SLA-aware schedulers know, and the truths where no other is given.
    workload : Workload or sequence of Workload
        Requests; several are replicates of each other.
    settings : EngineSettings
        Of the engine; each scheduler changes what is its own.
    sla_ms, risk : float
        Limit of a step's latency in milliseconds, and the admitted probability of exceeding it.
    objective : ServiceObjective
        What counts as served well.
    schedulers : sequence of Scheduler
        What to compare, by different names.
    overhead, n_runs, repeated_share
        As in `bayeslat.decisions.serving.serve`.
    truth : StepTimes, optional
        True step times of the runs, for a truth that is no posterior draw; they must cover the
        largest step of every scheduler.
    seeds : sequence of int
        Of the noise; each serves every workload once.

    Raises
    ------
    InputError
        No scheduler, two of one name, no seed or workload, and what `simulate_engine` refuses.
    """
    workloads = [workload] if isinstance(workload, Workload) else list(workload)
    _check(schedulers, workloads, seeds, risk)
    chosen = [one.settings(settings) for one in schedulers]
    times = truth or step_times(
        draws,
        max_batch_size=max(one.max_num_seqs for one in chosen),
        max_total_tokens=max(one.most_tokens(w) for one in chosen for w in workloads),
        n_runs=n_runs,
        repeated_share=repeated_share,
    )
    gap = (overhead or StepOverhead()).draws(times.n_runs)
    replicates = [(served, seed) for served in workloads for seed in seeds]
    records = []
    for one, own in zip(schedulers, chosen, strict=True):
        gates = _gates(one, draws, times, sla_ms, risk)
        records.append(
            tuple(
                simulate_engine(
                    served, own, times, overhead_ms=gap, gates=gates, sla_ms=sla_ms, seed=seed
                )
                for served, seed in replicates
            )
        )
    alone = [alone_ms(served, settings, times, overhead_ms=gap) for served in workloads]
    rates = [np.nan if served.users else served.arrivals_per_s for served in workloads]
    return SchedulerComparison(
        tuple(schedulers),
        tuple(records),
        tuple(alone[k] for k in range(len(workloads)) for _ in seeds),
        tuple(rates[k] for k in range(len(workloads)) for _ in seeds),
        objective,
        sla_ms,
        risk,
    )


def _gates(
    scheduler: Scheduler, draws: DeploymentDraws, times: StepTimes, sla_ms: float, risk: float
) -> StepGates | None:
    if scheduler.gate is None or isinstance(scheduler.gate, StepGates):
        return scheduler.gate
    if not isinstance(scheduler.gate, str):
        return StepGates.from_gate(scheduler.gate, times)
    if scheduler.gate == "mean":
        return mean_gates(draws, times, sla_ms=sla_ms)
    if scheduler.gate == "risk":
        return risk_gates(draws, times, sla_ms=sla_ms, risk=risk)
    return oracle_gates(times, sla_ms=sla_ms, risk=risk)


def _check(
    schedulers: Sequence[Scheduler],
    workloads: Sequence[Workload],
    seeds: Sequence[int],
    risk: float,
) -> None:
    names = [one.name for one in schedulers]
    if not names or len(set(names)) != len(names):
        raise InputError(
            f"got schedulers {names}, expected at least one, each by a name of its own; rename them"
        )
    if not workloads or len(seeds) == 0:
        raise InputError(
            f"got {len(workloads)} workloads and {len(seeds)} seeds, expected at least one of each"
        )
    check_probability("risk", risk)


def _per_truth(own: Array) -> Array:
    """Mean over the replicates of each truth of which anything is known, shape (truth,)."""
    return np.nanmean(own[:, ~np.isnan(own).all(axis=0)], axis=0)


def _summary(own: Array, credible: float, *, mean: bool) -> Estimate:
    """Mean or median with the equal-tailed interval, of what is known; infinities are allowed."""
    check_probability("credible", credible)
    known = own[~np.isnan(own)]
    if known.size == 0:
        return Estimate(np.nan, np.nan, np.nan)
    tail = 0.5 * (1.0 - credible)
    method: Literal["linear", "inverted_cdf"] = (
        "linear" if np.isfinite(known).all() else "inverted_cdf"
    )
    middle, lower, upper = (
        float(np.quantile(known, level, method=method)) for level in (0.5, tail, 1.0 - tail)
    )
    return Estimate(float(known.mean()) if mean else middle, lower, upper)


def _flat(name: str, values: Estimate) -> dict[str, float]:
    value, lower, upper = values
    return {name: value, f"{name}_lower": lower, f"{name}_upper": upper}
