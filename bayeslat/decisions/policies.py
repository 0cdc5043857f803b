"""Ways of batching before one server, compared over a range of loads.

Requests are equal and arrive as a Poisson stream, or at recorded times stretched to each load. All
policies and loads see the same arrivals, the same posterior draws and the same noise, by event
simulation (`bayeslat.queueing.simulate_bulk`); closed forms check it in the tests. Draws in which a
policy is unstable count as infinite.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from os import cpu_count
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bayeslat import queueing
from bayeslat.decisions.arguments import check_count
from bayeslat.decisions.services import BatchService
from bayeslat.engine import Workload
from bayeslat.errors import InputError
from bayeslat.predictive import Estimate
from bayeslat.predictive.estimate import check_probability

__all__ = ["Fallback", "Policy", "PolicyComparison", "compare_policies", "standard_policies"]

type Array = NDArray[np.float64]

N_REQUESTS: Final = 20_000
WARM_UP: Final = 0.1
"""Share of the requests, the first to arrive, that percentiles leave out: the queue was empty."""

FEWEST_OVERFLOWS: Final = 1_000
"""Overflows from which a p99 of theirs is known well enough to be compared."""

PERCENTILES: Final = {"p50": 0.5, "p99": 0.99}


@dataclass(frozen=True)
class Fallback:
    """A server that takes requests which have waited too long.

    Parameters
    ----------
    cut_ms : float
        Wait after which a request leaves for it.
    service_ms : float
        Mean of its exponential service.
    """

    cut_ms: float
    service_ms: float

    def __post_init__(self) -> None:
        if not (0.0 <= self.cut_ms < np.inf and 0.0 < self.service_ms < np.inf):
            raise InputError(
                f"got Fallback(cut_ms={self.cut_ms}, service_ms={self.service_ms}), expected a cut"
                " of at least 0 ms and a positive service time"
            )


@dataclass(frozen=True)
class Policy:
    """How requests are put into batches.

    Parameters
    ----------
    name : str
        For tables.
    max_batch : int
        Most requests of a batch.
    min_batch : int
        Requests that a free server waits for.
    max_wait_ms : float
        Time since the oldest waiting request came after which it starts with fewer.
    fallback : Fallback, optional
        Where requests go that have waited too long.
    """

    name: str
    max_batch: int = 1
    min_batch: int = 1
    max_wait_ms: float = np.inf
    fallback: Fallback | None = None

    def __post_init__(self) -> None:
        check_count("min_batch", self.min_batch, at_least=1)
        if check_count("max_batch", self.max_batch, at_least=1) < self.min_batch:
            raise InputError(
                f"got batches of {self.min_batch} to {self.max_batch}, expected 1 <= min_batch <="
                " max_batch; correct the policy"
            )
        if not self.max_wait_ms >= 0.0:
            raise InputError(f"got max_wait_ms={self.max_wait_ms}, expected at least 0")


def standard_policies(
    max_batch: int, *, max_wait_ms: float, fallback: Fallback | None = None
) -> tuple[Policy, ...]:
    """One request at a time, full batches, batches of what waits, and the same with a fallback.

    Parameters
    ----------
    max_batch : int
        Most requests of a batch.
    max_wait_ms : float
        How long the dynamic policies wait for a full batch.
    fallback : Fallback, optional
        Without it the last policy is left out.
    """
    dynamic = Policy("dynamic batch", max_batch, max_batch, max_wait_ms)
    policies = [
        Policy("one at a time"),
        Policy(f"fixed batch of {max_batch}", max_batch, max_batch),
        dynamic,
    ]
    if fallback is not None:
        policies.append(replace(dynamic, name="dynamic batch + fallback", fallback=fallback))
    return tuple(policies)


@dataclass(frozen=True, eq=False)
class PolicyComparison:
    """Percentiles of the time from arrival to answer, for each policy, load and draw.

    Parameters
    ----------
    policies : tuple of Policy
        The policies.
    arrivals_per_s : array, shape (load,)
        Loads.
    percentiles : array, shape (policy, load, draw, percentile)
        Milliseconds at `PERCENTILES`; infinite in unstable draws.
    mean_batch : array, shape (policy, load, draw)
        Mean size of the batch that a request is in; one at the fallback.
    overflow : array, shape (policy, load, draw)
        Share of requests that went to the fallback.
    unstable : array of bool, shape (policy, load, draw)
        Whether requests pile up: in the fallback, where there is one, else before the server.
    fallback_bound_holds : array, shape (policy, load, draw)
        One where requests that overflowed kept the p99 that `bayeslat.queueing.fallback_tail_bound`
        promises, zero where they did not (overflow comes in bursts and is no Poisson stream), NaN
        where there is no fallback, or too little overflow to say.
    """

    policies: tuple[Policy, ...]
    arrivals_per_s: Array
    percentiles: Array
    mean_batch: Array
    overflow: Array
    unstable: NDArray[np.bool_]
    fallback_bound_holds: Array

    def percentile(self, policy: int, load: int, name: str, *, credible: float = 0.9) -> Estimate:
        """Median and interval over draws of a percentile (p50 or p99), in milliseconds.

        Parameters
        ----------
        policy, load : int
            Their places in `policies` and `arrivals_per_s`.
        name : str
            One of `PERCENTILES`.
        credible : float
            Mass of the interval.
        """
        check_probability("credible", credible)
        if name not in PERCENTILES:
            raise InputError(f"got percentile {name!r}, expected one of {', '.join(PERCENTILES)}")
        own = self.percentiles[policy, load, :, list(PERCENTILES).index(name)]
        tail = 0.5 * (1.0 - credible)
        levels = [0.5, tail, 1.0 - tail]
        return Estimate(*map(float, np.quantile(own, levels, method="inverted_cdf")))

    def sustained(self, *, unstable: float = 0.05) -> dict[str, float | None]:
        """The load up to which requests do not pile up, by the name of the policy.

        Parameters
        ----------
        unstable : float
            Probability of instability up to which a load counts as sustained.

        Returns
        -------
        dict
            The largest simulated load below which all are sustained; None where none is.
        """
        found: dict[str, float | None] = {}
        for policy, runs in zip(self.policies, self.unstable, strict=True):
            kept = runs.mean(axis=1) <= unstable
            n = kept.size if kept.all() else int(np.argmin(kept))
            found[policy.name] = float(self.arrivals_per_s[n - 1]) if n else None
        return found

    def keeping(self, sla_ms: float, *, credible: float = 0.9) -> dict[str, dict[str, list[float]]]:
        """Loads at which the p99 is within a limit, by the name of the policy.

        Parameters
        ----------
        sla_ms : float
            Limit in milliseconds.
        credible : float
            Mass of the interval whose upper bound has to keep the limit for "surely".

        Returns
        -------
        dict
            For each policy the loads under "likely" (the p99 itself) and "surely" (its upper
            credible bound).
        """
        found = {}
        for p, policy in enumerate(self.policies):
            p99 = [self.percentile(p, i, "p99", credible=credible) for i in range(self.n_loads)]
            bounds = {"likely": [e.value for e in p99], "surely": [e.upper for e in p99]}
            found[policy.name] = {
                key: self.arrivals_per_s[np.array(times) <= sla_ms].tolist()
                for key, times in bounds.items()
            }
        return found

    @property
    def n_loads(self) -> int:
        """Number of loads."""
        return self.arrivals_per_s.size

    def table(self, *, credible: float = 0.9) -> pd.DataFrame:
        """One row for each policy and load, with intervals.

        Columns ``policy``, ``arrivals_per_s``, ``p50_ms`` and ``p99_ms`` with ``_lower`` and
        ``_upper``, ``p_unstable``, ``mean_batch``, ``overflow`` and ``bound_holds``, the share of
        draws in which the fallback's bound held.
        """
        rows = []
        for p, policy in enumerate(self.policies):
            for load, rate in enumerate(self.arrivals_per_s):
                row = {"policy": policy.name, "arrivals_per_s": rate}
                for name in PERCENTILES:
                    value, lower, upper = self.percentile(p, load, name, credible=credible)
                    row |= {
                        f"{name}_ms": value,
                        f"{name}_ms_lower": lower,
                        f"{name}_ms_upper": upper,
                    }
                row["p_unstable"] = self.unstable[p, load].mean()
                row["mean_batch"] = self.mean_batch[p, load].mean()
                row["overflow"] = self.overflow[p, load].mean()
                held = self.fallback_bound_holds[p, load]
                known = held[~np.isnan(held)]
                row["bound_holds"] = known.mean() if known.size else np.nan
                rows.append(row)
        return pd.DataFrame(rows)


def compare_policies(
    service: BatchService,
    policies: Sequence[Policy],
    *,
    arrivals_per_s: Sequence[float],
    arrivals: Workload | None = None,
    n_requests: int = N_REQUESTS,
    seed: int = 0,
) -> PolicyComparison:
    """Simulate every policy at every load, in every draw of the service.

    Parameters
    ----------
    service : BatchService
        Services of batches up to the largest of any policy.
    policies : sequence of Policy
        What to compare; see `standard_policies`.
    arrivals_per_s : sequence of float
        Loads, requests a second.
    arrivals : Workload, optional
        Recorded arrivals, stretched to each load, their lengths left aside; a Poisson stream
        without.
    n_requests : int
        Requests of the Poisson stream.
    seed : int
        Seed of arrivals and services.

    Raises
    ------
    InputError
        Loads that are not positive, no policy, one with larger batches than there are services, or
        fewer requests than two of the largest batches.
    """
    if not policies:
        raise InputError("got no policies, expected at least one; see standard_policies")
    loads = np.atleast_1d(np.asarray(arrivals_per_s, dtype=float))
    if loads.size == 0 or not (np.isfinite(loads) & (loads > 0.0)).all():
        raise InputError(f"got loads {loads.tolist()}, expected positive finite requests a second")
    largest = max(policy.max_batch for policy in policies)
    if largest > service.max_batch:
        raise InputError(
            f"got a policy with batches of {largest} and services of at most {service.max_batch},"
            " expected services of every batch; raise max_batch of batch_service"
        )
    if arrivals is None:
        rng = np.random.default_rng([seed, 0])
        unit = queueing.poisson_arrivals(1.0, n_requests, rng)
    else:
        unit = arrivals.at_rate(1000.0).arrival_ms
    if unit.size < 2 * largest:  # the last of them may wait for ever, the first are a warm-up
        raise InputError(
            f"got {unit.size} requests, expected at least {2 * largest}, two of the largest"
            " batches; simulate more requests"
        )
    tasks = [
        (p, load, draw)
        for p in range(len(policies))
        for load in range(loads.size)
        for draw in range(service.n_draws)
    ]

    def simulate(task: tuple[int, int, int]) -> "_Outcome":
        p, load, draw = task
        rngs = np.random.default_rng([seed, 1, draw]).spawn(2)
        return _simulate(service, draw, policies[p], unit, loads[load] / 1e3, rngs)

    with ThreadPoolExecutor(cpu_count() or 1) as pool:
        found = list(pool.map(simulate, tasks))
    shape = (len(policies), loads.size, service.n_draws)
    columns = [np.array([getattr(one, name) for one in found]) for name in _Outcome.__slots__]
    percentiles, mean_batch, overflow, unstable, holds = columns
    return PolicyComparison(
        tuple(policies),
        loads,
        percentiles.reshape(*shape, len(PERCENTILES)),
        mean_batch.reshape(shape),
        overflow.reshape(shape),
        unstable.reshape(shape),
        holds.reshape(shape),
    )


@dataclass(frozen=True, slots=True)
class _Outcome:
    percentiles: Array
    mean_batch: float
    overflow: float
    unstable: bool
    holds: float


def _simulate(
    service: BatchService,
    draw: int,
    policy: Policy,
    unit: Array,
    per_ms: float,
    rngs: Sequence[np.random.Generator],
) -> _Outcome:
    """One policy at one load in one draw; generators of the services and of the fallback's."""
    fallback = policy.fallback
    slow = None if fallback is None else rngs[1].exponential(fallback.service_ms, unit.size)
    events = queueing.simulate_bulk(
        unit / per_ms,
        service.samples[draw, : policy.max_batch],
        min_batch=policy.min_batch,
        max_wait=policy.max_wait_ms,
        timer="oldest",
        rng=rngs[0],
        cut=np.inf if fallback is None else fallback.cut_ms,
        fallback_services=slow,
    )
    counted = np.isfinite(events.finish)  # a batch that never filled leaves its last requests
    counted[: int(WARM_UP * unit.size)] = False
    times = (events.finish - unit / per_ms)[counted]
    gone = events.overflowed[counted]
    overflow = float(gone.mean())
    unstable = _unstable(service, draw, policy, per_ms, overflow)
    percentiles = np.quantile(times, list(PERCENTILES.values()), method="inverted_cdf")
    return _Outcome(
        np.full(len(PERCENTILES), np.inf) if unstable else percentiles,
        float(events.batch_size[counted].mean()),
        overflow,
        unstable,
        _bound_holds(times[gone], policy, per_ms * overflow),
    )


def _unstable(
    service: BatchService, draw: int, policy: Policy, per_ms: float, overflow: float
) -> bool:
    """Whether requests pile up."""
    if policy.fallback is not None:
        return per_ms * overflow * policy.fallback.service_ms >= 1.0
    # Behind a long queue every batch is full.
    return bool(per_ms * service.mean[draw, policy.max_batch - 1] >= policy.max_batch)


def _bound_holds(times: Array, policy: Policy, per_ms: float) -> float:
    """Whether the fallback kept the p99 that Poisson overflow would give; NaN if not known."""
    fallback = policy.fallback
    if fallback is None or times.size < FEWEST_OVERFLOWS or per_ms * fallback.service_ms >= 1.0:
        return np.nan
    check = queueing.check_fallback_bound(
        times, cut=fallback.cut_ms, arrival_rate=per_ms, service_rate=1.0 / fallback.service_ms
    )
    return float(check.quantile_holds)
