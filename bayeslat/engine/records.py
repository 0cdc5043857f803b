"""What an engine did with a workload: times of requests, totals, percentiles with intervals.

The first axis of every array is the run. A run has parameters of its own, so the spread over runs
is what is not known about the deployment: it is the interval of every `Estimate` here, whose value
is the median over runs. A percentile is that of one run, since a deployment has one set of
parameters and not all of them.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Final, Self

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from bayeslat.engine import kernel
from bayeslat.engine.settings import EngineSettings
from bayeslat.errors import InputError
from bayeslat.predictive.estimate import Estimate, check_probability, estimate

__all__ = ["METRICS", "ServingRecords"]

type Array = NDArray[np.float64]

METRICS: Final = ("ttft_ms", "tpot_ms", "e2e_ms", "queue_ms")
"""Times of a request: to its first token, for each further token, to its last, until it runs."""

SHARES: Final = {
    "all": ("over_sla", "n_steps", "", ""),
    "decodes": ("decode_steps_over_sla", "decode_steps", "", ""),
    "chosen": ("over_sla", "n_steps", "forced_steps_over_sla", "forced_steps"),
}
"""Totals of the steps over a limit and of all that count, less those of another kind."""

PERCENTILES: Final = {"p50": 0.5, "p90": 0.9, "p99": 0.99}
LENGTH_EDGES: Final = (512, 4096)
LOG_COLUMNS: Final = ("start_ms", "batch_size", "total_tokens", "context_tokens", "latency_ms")


@dataclass(frozen=True, eq=False)
class ServingRecords:
    """Requests served by one engine in one or many runs.

    Parameters
    ----------
    prompt_tokens, output_tokens : integer arrays, shape (run, request)
        Lengths.
    times : array, shape (run, N_TIMES, request)
        Milliseconds; rows as in `bayeslat.engine.kernel`, NaN where something did not happen.
    totals : array, shape (run, N_TOTALS)
        Sums over a run; see `bayeslat.engine.kernel.TOTALS`.
    gaps : integer array, shape (run, N_GAPS)
        Histogram of the gaps between successive tokens.
    settings : EngineSettings
        Of the engine.
    logs : array, shape (run, 5, step)
        The first steps of each run; NaN after the last.
    """

    prompt_tokens: NDArray[np.int64]
    output_tokens: NDArray[np.int64]
    times: Array
    totals: Array
    gaps: NDArray[np.int64]
    settings: EngineSettings
    logs: Array

    @property
    def n_runs(self) -> int:
        """Number of runs."""
        return self.times.shape[0]

    @property
    def n_requests(self) -> int:
        """Requests in each run."""
        return self.times.shape[2]

    @property
    def arrival_ms(self) -> Array:
        """Arrival of each request, shape (run, request)."""
        return self.times[:, kernel.ARRIVAL]

    @property
    def finish_ms(self) -> Array:
        """When the last token left, shape (run, request); infinite for who left unserved."""
        return self._since(kernel.FINISH, 0.0)

    @property
    def queue_ms(self) -> Array:
        """Time until a request ran for the first time, shape (run, request).

        Infinite for requests that never ran here, those of a fallback server included.
        """
        return self._since(kernel.SCHEDULED, self.arrival_ms)

    @property
    def ttft_ms(self) -> Array:
        """Time to the first token, shape (run, request)."""
        return self._since(kernel.FIRST, self.arrival_ms)

    @property
    def e2e_ms(self) -> Array:
        """Time to the last token, shape (run, request)."""
        return self._since(kernel.FINISH, self.arrival_ms)

    @cached_property
    def tpot_ms(self) -> Array:
        """(last - first token) / (output tokens - 1), shape (run, request).

        NaN for requests of one token, which have none.
        """
        first = self._since(kernel.FIRST, 0.0)
        with np.errstate(invalid="ignore", divide="ignore"):
            tpot = (self.finish_ms - first) / (self.output_tokens - 1)
        return np.where(self.output_tokens > 1, np.where(np.isinf(first), np.inf, tpot), np.nan)

    @property
    def overflowed(self) -> NDArray[np.bool_]:
        """Which requests left because they had waited too long, shape (run, request)."""
        return np.isfinite(self.times[:, kernel.OVERFLOWED])

    def _since(self, row: int, start: Any) -> Array:
        """Time of an event since `start`; infinite where it never came."""
        event = self.times[:, row]
        return np.where(np.isnan(event), np.inf, event - start)

    def metric(self, name: str) -> Array:
        """One of `METRICS`, shape (run, request).

        Raises
        ------
        InputError
            For another name.
        """
        if name not in METRICS:
            raise InputError(f"got metric {name!r}, expected one of {', '.join(METRICS)}")
        values: Array = getattr(self, name)
        return values

    def percentile(self, name: str, q: ArrayLike, *, credible: float = 0.9) -> Estimate:
        """Percentile of a metric over requests.

        Parameters
        ----------
        name : str
            One of `METRICS`.
        q : array
            Probabilities in (0, 1).
        credible : float
            Mass of the interval over runs.

        Returns
        -------
        Estimate
            In milliseconds, of the shape of `q`: median and spread over runs of each run's own
            percentile; NaN where no request has the metric.
        """
        values, level = self.metric(name), np.asarray(q, dtype=float)
        values = values[:, ~np.isnan(values).all(axis=0)]
        if values.shape[1] == 0:
            return estimate(
                np.full(level.shape, np.nan), np.full((1, *level.shape), np.nan), credible
            )
        # A percentile between two requests is not interpolated: one of them may be infinite.
        own = np.moveaxis(np.quantile(values, level, axis=1, method="inverted_cdf"), -1, 0)
        return _estimate(np.quantile(own, 0.5, axis=0, method="inverted_cdf"), own, credible)

    def percentile_per_run(self, name: str, q: float) -> Array:
        """`percentile` of each run, shape (run,)."""
        check_probability("q", q)
        values = self.metric(name)
        values = values[:, ~np.isnan(values).all(axis=0)]
        if values.shape[1] == 0:
            return np.full(self.n_runs, np.nan)
        own: Array = np.quantile(values, q, axis=1, method="inverted_cdf")
        return own

    def gap_percentile(self, q: float, *, credible: float = 0.9) -> Estimate:
        """Percentile of the gap between successive tokens of a request, in milliseconds.

        From a histogram: exact to one per cent. What stalls the decodes, such as the prefill of
        another request, is in it, while `tpot_ms` averages over a request.
        """
        own = self.gap_percentile_per_run(q)
        return _estimate(np.median(own), own, credible)

    def gap_percentile_per_run(self, q: float) -> Array:
        """`gap_percentile` of each run, shape (run,); NaN without any gap."""
        check_probability("q", q)
        return np.array([_cell_ms(counts, q) for counts in self.gaps])

    def attainment(
        self,
        *,
        ttft_ms: float = np.inf,
        tpot_ms: float = np.inf,
        e2e_ms: float = np.inf,
        credible: float = 0.9,
    ) -> Estimate:
        """Share of requests that meet every objective.

        Parameters
        ----------
        ttft_ms, tpot_ms, e2e_ms : float
            Limits; a request of one token has no time per further token and meets any.
        credible : float
            Mass of the interval over runs.
        """
        own = self.attainment_per_run(ttft_ms=ttft_ms, tpot_ms=tpot_ms, e2e_ms=e2e_ms)
        return _estimate(np.median(own), own, credible)

    def attainment_per_run(
        self, *, ttft_ms: float = np.inf, tpot_ms: float = np.inf, e2e_ms: float = np.inf
    ) -> Array:
        """`attainment` of each run, shape (run,)."""
        for name, limit in (("ttft_ms", ttft_ms), ("tpot_ms", tpot_ms), ("e2e_ms", e2e_ms)):
            if not limit > 0.0:
                raise InputError(f"got {name}={limit}, expected positive milliseconds")
        met = (self.ttft_ms <= ttft_ms) & (self.e2e_ms <= e2e_ms) & np.isfinite(self.e2e_ms)
        return (met & ~(self.tpot_ms > tpot_ms)).mean(axis=1)

    def goodput(
        self,
        *,
        ttft_ms: float = np.inf,
        tpot_ms: float = np.inf,
        e2e_ms: float = np.inf,
        credible: float = 0.9,
    ) -> Estimate:
        """Requests a second that meet every objective, from the first arrival to the last token.

        Arguments as in `attainment`.
        """
        own = self.goodput_per_run(ttft_ms=ttft_ms, tpot_ms=tpot_ms, e2e_ms=e2e_ms)
        return _estimate(np.median(own), own, credible)

    def goodput_per_run(self, **limits: float) -> Array:
        """`goodput` of each run, shape (run,)."""
        return self.attainment_per_run(**limits) * self.n_requests / self.duration_s

    @property
    def duration_s(self) -> Array:
        """Seconds from the first arrival to the last token, shape (run,)."""
        served = np.where(np.isfinite(self.finish_ms), self.finish_ms, self.arrival_ms)
        return np.maximum(served.max(axis=1) - self.arrival_ms.min(axis=1), 1e-9) / 1e3

    def throughput(self, *, credible: float = 0.9) -> Estimate:
        """Output tokens a second over the whole run."""
        own = self.throughput_per_run()
        return _estimate(np.median(own), own, credible)

    def throughput_per_run(self) -> Array:
        """`throughput` of each run, shape (run,)."""
        served = np.where(np.isfinite(self.e2e_ms), self.output_tokens, 0).sum(axis=1)
        return np.asarray(served / self.duration_s)

    def total(self, name: str, *, credible: float = 0.9) -> Estimate:
        """One of `bayeslat.engine.kernel.TOTALS`."""
        own = self.total_per_run(name)
        return _estimate(np.median(own), own, credible)

    def total_per_run(self, name: str) -> Array:
        """`total` of each run, shape (run,)."""
        return self.totals[:, kernel.TOTALS.index(name)]

    def over_sla(self, of: str = "all", *, credible: float = 0.9) -> Estimate:
        """Share of the steps over the limit that `simulate_engine` was given.

        The value is the mean over runs: the probability that a step of a run whose parameters are
        not known is over the limit.

        Parameters
        ----------
        of : {"all", "decodes", "chosen"}
            Of all steps, of those with at least one decode, or of those in which the scheduler had
            a choice: a request that does not fit alone is served all the same.
        credible : float
            Mass of the interval over runs.
        """
        own = self.over_sla_per_run(of)
        known = own[~np.isnan(own)]
        if known.size == 0:
            return Estimate(np.nan, np.nan, np.nan)
        return _estimate(known.mean(), known, credible)

    def over_sla_per_run(self, of: str = "all") -> Array:
        """`over_sla` of each run, shape (run,); NaN without such steps or without a limit.

        Raises
        ------
        InputError
            Another word for `of`.
        """
        if of not in SHARES:
            raise InputError(f"got of={of!r}, expected one of {', '.join(SHARES)}")
        over, steps, less, fewer = (
            self.totals[:, kernel.TOTALS.index(name)] if name else 0.0 for name in SHARES[of]
        )
        with np.errstate(invalid="ignore"):
            return np.asarray((over - less) / (steps - fewer))

    def kv_use(self, *, credible: float = 0.9) -> Estimate:
        """Share of the KV cache in use, averaged over the busy time; NaN where it has no end."""
        own = np.full(self.n_runs, np.nan)
        if self.settings.kv_capacity_tokens is not None:
            own = self._mean_over_time("kv_block_ms") / self.settings.capacity_blocks
        return _estimate(np.median(own), own, credible)

    def running(self, *, credible: float = 0.9) -> Estimate:
        """Requests that run, averaged over the busy time."""
        own = self._mean_over_time("running_ms")
        return _estimate(np.median(own), own, credible)

    def _mean_over_time(self, name: str) -> Array:
        busy = self.totals[:, kernel.TOTALS.index("busy_ms")]
        return self.totals[:, kernel.TOTALS.index(name)] / np.maximum(busy, 1e-9)

    def select(self, where: Any) -> Self:
        """Records of some requests only (a mask or indices), for percentiles; totals stay."""
        return replace(
            self,
            prompt_tokens=self.prompt_tokens[:, where],
            output_tokens=self.output_tokens[:, where],
            times=self.times[:, :, where],
        )

    def summary(self, *, credible: float = 0.9) -> pd.DataFrame:
        """Percentiles of every metric: one row each, with value, lower and upper in ms."""
        rows = [
            {
                "metric": name,
                "percentile": label,
                **self.percentile(name, q, credible=credible)._asdict(),
            }
            for name in METRICS
            for label, q in PERCENTILES.items()
        ]
        return pd.DataFrame(rows)

    def by_length(
        self,
        *,
        edges: Sequence[int] = LENGTH_EDGES,
        of: str = "prompt_tokens",
        credible: float = 0.9,
    ) -> pd.DataFrame:
        """Percentiles by length of prompt or output.

        Parameters
        ----------
        edges : sequence of int
            Where a bucket ends and the next begins.
        of : {"prompt_tokens", "output_tokens"}
            What the buckets are of; runs must share their requests.
        credible : float
            Mass of the intervals.

        Returns
        -------
        DataFrame
            Columns ``bucket``, ``n`` and those of `summary`; without buckets that have no request.
        """
        lengths = getattr(self, of)
        if (lengths != lengths[:1]).any():
            raise InputError(
                "got runs with different requests, expected the same in every run; simulate one"
                " workload"
            )
        bounds = [0, *edges, np.inf]
        tables = []
        for low, high in itertools.pairwise(bounds):
            inside = (lengths[0] >= low) & (lengths[0] < high)
            if inside.any():
                table = self.select(inside).summary(credible=credible)
                table.insert(0, "n", int(inside.sum()))
                table.insert(0, "bucket", _bucket(low, high))
                tables.append(table)
        return pd.concat(tables, ignore_index=True)

    def step_log(self, run: int = 0) -> pd.DataFrame:
        """The steps of a run that were kept: start, B, S, C and latency."""
        log = self.logs[run]
        return pd.DataFrame(log[:, ~np.isnan(log[0])].T, columns=list(LOG_COLUMNS))


def _estimate(value: Any, own: Array, credible: float) -> Estimate:
    """Value and spread over runs, axis 0, where infinities are allowed."""
    check_probability("credible", credible)
    if np.isfinite(own).all():
        return estimate(value, own, credible)
    tail = 0.5 * (1.0 - credible)
    lower, upper = np.quantile(own, [tail, 1.0 - tail], axis=0, method="inverted_cdf")
    return Estimate(value, lower, upper)


def _cell_ms(counts: NDArray[np.int64], q: float) -> float:
    """Middle of the histogram's cell that holds the quantile; NaN without any gap."""
    total = counts.sum()
    if total == 0:
        return np.nan
    cell = int(np.searchsorted(np.cumsum(counts), q * total))
    return float(kernel.FIRST_GAP_MS * np.exp((cell - 0.5) / kernel.GAPS_PER_E_FOLD))


def _bucket(low: float, high: float) -> str:
    if high == np.inf:
        return f">= {low:g}"
    return f"{low:g} to {high - 1:g}" if low else f"< {high:g}"
