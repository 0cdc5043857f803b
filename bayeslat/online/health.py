"""Whether a deployment's predictions can be relied on: one verdict with its reasons."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from scipy import stats

from bayeslat.online.monitor import ROWS_KEPT, Monitor

__all__ = [
    "COVERAGE_RANGE",
    "ERROR_LIMIT",
    "FAILED_LIMIT",
    "PARAMETER_LIMIT",
    "Degradation",
    "Health",
    "degradation",
    "health",
]

type Verdict = Literal["healthy", "degraded", "failing", "too few rows"]

ERROR_LIMIT: Final = 0.15
"""Mean relative error above which predictions fail."""

PARAMETER_LIMIT: Final = 0.1
"""Mean |log| of predicted latencies now against at the base."""

FAILED_LIMIT: Final = 0.05
"""Share of updates that may be rejected."""

COVERAGE_RANGE: Final = 0.85, 0.95
"""Where the coverage of the central 90 % interval should lie."""

MIN_ROWS: Final = 100
"""Fewer rows than these say nothing."""

LEVEL: Final = 0.05
"""Probability that degradation is ever found as long as there is none."""

LOOK: Final = 100
"""Errors are compared after each so many rows."""

RECENT: Final = 200
"""Rows that are compared with those before them."""


@dataclass(frozen=True)
class Degradation:
    """Recent errors against earlier ones.

    Parameters
    ----------
    p_value : float
        Of "recent errors are no larger"; 1 where there are too few rows to compare.
    threshold : float
        What the p-value must be below at this look.
    """

    p_value: float
    threshold: float

    @property
    def found(self) -> bool:
        """Whether recent errors are larger."""
        return self.p_value < self.threshold


@dataclass(frozen=True)
class Health:
    """A verdict on one deployment.

    Parameters
    ----------
    verdict : {"healthy", "degraded", "failing", "too few rows"}
        "failing" is an error above its limit, "degraded" any other reason.
    reasons : tuple of str
        One sentence each; none where it is healthy.
    """

    verdict: Verdict
    reasons: tuple[str, ...] = ()


def health(monitor: Monitor, *, parameter_drift: float | None = None) -> Health:
    """Judge a deployment by its last rows and its updates.

    A limit counts as broken only where the whole interval of a figure lies beyond it, so that a
    few rows or a single rejected update are no verdict.

    Parameters
    ----------
    monitor : Monitor
        Of the deployment.
    parameter_drift : float, optional
        From `bayeslat.online.monitor.parameter_drift`; not judged where not given.
    """
    if monitor.n < MIN_ROWS:
        text = f"{monitor.n} rows were seen, and fewer than {MIN_ROWS} say nothing."
        return Health("too few rows", (text,))
    failures, warnings = tuple(_failures(monitor)), tuple(_warnings(monitor, parameter_drift))
    if failures:
        return Health("failing", failures + warnings)
    return Health("degraded", warnings) if warnings else Health("healthy")


def _failures(monitor: Monitor) -> Iterator[str]:
    error = monitor.mean_error
    if error.lower > ERROR_LIMIT:
        yield (
            f"The mean relative error of the last {monitor.n} rows is {_percent(error.value)},"
            f" above {_percent(ERROR_LIMIT)}."
        )


def _warnings(monitor: Monitor, drift: float | None) -> Iterator[str]:
    coverage, failed, compared = monitor.coverage_90, monitor.failed_updates, degradation(monitor)
    if coverage.upper < COVERAGE_RANGE[0] or coverage.lower > COVERAGE_RANGE[1]:
        yield (
            f"The 90 % interval holds {_percent(coverage.value)} of the last {monitor.n} rows,"
            f" outside {_percent(COVERAGE_RANGE[0])} to {_percent(COVERAGE_RANGE[1])}."
        )
    if compared.found:
        yield (
            f"The last {RECENT} errors are larger than those before them (p ="
            f" {compared.p_value:.1g})."
        )
    if failed.lower > FAILED_LIMIT:
        yield (
            f"{monitor.rejected} of {monitor.accepted + monitor.rejected} updates were rejected,"
            f" more than {_percent(FAILED_LIMIT)}."
        )
    if drift is not None and drift > PARAMETER_LIMIT:
        yield (
            f"Predicted latencies lie {_percent(drift)} from those of the base posterior, more than"
            f" {_percent(PARAMETER_LIMIT)}; a fit of the whole fleet is due."
        )


def degradation(monitor: Monitor) -> Degradation:
    """One-sided Mann-Whitney test of recent errors against earlier ones, at repeated looks.

    Rows are compared once after each hundred, and look i may use alpha / (i (i + 1)) of the error
    probability alpha. The shares sum to alpha, so that over all looks, however many, a false alarm
    has at most that probability where rows are independent. Errors must have grown on two scales,
    relative to the latency and relative to what was predicted of them: steps of another size have
    other relative errors without anything having become worse.

    Parameters
    ----------
    monitor : Monitor
        Of one deployment.
    """
    # Between two looks the last rows are left out: a look is one test and not a hundred.
    end = monitor.n - monitor.n_seen % LOOK
    start = max(end - (ROWS_KEPT - LOOK), 0)
    look = monitor.n_seen // LOOK - 2 * RECENT // LOOK + 1
    if end - start < 2 * RECENT or look < 1:
        return Degradation(1.0, LEVEL)
    scales = monitor.relative_error[start:end], np.abs(monitor.pit[start:end] - 0.5)
    p_values = [
        stats.mannwhitneyu(
            errors[-RECENT:], errors[:-RECENT], alternative="greater", method="asymptotic"
        ).pvalue
        for errors in scales
    ]
    return Degradation(float(max(p_values)), LEVEL / (look * (look + 1)))


def _percent(value: float) -> str:
    return f"{100.0 * value:.3g} %"
