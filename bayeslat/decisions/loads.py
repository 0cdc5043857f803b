"""Serving over a range of loads: latency against throughput, goodput, prefill and decode apart.

All loads serve the same requests, which arrive faster or slower, and every load is simulated with
the same posterior draws. Differences between loads, and between two ways of serving, are therefore
those of a draw with itself, and "A beats B" has a probability.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bayeslat.decisions.serving import N_RUNS, ServiceObjective, StepOverhead, pool_of
from bayeslat.engine import (
    EngineSettings,
    ServingRecords,
    Transfer,
    Workload,
    simulate_disaggregated,
    simulate_pool,
)
from bayeslat.errors import InputError
from bayeslat.predictive import DeploymentDraws, Estimate
from bayeslat.predictive.estimate import check_probability, estimate

__all__ = ["Disaggregation", "LoadCurve", "compare_disaggregation", "load_curve", "loads_around"]

type Array = NDArray[np.float64]

MARGIN: Final = 0.01
"""Relative difference in goodput that nobody would build another cluster for."""

PERCENTILES: Final = {"p50": 0.5, "p99": 0.99}
CURVE_METRICS: Final = ("ttft_ms", "tpot_ms", "e2e_ms")
FALLING_BEHIND: Final = 0.9
"""A run falls behind where it starts to answer fewer than this share of the requests that arrive in
a second, counted over the second half of them."""


@dataclass(frozen=True, eq=False)
class LoadCurve:
    """What a deployment delivers at each load.

    Parameters
    ----------
    arrivals_per_s : array, shape (load,)
        Offered requests a second, all engines together.
    n_gpus : int
        Devices that serve them.
    objective : ServiceObjective
        What counts as served well.
    records : tuple of ServingRecords
        One for each load.
    """

    arrivals_per_s: Array
    n_gpus: int
    objective: ServiceObjective
    records: tuple[ServingRecords, ...]

    @property
    def goodput_per_run(self) -> Array:
        """Requests a second within the objective, shape (load, run).

        The share of requests that keep it times the load: unlike a count over the time that a
        workload took, it does not depend on how long the last requests of a finite one run on.
        """
        limits = self.objective.limits()
        kept = np.stack([one.attainment_per_run(**limits) for one in self.records])
        return kept * self.arrivals_per_s[:, None]

    def probability_behind(self) -> Array:
        """Probability that requests pile up or leave unserved at each load, shape (load,).

        Told by first tokens: decode engines of their own that fall behind show in TPOT and goodput
        only.
        """
        rates = self.arrivals_per_s
        behind = [_falls_behind(one, r) for one, r in zip(self.records, rates, strict=True)]
        return np.array([runs.mean() for runs in behind])

    def max_goodput(self, *, credible: float = 0.9) -> Estimate:
        """Largest goodput over the loads that were simulated, requests a second.

        Each run has its largest at a load of its own.
        """
        own = self.goodput_per_run.max(axis=0)
        return estimate(np.median(own), own, credible)

    def sustained(self, *, attainment: float = 0.9, confident: float = 0.5) -> float | None:
        """Largest load at which the objective is attained.

        Parameters
        ----------
        attainment : float
            Share of requests that must keep it.
        confident : float
            Posterior probability with which they must.

        Returns
        -------
        float or None
            Requests a second, the largest below which all simulated loads keep it; None where none
            does.
        """
        check_probability("attainment", attainment)
        check_probability("confident", confident)
        limits = self.objective.limits()
        kept = [
            bool(np.mean(one.attainment_per_run(**limits) >= attainment) >= confident)
            for one in self.records
        ]
        first = kept.index(False) if False in kept else len(kept)
        return None if first == 0 else float(self.arrivals_per_s[first - 1])

    def table(self, *, credible: float = 0.9) -> pd.DataFrame:
        """One row a load: percentiles in ms, attainment, goodput, throughput, each with bounds.

        Columns ``<name>``, ``<name>_lower`` and ``<name>_upper``, with ``arrivals_per_s`` and
        ``p_behind``.
        """
        rows = []
        limits = self.objective.limits()
        for one, goodput in zip(self.records, self.goodput_per_run, strict=True):
            found = {
                f"{name.removesuffix('_ms')}_{label}_ms": one.percentile(name, q, credible=credible)
                for name in CURVE_METRICS
                for label, q in PERCENTILES.items()
            }
            found["attainment"] = one.attainment(**limits, credible=credible)
            found["goodput_per_s"] = estimate(np.median(goodput), goodput, credible)
            found["tokens_per_s"] = one.throughput(credible=credible)
            rows.append(_flat(found))
        table = pd.DataFrame(rows)
        table.insert(0, "arrivals_per_s", self.arrivals_per_s)
        table["p_behind"] = self.probability_behind()
        return table


@dataclass(frozen=True, eq=False)
class Disaggregation:
    """Prefill and decode together against apart, on as many devices or not.

    Parameters
    ----------
    aggregated, disaggregated : LoadCurve
        The same requests at the same loads, with the same draws.
    """

    aggregated: LoadCurve
    disaggregated: LoadCurve

    def goodput_per_gpu(self) -> tuple[Array, Array]:
        """Goodput per device of either way, each of shape (load, run)."""
        both = self.aggregated, self.disaggregated
        together, apart = (curve.goodput_per_run / curve.n_gpus for curve in both)
        return together, apart

    def table(self, *, credible: float = 0.9) -> pd.DataFrame:
        """One row a load: TTFT, TPOT and goodput per device of both, and who wins.

        ``p_disaggregated_wins`` is the probability that disaggregation has the larger goodput per
        device by more than `MARGIN`; less of a difference is a tie and counts half.
        """
        sides = {"aggregated": self.aggregated, "disaggregated": self.disaggregated}
        goodput = dict(zip(sides, self.goodput_per_gpu(), strict=True))
        rows = []
        for load in range(self.aggregated.arrivals_per_s.size):
            found = {}
            for side, curve in sides.items():
                for name in ("ttft_ms", "tpot_ms"):
                    key = f"{side}_{name.removesuffix('_ms')}_p99_ms"
                    found[key] = curve.records[load].percentile(name, 0.99, credible=credible)
                own = goodput[side][load]
                found[f"{side}_goodput_per_gpu_s"] = estimate(np.median(own), own, credible)
            rows.append(_flat(found))
        table = pd.DataFrame(rows)
        table.insert(0, "arrivals_per_s", self.aggregated.arrivals_per_s)
        together, apart = goodput.values()
        better, worse = apart > (1.0 + MARGIN) * together, together > (1.0 + MARGIN) * apart
        table["p_disaggregated_wins"] = np.mean(0.5 + 0.5 * better - 0.5 * worse, axis=1)
        return table


def loads_around(capacity_per_s: Array, shares: Sequence[float]) -> list[float]:
    """Loads at shares of the median capacity over draws, three digits each.

    Parameters
    ----------
    capacity_per_s : array, shape (draw,)
        Requests a second that are sustained.
    shares : sequence of float
        Of that capacity, ascending.
    """
    capacity = float(np.median(capacity_per_s))
    return [float(f"{share * capacity:.3g}") for share in shares]


def load_curve(
    draws: DeploymentDraws,
    workload: Workload,
    settings: EngineSettings,
    *,
    arrivals_per_s: Sequence[float],
    objective: ServiceObjective,
    overhead: StepOverhead | None = None,
    n_replicas: int = 1,
    n_runs: int = N_RUNS,
    repeated_share: float | None = None,
    seed: int = 0,
) -> LoadCurve:
    """Simulate a deployment at several loads.

    Parameters
    ----------
    draws : DeploymentDraws
        Posterior draws.
    workload : Workload
        Requests, whose arrivals are stretched to each load.
    settings : EngineSettings
        Scheduling of each engine.
    arrivals_per_s : sequence of float
        Loads, requests a second, ascending.
    objective : ServiceObjective
        What counts as served well.
    overhead, n_replicas, n_runs, repeated_share, seed
        As in `bayeslat.decisions.serving.serve`.

    Raises
    ------
    InputError
        Loads that are not positive or not ascending, and what `serve` refuses.
    """
    loads = _loads(arrivals_per_s)
    pool = pool_of(
        draws,
        workload,
        settings,
        overhead=overhead,
        n_replicas=n_replicas,
        n_runs=n_runs,
        repeated_share=repeated_share,
    )

    def at(load: float) -> ServingRecords:
        return simulate_pool(workload.at_rate(load), pool, seed=seed)

    return _curve(loads, n_replicas * draws.deployment.tp, objective, at)


def compare_disaggregation(
    prefill: DeploymentDraws,
    decode: DeploymentDraws,
    workload: Workload,
    settings: EngineSettings,
    *,
    transfer: Transfer,
    arrivals_per_s: Sequence[float],
    objective: ServiceObjective,
    n_prefill: int = 1,
    n_decode: int = 1,
    prefill_settings: EngineSettings | None = None,
    overhead: StepOverhead | None = None,
    prefill_overhead: StepOverhead | None = None,
    n_runs: int = N_RUNS,
    repeated_share: float | None = None,
    seed: int = 0,
) -> Disaggregation:
    """Prefill and decode on engines of their own, against as many engines that do both.

    Parameters
    ----------
    prefill, decode : DeploymentDraws
        Deployments of either kind, often the same; the aggregated engines are of the second. Two
        deployments of one fleet must come from the same posterior, so that draws belong together.
    workload, settings, arrivals_per_s, objective, overhead, n_runs, repeated_share, seed
        As in `load_curve`; the settings are those of aggregated and decode engines.
    transfer : Transfer
        Link between prefill and decode engines.
    n_prefill, n_decode : int
        Engines of either kind; ``n_prefill + n_decode`` aggregated engines are the comparison.
    prefill_settings, prefill_overhead : optional
        Scheduling and overhead of prefill engines; by default as the others.

    Raises
    ------
    InputError
        Draws of different numbers, engines that requests leave unserved, and what `load_curve`
        refuses.
    """
    if prefill.n_draws != decode.n_draws:
        raise InputError(
            f"got {prefill.n_draws} draws of prefill and {decode.n_draws} of decode engines,"
            " expected as many; take both from one posterior"
        )
    loads = _loads(arrivals_per_s)
    of_prefill = pool_of(
        prefill,
        workload,
        prefill_settings or settings,
        overhead=prefill_overhead or overhead,
        n_replicas=n_prefill,
        n_runs=n_runs,
        repeated_share=repeated_share,
    )
    of_decode = pool_of(
        decode,
        workload,
        settings,
        overhead=overhead,
        n_replicas=n_decode,
        n_runs=n_runs,
        repeated_share=repeated_share,
    )
    of_both = replace(of_decode, n_replicas=n_prefill + n_decode)

    def together(load: float) -> ServingRecords:
        return simulate_pool(workload.at_rate(load), of_both, seed=seed)

    def apart(load: float) -> ServingRecords:
        served = workload.at_rate(load)
        return simulate_disaggregated(served, of_prefill, of_decode, transfer, seed=seed)

    each = decode.deployment.tp
    devices = n_prefill * prefill.deployment.tp + n_decode * each
    return Disaggregation(
        _curve(loads, of_both.n_replicas * each, objective, together),
        _curve(loads, devices, objective, apart),
    )


def _curve(
    loads: Array,
    n_gpus: int,
    objective: ServiceObjective,
    at: Callable[[float], ServingRecords],
) -> LoadCurve:
    return LoadCurve(loads, n_gpus, objective, tuple(at(float(load)) for load in loads))


def _loads(arrivals_per_s: Sequence[float]) -> Array:
    loads = np.atleast_1d(np.asarray(arrivals_per_s, dtype=float))
    ascending = (np.diff(loads) > 0.0).all()
    if loads.size == 0 or not (np.isfinite(loads) & (loads > 0.0)).all() or not ascending:
        raise InputError(
            f"got loads {loads.tolist()}, expected positive finite requests a second in ascending"
            " order; correct the loads"
        )
    return loads


def _falls_behind(records: ServingRecords, arrivals_per_s: float) -> NDArray[np.bool_]:
    """Whether a run answers too few of the second half of its requests, shape (run,)."""
    n, half = records.n_requests, records.n_requests // 2
    first = np.sort(records.arrival_ms + records.ttft_ms, axis=1)  # infinite where there is none
    answered = np.isfinite(first).sum(axis=1)
    arrived = records.arrival_ms[:, -1] - records.arrival_ms[:, half]
    with np.errstate(invalid="ignore"):
        span = np.take_along_axis(first, answered[:, None] - 1, axis=1)[:, 0] - first[:, half]
        late = (answered - 1 - half) * np.maximum(arrived, 1e3 / arrivals_per_s) < (
            FALLING_BEHIND * (n - 1 - half) * span
        )
    return np.asarray(late | (answered <= half))


def _flat(found: dict[str, Estimate]) -> dict[str, float]:
    """Estimates as columns."""
    columns: dict[str, float] = {}
    for name, (value, lower, upper) in found.items():
        columns |= {name: value, f"{name}_lower": lower, f"{name}_upper": upper}
    return columns
