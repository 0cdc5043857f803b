"""Rolling figures against brute force, and intervals that hold what they promise."""

import numpy as np
import pytest
from made_scores import scores
from scipy import stats

from bayeslat.errors import InputError
from bayeslat.online.files import decode, encode
from bayeslat.online.monitor import CREDIBLE, ROWS_KEPT, Monitor, parameter_drift, share
from bayeslat.predictive.estimate import Estimate


def test_figures_are_those_of_the_last_rows() -> None:
    rows = scores(2500, 1)
    monitor = Monitor.empty()
    for start in range(0, 2500, 130):
        monitor = monitor.update(rows[start : start + 130])
    last = rows[-ROWS_KEPT:]
    error = np.abs(last.predicted_ms / last.latency_ms - 1.0)
    assert (monitor.n, monitor.n_seen) == (ROWS_KEPT, 2500)
    assert monitor.mean_error.value == pytest.approx(error.mean())
    assert monitor.p95_error.value == pytest.approx(np.quantile(error, 0.95))
    assert monitor.p99_error.value == pytest.approx(np.quantile(error, 0.99))
    within = (last.pit >= 0.05) & (last.pit <= 0.95)
    assert monitor.coverage_90.value == within.mean()
    assert monitor.coverage_50.value == ((last.pit >= 0.25) & (last.pit <= 0.75)).mean()
    assert monitor.exceedance_p99.value == (last.pit > 0.99).mean()
    assert monitor.mean_log_score.value == pytest.approx(last.log_score.mean())


def test_blocks_do_not_matter() -> None:
    rows = scores(1700, 2)
    whole = Monitor.empty().update(rows)
    pieces = Monitor.empty()
    for start in range(0, 1700, 7):
        pieces = pieces.update(rows[start : start + 7])
    assert encode(whole) == encode(pieces)


def test_a_monitor_is_never_changed_in_place() -> None:
    first = Monitor.empty().update(scores(50, 3))
    before = encode(first)
    first.update(scores(2000, 4)).counted(accepted=1)
    assert encode(first) == before


def test_updates_are_counted() -> None:
    monitor = Monitor.empty().counted(accepted=2).counted(rejected=1).counted(accepted=1)
    assert (monitor.accepted, monitor.rejected) == (3, 1)
    assert monitor.failed_updates.value == 0.25


def test_a_monitor_is_saved() -> None:
    monitor = Monitor.empty().update(scores(70, 5)).counted(rejected=2)
    found = decode(encode(monitor), "here")
    assert encode(found) == encode(monitor)
    assert found.mean_error == monitor.mean_error


def test_without_rows_nothing_is_said() -> None:
    monitor = Monitor.empty()
    assert monitor.n == 0
    assert np.isnan(monitor.mean_error.value) and np.isnan(monitor.p99_error.value)
    assert monitor.coverage_90[1:] == (0.0, 1.0)
    assert np.isnan(monitor.failed_updates.value)


def test_one_row_has_no_interval() -> None:
    monitor = Monitor.empty().update(scores(1, 6))
    assert monitor.mean_error[1:] == (-np.inf, np.inf)
    assert monitor.p99_error.upper == np.inf


@pytest.mark.parametrize(("count", "n"), [(0, 10), (10, 10), (3, 40), (9, 1000)])
def test_a_share_has_the_interval_of_jeffreys(count: int, n: int) -> None:
    found = share(count, n)
    tail = (1.0 - CREDIBLE) / 2.0
    expected = stats.beta(count + 0.5, n - count + 0.5).ppf([tail, 1.0 - tail])
    assert found.value == count / n
    assert found.lower == (pytest.approx(expected[0]) if count else 0.0)
    assert found.upper == (pytest.approx(expected[1]) if count < n else 1.0)


FIGURES = {
    "mean_error": "mean",
    "p95_error": 0.95,
    "p99_error": 0.99,
    "coverage_90": 0.9,
    "coverage_50": 0.5,
    "exceedance_p99": 0.01,
}


@pytest.mark.parametrize("name", FIGURES)
def test_intervals_hold_the_truth_as_often_as_they_say(name: str) -> None:
    """Shares and quantiles are discrete, so that their intervals hold rather more."""
    error = np.abs(1.0 / np.exp(0.05 * np.random.default_rng([9, 1]).normal(size=2_000_000)) - 1.0)
    truth = {
        "mean_error": error.mean(),
        "p95_error": np.quantile(error, 0.95),
        "p99_error": np.quantile(error, 0.99),
    }.get(name, FIGURES[name])
    n_runs = 400
    held = 0
    for run in range(n_runs):
        found: Estimate = getattr(Monitor.empty().update(scores(500, 100 + run)), name)
        held += found.lower <= truth <= found.upper
    margin = 4.0 * np.sqrt(CREDIBLE * (1.0 - CREDIBLE) / n_runs)
    assert CREDIBLE - margin < held / n_runs < CREDIBLE + margin


def test_a_slower_deployment_shows_in_every_figure() -> None:
    good = Monitor.empty().update(scores(1000, 7))
    slow = Monitor.empty().update(scores(1000, 7, slower=1.15))
    assert slow.mean_error.lower > good.mean_error.upper
    assert slow.coverage_90.upper < good.coverage_90.lower
    assert slow.exceedance_p99.lower > good.exceedance_p99.upper
    assert slow.mean_log_score.upper < good.mean_log_score.lower


def test_parameter_drift_is_a_mean_log_ratio() -> None:
    base = np.array([5.0, 20.0, 80.0])
    assert parameter_drift(base, base) == 0.0
    assert parameter_drift(1.15 * base, base) == pytest.approx(np.log(1.15))
    assert parameter_drift(base * [1.1, 1 / 1.1, 1.0], base) == pytest.approx(2 * np.log(1.1) / 3)


@pytest.mark.parametrize(
    ("now", "base"), [([], []), ([1.0], [1.0, 2.0]), ([0.0], [1.0]), ([1.0], [np.nan])]
)
def test_latencies_that_cannot_be_compared_are_refused(now: list[float], base: list[float]) -> None:
    with pytest.raises(InputError, match=r"^got latencies .*expected"):
        parameter_drift(now, base)
